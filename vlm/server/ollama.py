"""Ollama's protocol: /api/chat, /api/generate, and what clients ask for besides: tags, show, ps, version.

Pictures are base64. Answers are streamed unless told otherwise, one JSON object a line. Durations are in nanoseconds;
what is not known is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import JSONResponse, Response

from vlm import Answer, Question, Reply, TextPart, Thought, Turn, __version__
from vlm.errors import OptionError, RkvlmError
from vlm.server import limits
from vlm.server.bridge import Streamed, begun, whole
from vlm.server.errors import Problem, problem
from vlm.server.images import from_base64
from vlm.server.routes import AnyContentType
from vlm.server.sampling import with_sampling
from vlm.server.service import Service, service_of
from vlm.settings import ServeSettings

router = APIRouter(prefix="/api", tags=["Ollama"], route_class=AnyContentType)

SAME = {"top_k", "repeat_penalty", "presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau"}
SAME |= {"mirostat_eta", "stop"}
"""Options that have the same name here."""
OF_LOADING = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "use_mmap", "use_mlock", "numa"}
OF_LOADING |= {"low_vram", "vocab_only", "f16_kv"}
"""Options of how Ollama loads a model. This one is open already, as the service's owner has it."""


class Options(BaseModel):
    """Ollama's options; those that have the same name here are checked where ours are."""

    model_config = ConfigDict(extra="allow")

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = None
    num_predict: int | None = None
    seed: int | None = None


class Asked(BaseModel):
    """What both kinds of question may say. keep_alive is taken and not used: the model stays open."""

    model_config = ConfigDict(extra="allow")

    model: str
    stream: bool | None = None
    options: Options = Options()
    think: bool | None = None
    keep_alive: str | float | None = None

    @model_validator(mode="after")
    def _known(self) -> Asked:
        for name, value in (self.model_extra or {}).items():
            if value not in (None, False, "", [], {}):
                raise ValueError(f"{name!r:.60} cannot be had here; leave it out")
        return self


class ChatMessage(BaseModel):
    """One message. images: base64, before its text."""

    role: Literal["system", "user", "assistant"]
    content: str = ""
    images: list[str] | None = None


class ChatRequest(Asked):
    """A conversation to be continued; without messages, nothing is asked."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "demo", "messages": [{"role": "user", "content": "What do you know?"}]}}
    )

    messages: list[ChatMessage] = []


class GenerateRequest(Asked):
    """A question, in the model's chat template; without one, nothing is asked."""

    model_config = ConfigDict(json_schema_extra={"example": {"model": "demo", "prompt": "What do you know?"}})

    prompt: str = ""
    system: str = ""
    images: list[str] | None = None


class ShowRequest(BaseModel):
    """Which model to tell about; `name` is what older clients say."""

    model: str | None = None
    name: str | None = None


@router.post("/chat")
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer the last message of a conversation."""
    service = service_of(request)
    name = service.check_model(body.model)
    turns = [turn_of(message.role, message.content, message.images, service.settings) for message in body.messages]

    def shape(text: str, thinking: str) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        return {**_head(name), "message": {"role": "assistant", "content": text, **thought}}

    return await _answer(request, body, turns, shape)


@router.post("/generate")
async def generate(body: GenerateRequest, request: Request) -> Response:
    """Answer a question."""
    service = service_of(request)
    name = service.check_model(body.model)
    turns = [turn_of("system", body.system, None, service.settings)] if body.system else []
    if body.prompt or body.images:
        turns.append(turn_of("user", body.prompt, body.images, service.settings))

    def shape(text: str, thinking: str) -> dict[str, Any]:
        return {**_head(name), "response": text, **({"thinking": thinking} if thinking else {})}

    return await _answer(request, body, turns, shape)


@router.get("/tags")
async def tags(request: Request) -> dict[str, Any]:
    """The model that this service has, alone and with each of its adapters."""
    service = service_of(request)
    return {"models": [_model(service, name) for name in service.names]}


@router.get("/ps")
async def ps(request: Request) -> dict[str, Any]:
    """The model that is open."""
    service = service_of(request)
    return {"models": [{**_model(service, service.model.name), "context_length": service.model.max_context_len}]}


@router.post("/show")
async def show(body: ShowRequest, request: Request) -> dict[str, Any]:
    """What is known of the model."""
    service = service_of(request)
    service.check_model(body.model or body.name or "")
    facts = service.model
    return {
        "details": _details(service),
        "parameters": "\n".join(f"{name} {value}" for name, value in facts.options.items() if name in SAME and value),
        "model_info": {"general.name": facts.name, f"{facts.family}.context_length": facts.max_context_len},
        "capabilities": [
            "completion",
            *(["vision"] if facts.pictures else []),
            *(["thinking"] if facts.thinking else []),
        ],
    }


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of rkvlm."""
    return {"version": __version__}


