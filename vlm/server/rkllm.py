"""The protocol of the vendor's guide: POST /rkllm_chat.

A conversation in; out comes one JSON object or, streamed, one a line (no `data:`) until finish_reason is "stop". Its
demo client shows no text of that last line, so it has none.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from vlm import Answer, Question, Reply, Thought
from vlm.errors import RkvlmError
from vlm.server.bridge import Streamed, begun, whole
from vlm.server.errors import Problem, problem
from vlm.server.openai import ChatMessage, turn_of, usage_of
from vlm.server.routes import AnyContentType
from vlm.server.service import Service, service_of

router = APIRouter(tags=["RKLLM guide"], route_class=AnyContentType)

PLACEHOLDER = "your_model_deploy_with_RKLLM_Server"
"""What the guide's client sends as the model's name; it means whichever there is."""


class RkllmRequest(BaseModel):
    """A conversation. Fields that the guide does not have are passed over, as its server does."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
        }
    )

    model: str = PLACEHOLDER
    messages: list[ChatMessage]
    stream: bool = False
    enable_thinking: bool = False


@router.post("/rkllm_chat")
async def rkllm_chat(body: RkllmRequest, request: Request) -> Response:
    """Answer the last message of a conversation."""
    service = service_of(request)
    name = service.model.name if body.model == PLACEHOLDER else service.check_model(body.model)
    reply = service.ask(request, await question_of(body, service, name))
    if not body.stream:
        return JSONResponse(answer_of(await whole(request, reply), name))
    return Streamed(reply, _lines(await begun(request, reply), reply, name), "text/plain")


async def question_of(body: RkllmRequest, service: Service, name: str) -> Question:
    """The question that a request asks of the model `name`. Raises RequestError, ImageError."""
    options = service.options_for(name) | ({"thinking": True} if body.enable_thinking else {})
    return Question(tuple([await turn_of(message, service) for message in body.messages]), options)


def answer_of(answer: Answer, name: str) -> dict[str, Any]:
    """A complete answer."""
    usage = usage_of(answer) or dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"))
    message = {"role": "assistant", "content": answer.text}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    return {**_object("chat.completion", name, answer.finish_reason, message=message), "usage": usage}


def chunk_of(piece: str, finish: str | None, name: str) -> dict[str, Any]:
    """A piece of an answer, or its end."""
    told = {"content": "", "reasoning_content": piece} if isinstance(piece, Thought) else {"content": piece}
    return _object("chat.completion.chunk", name, finish, delta={"role": "assistant", **told})


def error_of(problem: Problem) -> dict[str, Any]:
    """An error as the guide's server says one."""
    return {"status": "error", "message": problem.message}


async def _lines(told: AsyncIterator[list[str]], reply: Reply, name: str) -> AsyncIterator[bytes]:
    try:
        async for batch in told:
            yield b"".join(_line(chunk_of(piece, None, name)) for piece in batch)
        yield _line(chunk_of("", "stop", name))
    except RkvlmError as exc:
        yield _line(error_of(problem(exc)))


def _line(data: dict[str, Any]) -> bytes:
    return f"{json.dumps(data, ensure_ascii=False)}\n".encode()


def _object(kind: str, name: str, finish: str | None, **content: Any) -> dict[str, Any]:
    choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
    return {"id": "rkllm_chat", "object": kind, "model": name, "choices": [choice]}
