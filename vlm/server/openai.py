"""OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models. Pictures are image_url parts.

A figure that the runtime does not give is null: `usage` as a whole. What cannot be done is refused in words rather than
left out: several choices, log probabilities. The fields of RunOptions that OpenAI lacks are taken too. What a model
thinks before it answers is `reasoning_content`, as other open services have it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import JSONResponse, Response

from vlm import Answer, ImagePart, Question, Reply, TextPart, Thought, Turn
from vlm.errors import RkvlmError
from vlm.options import Sampling
from vlm.server import limits
from vlm.server.bridge import Streamed, begun, whole
from vlm.server.errors import Problem, problem
from vlm.server.images import from_url
from vlm.server.sampling import with_sampling
from vlm.server.service import Service, service_of
from vlm.server.tools import Called, Tool, call_of, calls_json, in_order, offered

router = APIRouter(tags=["OpenAI"])

IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
"""Fields that say nothing about the answer."""
OURS = {"thinking", "adapter", *Sampling.model_fields} - {
    "top_p",
    "temperature",
    "frequency_penalty",
    "presence_penalty",
}
"""Options that OpenAI has no name for."""
REFUSED = {
    "logit_bias": "Weights of single tokens",
    "functions": "Functions",
    "response_format": "A format of the answer",
    "audio": "Sound",
    "prediction": "A predicted answer",
    "suffix": "A suffix",
    "n": "More than one choice",
    "best_of": "A choice among several answers",
    "logprobs": "Log probabilities",
    "top_logprobs": "Log probabilities",
    "echo": "The question in the answer",
}
"""Fields that would change the answer and are not known here, in words."""

CODES = {"UnauthorizedError": "invalid_api_key", "UnknownModelError": "model_not_found"}
"""Errors that OpenAI has a code for; of others it is the name of the class."""

HARMLESS: tuple[Any, ...] = (None, False, [], {}, {"type": "text"})
"""Values of such fields that ask for nothing."""


class ImageURL(BaseModel):
    """Where a picture is. detail: taken and not used, a model sees every picture at one size."""

    url: str
    detail: str | None = None


class ContentText(BaseModel):
    """A part that is text."""

    type: Literal["text"]
    text: str


class ContentImage(BaseModel):
    """A part that is a picture."""

    type: Literal["image_url"]
    image_url: ImageURL | str


Content = Annotated[ContentText | ContentImage, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One message. Only an assistant's that calls tools may be without content."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Content] | None = None
    name: str | None = None
    tool_calls: list[Called] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> ChatMessage:
        if self.content is None and not self.tool_calls:
            raise ValueError("a message needs content")
        return self


class StreamOptions(BaseModel):
    """What a stream tells besides the answer."""

    include_usage: bool | None = None


class Asked(BaseModel):
    """What both kinds of completion may say."""

    model_config = ConfigDict(extra="allow")

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None

    @model_validator(mode="after")
    def _known(self) -> Asked:
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED | OURS or value in HARMLESS or (name in ("n", "best_of") and value == 1):
                continue
            if name in REFUSED:
                raise ValueError(f"{REFUSED[name]} ({name}) cannot be had here; leave it out")
            raise ValueError(f"there is no field {name!r:.60}")
        return self


class ChatRequest(Asked):
    """A conversation to be continued."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "demo",
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "What do you know?"}]},
                ],
                "max_tokens": 50,
            }
        }
    )

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    reasoning_effort: str | None = None


