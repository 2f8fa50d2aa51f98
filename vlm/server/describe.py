"""Our own protocol: POST /v1/describe, a form with pictures and a question; GET /v1/info for those who ask.

request     multipart/form-data: `image` (files, in order), `prompt`, `history`, the fields of RunOptions, `stream`
answer      JSON: the fields of `vlm.Answer`; or, with stream=true or Accept: text/event-stream, events:
            `queued` {"position"}, `thought` and `token` {"text"}, `done` (the answer), `error` {"error": {"type",
            "message"}}
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.responses import JSONResponse, Response

from vlm import Answer, ImagePart, Question, Reply, TextPart, Thought, Turn
from vlm.errors import OptionError, PromptError, RkvlmError
from vlm.options import DEFAULT_PROMPT, RunOptions
from vlm.server import limits
from vlm.server.bridge import Streamed, news, whole
from vlm.server.errors import Problem, problem
from vlm.server.form import Part, parse
from vlm.server.service import service_of
from vlm.settings import ServeSettings

router = APIRouter(tags=["rkvlm"])


class PastTurn(BaseModel):
    """A turn before the question. images: how many of the pictures belong to it, a user's, in their order."""

    model_config = ConfigDict(extra="forbid")

    role: str
    content: str
    images: int | None = Field(default=None, ge=0)


_history = TypeAdapter(list[PastTurn])

FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "image": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "Pictures."},
        "prompt": {"type": "string", "default": DEFAULT_PROMPT},
        "history": {
            "type": "string",
            "description": 'The turns before, as JSON: [{"role", "content", "images"}]; images says how many of the '
            "pictures belong to a turn. Where no turn says it, all belong to the first question.",
        },
        "stream": {"type": "boolean", "default": False},
        **RunOptions.model_json_schema()["properties"],
    },
    "example": {"prompt": "How many stars are there?", "max_new_tokens": 50},
}


@router.post(
    "/v1/describe",
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}},
)
async def describe(request: Request) -> Response:
    """Answer a question about pictures, whole or as it is told."""
    service = service_of(request)
    form = parse(await request.body(), request.headers.get("content-type", ""))
    question, stream = question_of(form, service.settings), _wants_events(request, form)
    reply = service.ask(request, question)
    if stream:
        return Streamed(reply, _events(reply), "text/event-stream")
    return JSONResponse(answer_of(await whole(request, reply)))


@router.get("/v1/info")
async def info(request: Request) -> dict[str, Any]:
    """What the model is, what may be asked of it, and sample pictures."""
    return service_of(request).info()


def question_of(form: list[Part], settings: ServeSettings) -> Question:
    """The question that a form holds. Raises OptionError, PromptError."""
    given: dict[str, Any] = {}
    texts: dict[str, str] = {}
    pictures: list[ImagePart] = []
    for part in form:
        if part.name == "image":
            if not part.is_file:
                raise OptionError("A picture must be sent as a file; this image is a text.")
            pictures.append(ImagePart(part.data))
        elif part.name in ("prompt", "history"):
            texts[part.name] = _text(part)
        elif part.name == "stop":
            given.setdefault("stop", []).append(_text(part))
        elif part.name != "stream":
            given[part.name] = _text(part)
    turns = _turns(texts.get("history") or "[]", texts.get("prompt", DEFAULT_PROMPT), pictures)
    return Question(tuple(turns), limits.options(given, settings))


def answer_of(answer: Answer) -> dict[str, Any]:
    """An answer as JSON: its fields."""
    return asdict(answer)


def error_of(problem: Problem) -> dict[str, Any]:
    """An error as JSON."""
    return {"error": {"type": problem.kind, "message": problem.message}}


def _turns(history: str, prompt: str, pictures: list[ImagePart]) -> list[Turn]:
    """The conversation, each picture in the turn that it belongs to."""
    try:
        past = _history.validate_json(history)
    except ValidationError as exc:
        raise PromptError(f'history must be a JSON list of {{"role", "content"}}: {exc.errors()[0]["msg"]}.') from exc
    counts = [turn.images or 0 for turn in past]
    if all(turn.images is None for turn in past):
        first = next((index for index, turn in enumerate(past) if turn.role == "user"), len(past))
        counts = [len(pictures) if index == first else 0 for index in range(len(past))]
    if sum(counts) > len(pictures):
        raise PromptError(f"The history speaks of {sum(counts)} pictures; {len(pictures)} were sent.")
    left = iter(pictures)
    turns = [
        Turn(turn.role, (*(next(left) for _ in range(count)), TextPart(turn.content)))
        for turn, count in zip(past, counts, strict=True)
    ]
    return [*turns, Turn("user", (*left, TextPart(prompt)))]


def _text(part: Part) -> str:
    if part.is_file:
        raise OptionError(f"Field {part.name!r:.60} must be a text; it is a file.")
    try:
        return part.data.decode()
    except UnicodeDecodeError as exc:
        raise OptionError(f"Field {part.name!r:.60} is not UTF-8.") from exc


def _wants_events(request: Request, form: list[Part]) -> bool:
    said = [_text(part).lower() for part in form if part.name == "stream"]
    if said and said[-1] not in ("true", "false"):
        raise OptionError(f"stream is true or false; got {said[-1]!r:.40}.")
    return said[-1:] == ["true"] or "text/event-stream" in request.headers.get("accept", "")


async def _events(reply: Reply) -> AsyncIterator[bytes]:
    try:
        async for item in news(reply):
            if isinstance(item, int):
                yield _event("queued", {"position": item})
            else:
                yield b"".join(_event(_kind(piece), {"text": piece}) for piece in item)
        yield _event("done", answer_of(reply.answer))
    except RkvlmError as exc:
        yield _event("error", error_of(problem(exc)))


def _kind(piece: str) -> str:
    return "thought" if isinstance(piece, Thought) else "token"


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
