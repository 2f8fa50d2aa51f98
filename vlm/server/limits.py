"""How much one client may ask for: bytes, time to send them, pictures, characters, tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from pydantic import ValidationError
from starlette.types import Message, Receive

from vlm import ImagePart, Question, TextPart
from vlm.errors import (
    ImageTooLargeError,
    OptionError,
    RequestTimeoutError,
    RequestTooLargeError,
    ServiceBusyError,
)
from vlm.options import RunOptions
from vlm.settings import ServeSettings


class Bodies:
    """Reads the bodies of requests before anything is made of them, within the limits on bytes and time."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self.held = 0
        """Bytes of all bodies that are worked on."""

    @asynccontextmanager
    async def read(self, headers: Mapping[str, str], receive: Receive) -> AsyncIterator[bytes | None]:
        """Read a body, which counts as held in the block. Gives None where the client left before its end.

        Raises RequestTooLargeError, RequestTimeoutError, ServiceBusyError.
        """
        length = headers.get("content-length", "")
        self._check(int(length) if length.isdecimal() else 0)
        deadline = time.monotonic() + self._settings.body_timeout_s
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                message = await self._next(receive, deadline)
                if message["type"] == "http.disconnect":
                    yield None
                    return
                chunks.append(chunk := message.get("body", b""))
                size, self.held = size + len(chunk), self.held + len(chunk)
                self._check(size)
                more = message.get("more_body", False)
            yield b"".join(chunks)
        finally:
            self.held -= size

    async def _next(self, receive: Receive, deadline: float) -> Message:
        with anyio.move_on_after(deadline - time.monotonic()):
            return await receive()
        seconds = self._settings.body_timeout_s
        raise RequestTimeoutError(f"The request did not arrive within {seconds:g} s; send it faster.")

    def _check(self, length: int) -> None:
        most = self._settings.max_body_bytes
        if length > most:
            raise RequestTooLargeError(f"A request may have {most} bytes (max_body_bytes); this one has more.")
        if self.held > self._settings.max_held_bytes:
            raise ServiceBusyError("The service has no memory left for this request; ask again later.")


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` first, and then what `receive` gives: the client's leaving."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return left.pop() if left else await receive()

    return next_message


def options(given: Mapping[str, Any], settings: ServeSettings) -> dict[str, Any]:
    """Check a question's options, fields of `vlm.options.RunOptions`. Raises OptionError."""
    try:
        checked = RunOptions(**given).model_dump(include=set(given))
    except ValidationError as exc:
        first = exc.errors()[0]
        known = f" Known: {', '.join(RunOptions.model_fields)}." if first["type"] == "extra_forbidden" else ""
        place = ".".join(str(step) for step in first["loc"])
        raise OptionError(f"Option {place}: {first['msg']}; got {first['input']!r:.100}.{known}") from exc
    most = settings.max_answer_tokens
    if checked.get("max_new_tokens", 0) > most:
        got = checked["max_new_tokens"]
        raise OptionError(f"An answer may have {most} tokens here (max_answer_tokens); got max_new_tokens {got}.")
    return checked


def check(question: Question, settings: ServeSettings) -> None:
    """Check the size of a question. Raises ImageTooLargeError, RequestTooLargeError."""
    images, chars = 0, sum(len(str(tool)) for tool in question.tools)
    for turn in question.turns:
        chars += sum(len(call.to_json()) for call in turn.calls)
        for part in turn.content:
            if isinstance(part, TextPart):
                chars += len(part.text)
            elif isinstance(part, ImagePart):
                images += 1
                check_image(len(part.data), settings)
    if images > settings.max_images:
        raise RequestTooLargeError(
            f"A question may have {settings.max_images} pictures (max_images); this one has {images}."
        )
    if chars > settings.max_prompt_chars:
        raise RequestTooLargeError(
            f"A question and its history may have {settings.max_prompt_chars} characters (max_prompt_chars); these "
            f"have {chars}."
        )


def check_image(size: int, settings: ServeSettings) -> None:
    """Check the bytes of a picture. Raises ImageTooLargeError."""
    if size > settings.max_image_bytes:
        most = settings.max_image_bytes
        raise ImageTooLargeError(f"A picture may have {most} bytes (max_image_bytes); this one has {size} or more.")
