"""The log: one JSON object a line on stderr. No question, no answer and no picture is in it unless asked."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from starlette.types import Scope

from vlm import Answer, Question, TextPart

log = logging.getLogger("vlm.server")

WATCHED = ("/healthz", "/readyz", "/metrics")
"""Routes that machines ask all the time."""

FIGURES = ("model", "finish_reason", "encode_ms", "ttft_ms", "prompt_tokens", "tokens", "tokens_per_second", "queue_ms")
"""What is always logged of an answer. Its text, thoughts, calls and embedding tell what was asked, and are not."""
CONTENT = ("reasoning", "tool_calls")
"""What is logged beside question and answer where that is asked for."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON; what is given as `extra={"fields": {...}}` becomes keys of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: str) -> None:
    """Send every logger's records to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def request_done(scope: Scope, status: int, began: float, answer: Answer | None, content: bool) -> None:
    """Log a request that is over. content: with its question and its answer."""
    state = scope.get("state", {})
    fields: dict[str, Any] = {
        "id": state.get("id"),
        "client": (scope.get("client") or ("",))[0],
        "method": scope["method"],
        "route": route_of(scope),
        "status": status,
        "ms": round((time.perf_counter() - began) * 1e3, 1),
        "body_bytes": state.get("body_bytes", 0),
    }
    if answer is not None:
        fields |= {name: getattr(answer, name) for name in FIGURES}
        if content:
            fields |= {"question": _texts(state["question"]), "answer": answer.text}
            fields |= {name: value for name in CONTENT if (value := getattr(answer, name))}
    level = logging.DEBUG if fields["route"] in WATCHED and status < 500 else logging.INFO
    log.log(level, "request", extra={"fields": fields})


def route_of(scope: Scope) -> str:
    """The route that took a request: never what a client wrote, which has no end of values."""
    return str(getattr(scope.get("route"), "path", "none"))


def _texts(question: Question) -> list[dict[str, Any]]:
    return [
        {
            "role": turn.role,
            "text": "".join(part.text for part in turn.content if isinstance(part, TextPart)),
            "images": sum(not isinstance(part, TextPart) for part in turn.content),
        }
        for turn in question.turns
    ]
