"""What a client is told of an error: the status from its class, words that name nothing of this machine.

Only classes whose messages are about the request itself are quoted. What a model, a library or an encoder says may hold
paths: it goes to the log, and the client is told the class's own sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vlm.errors import (
    EncoderError,
    EngineCrashedError,
    EngineDeadlineError,
    EngineFailedError,
    EngineQueueFullError,
    EngineStoppingError,
    ImageError,
    ModelError,
    NotSupportedByRuntime,
    NPUBusyError,
    ProfileError,
    RequestError,
    RkvlmError,
    RunTimeoutError,
    ServiceError,
)

QUOTED = (ImageError, RequestError, NotSupportedByRuntime, ServiceError)
NOT_QUOTED = (ProfileError,)
SENTENCES: dict[type[RkvlmError], str] = {
    EngineQueueFullError: "Too many questions wait already; ask again later.",
    EngineCrashedError: "The model stopped in the middle of this and is started again; ask again.",
    EngineDeadlineError: "The answer was not complete within the time that it may take.",
    EngineFailedError: "The model cannot be used at present; the service's log says why.",
    EngineStoppingError: "The service is being stopped.",
    NPUBusyError: "Another program holds the NPU; ask again later.",
    RunTimeoutError: "The model did not stop when asked to and is started again; ask again.",
    EncoderError: "The picture could not be encoded; the service's log says why.",
    ModelError: "The model failed on this question; the service's log says why.",
    RkvlmError: "Something failed in the service; its log says what.",
}


@dataclass(frozen=True)
class Problem:
    """An error as a client may know it. kind: the name of its class; headers: to send with it."""

    status: int
    kind: str
    message: str
    headers: dict[str, str]


def problem(error: Exception) -> Problem:
    """What a client is told of `error`."""
    if isinstance(error, RkvlmError):
        return Problem(error.http_status, type(error).__name__, _words(error), _headers(error))
    if isinstance(error, RequestValidationError):
        return Problem(400, "RequestError", _first(error), {})
    if isinstance(error, HTTPException):
        words = {404: "There is nothing at this address.", 405: "This address does not take this method."}
        text = words.get(error.status_code, str(error.detail))
        return Problem(error.status_code, "RequestError", text, dict(error.headers or {}))
    return Problem(500, "RkvlmError", SENTENCES[RkvlmError], {})


def _words(error: RkvlmError) -> str:
    if isinstance(error, QUOTED) and not isinstance(error, NOT_QUOTED):
        return str(error)
    return next(SENTENCES[kind] for kind in type(error).__mro__ if kind in SENTENCES)


def _headers(error: RkvlmError) -> dict[str, str]:
    headers = {}
    if (seconds := getattr(error, "retry_after", None)) is not None:
        headers["Retry-After"] = str(seconds)
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _first(error: RequestValidationError) -> str:
    """What is wrong with a body, in one sentence: where, and what was expected.

    Where a field may be of several kinds, each says what it misses: the one that the value comes nearest to counts.
    """
    details = max(error.errors(), key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    steps = map(str, details["loc"])
    place = ".".join(step for step in steps if step not in ("body", "str") and "[" not in step)
    if details["type"] == "json_invalid":
        return f"The body is not JSON: {details['ctx']['error']}."
    if details["type"] == "missing" and not place:
        return "The body is missing; expected JSON."
    message = str(details["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{place}: {message}." if place else f"{message}."