class CompletionRequest(Asked):
    """A question. It is asked in the model's chat template, as the only message."""

    model_config = ConfigDict(json_schema_extra={"example": {"model": "demo", "prompt": "What do you know?"}})

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer the last message of a conversation."""
    service = service_of(request)
    head = _head("chatcmpl", "chat.completion", service.check_model(body.model))
    return await _answer(request, body, await chat_question(body, service), Chat(head))


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Answer a question."""
    service = service_of(request)
    head = _head("cmpl", "text_completion", service.check_model(body.model))
    prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    question = Question((Turn("user", (TextPart(prompt),)),), _options(body, body.max_tokens, service))
    return await _answer(request, body, question, Text(head))


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The model that this service has, alone and with each of its adapters."""
    service = service_of(request)
    return {"object": "list", "data": [_model(service, name) for name in service.names]}


@router.get("/v1/models/{name}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """The model of that name."""
    service = service_of(request)
    return _model(service, service.check_model(name))


async def chat_question(body: ChatRequest, service: Service) -> Question:
    """The question that a request asks. Raises RequestError, ImageError."""
    turns = [await turn_of(message, service) for message in in_order(body.messages)]
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    options = _options(body, most, service)
    if body.reasoning_effort is not None:
        options.setdefault("thinking", body.reasoning_effort != "none")
    return Question(tuple(turns), options, tools=offered(body.tools, body.tool_choice))


async def turn_of(message: ChatMessage, service: Service) -> Turn:
    """A message as a turn, its pictures read. Raises ImageError, PictureURLError."""
    role = "system" if message.role == "developer" else message.role
    calls = tuple(call_of(called) for called in message.tool_calls or ())
    if isinstance(message.content, str):
        return Turn(role, (TextPart(message.content),), calls)
    parts: list[TextPart | ImagePart] = []
    for part in message.content or ():
        if isinstance(part, ContentText):
            parts.append(TextPart(part.text))
        else:
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            parts.append(await from_url(url, service.settings, service.fetcher))
    return Turn(role, tuple(parts), calls)


def error_of(problem: Problem) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    code = CODES.get(problem.kind, problem.kind)
    return {"error": {"message": problem.message, "type": kind, "param": None, "code": code}}


def usage_of(answer: Answer) -> dict[str, int] | None:
    """The tokens of an answer, None where the runtime does not say."""
    if answer.prompt_tokens is None or answer.tokens is None:
        return None
    total = answer.prompt_tokens + answer.tokens
    return {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.tokens, "total_tokens": total}


class Chat:
    """Answers as chat completions."""

    def __init__(self, head: dict[str, Any]) -> None:
        self._head = head

    def whole(self, answer: Answer) -> dict[str, Any]:
        """A complete answer."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.tool_calls:
            message |= {"content": answer.text or None, "tool_calls": calls_json(answer.tool_calls)}
        return {**self._head, "choices": [_choice(finish_of(answer), message=message)], "usage": usage_of(answer)}

    def chunk(self, piece: str | None, answer: Answer | None = None) -> dict[str, Any]:
        """A piece of an answer, or its end: the whole answer."""
        delta: dict[str, Any] = {}
        if piece is not None:
            delta = {"role": "assistant", "reasoning_content" if isinstance(piece, Thought) else "content": piece}
        elif answer is not None and answer.tool_calls:
            delta = {"role": "assistant", "tool_calls": calls_json(answer.tool_calls, numbered=True)}
        finish = None if answer is None else finish_of(answer)
        return {**self._head, "object": "chat.completion.chunk", "choices": [_choice(finish, delta=delta)]}

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The chunk that tells what a stream took."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(answer)}


class Text(Chat):
    """Answers as text completions."""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """A complete answer."""
        choices = [_choice(answer.finish_reason, text=answer.text)]
        return {**self._head, "choices": choices, "usage": usage_of(answer)}

    def chunk(self, piece: str | None, answer: Answer | None = None) -> dict[str, Any]:
        """A piece of an answer, or its end: the whole answer."""
        finish = None if answer is None else answer.finish_reason
        return {**self._head, "choices": [_choice(finish, text="" if isinstance(piece, Thought) else piece or "")]}

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The chunk that tells what a stream took."""
        return {**self._head, "choices": [], "usage": usage_of(answer)}


async def _answer(request: Request, body: Asked, question: Question, shape: Chat) -> Response:
    reply = service_of(request).ask(request, question)
    if not body.stream:
        return JSONResponse(shape.whole(await whole(request, reply)))
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    told = await begun(request, reply)
    return Streamed(reply, _events(told, reply, shape, with_usage), "text/event-stream")


async def _events(told: AsyncIterator[list[str]], reply: Reply, shape: Chat, with_usage: bool) -> AsyncIterator[bytes]:
    try:
        async for batch in told:
            yield b"".join(_event(shape.chunk(piece)) for piece in batch)
        answer = reply.answer
        end = _event(shape.chunk(None, answer))
        usage = _event(shape.usage(answer)) if with_usage else b""
        yield end + usage + b"data: [DONE]\n\n"
    except RkvlmError as exc:
        yield _event(error_of(problem(exc)))


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _choice(finish: str | None, **content: Any) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish}


def _head(prefix: str, kind: str, name: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def finish_of(answer: Answer) -> str:
    """Why an answer ended, in OpenAI's words."""
    return "tool_calls" if answer.tool_calls else answer.finish_reason


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.started, "owned_by": "rkvlm"}


def _options(body: Asked, most: int | None, service: Service) -> dict[str, Any]:
    """The options that a request gives, in our names. Raises OptionError."""
    named = {
        "max_new_tokens": most,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        "seed": body.seed,
        "stop": [body.stop] if isinstance(body.stop, str) else body.stop,
        **{name: value for name, value in (body.model_extra or {}).items() if name in OURS},
        **service.options_for(service.check_model(body.model)),
    }
    given = {name: value for name, value in named.items() if value is not None}
    return limits.options(with_sampling(given, service.model.options), service.settings)