def turn_of(role: str, content: str, images: list[str] | None, settings: ServeSettings) -> Turn:
    """A message as a turn, its pictures first. Raises ImageError."""
    return Turn(role, (*(from_base64(image, settings) for image in images or ()), TextPart(content)))


def options_of(asked: Options, service: Service) -> dict[str, Any]:
    """Ollama's options in our names. Raises OptionError."""
    given = asked.model_extra or {}
    unknown = given.keys() - SAME - OF_LOADING
    if unknown:
        raise OptionError(f"Option {min(unknown)!r:.60} cannot be had here; leave it out.")
    options = {name: value for name, value in given.items() if name in SAME and value is not None}
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    for name, value in (
        ("temperature", asked.temperature),
        ("top_p", asked.top_p),
        ("max_new_tokens", asked.num_predict),
        ("seed", asked.seed),
    ):
        if value is not None and value >= 0:  # below, any will do: it is left to the model, as if nothing was said
            options[name] = value
    return limits.options(with_sampling(options, service.model.options), service.settings)


def end_of(answer: Answer, began: float) -> dict[str, Any]:
    """The figures of an answer that is over. began: when it was asked, by time.perf_counter."""
    figures = {
        "total_duration": int((time.perf_counter() - began) * 1e9),
        "prompt_eval_count": answer.prompt_tokens,
        "eval_count": answer.tokens,
    }
    if answer.tokens and answer.tokens_per_second:
        figures["eval_duration"] = int(answer.tokens / answer.tokens_per_second * 1e9)
    known = {name: value for name, value in figures.items() if value is not None}
    return {"done": True, "done_reason": answer.finish_reason, **known}


def error_of(problem: Problem) -> dict[str, Any]:
    """An error in Ollama's shape."""
    return {"error": problem.message}


Shape = Callable[[str, str], dict[str, Any]]
"""Makes the object of a text and of a thought, which may be empty."""


async def _answer(request: Request, body: Asked, turns: list[Turn], shape: Shape) -> Response:
    if not turns:
        return JSONResponse({**shape("", ""), "done": True, "done_reason": "load"})
    service, began = service_of(request), time.perf_counter()
    options = options_of(body.options, service) | service.options_for(service.check_model(body.model))
    if body.think is not None:
        options["thinking"] = body.think
    question = Question(tuple(turns), options)
    reply = service.ask(request, question)
    if body.stream is False:
        answer = await whole(request, reply)
        return JSONResponse({**shape(answer.text, answer.reasoning), **end_of(answer, began)})
    told = await begun(request, reply)
    return Streamed(reply, _lines(told, reply, shape, began), "application/x-ndjson")


async def _lines(told: AsyncIterator[list[str]], reply: Reply, shape: Shape, began: float) -> AsyncIterator[bytes]:
    try:
        async for batch in told:
            yield b"".join(_line({**_shaped(shape, piece), "done": False}) for piece in batch)
        yield _line({**shape("", ""), **end_of(reply.answer, began)})
    except RkvlmError as exc:
        yield _line(error_of(problem(exc)))


def _shaped(shape: Shape, piece: str) -> dict[str, Any]:
    return shape("", piece) if isinstance(piece, Thought) else shape(piece, "")


def _line(data: dict[str, Any]) -> bytes:
    return f"{json.dumps(data, ensure_ascii=False)}\n".encode()


def _head(name: str) -> dict[str, Any]:
    return {"model": name, "created_at": datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")}


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"name": f"{name}:latest", "model": f"{name}:latest", "details": _details(service)}


def _details(service: Service) -> dict[str, Any]:
    family = service.model.family
    return {"format": "onnx" if service.model.runtime == "host" else "rkllm", "family": family, "families": [family]}
