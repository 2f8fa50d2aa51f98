"""A running service as the one who answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType

import vlm
from vlm import Answer, ImagePart, Question, RemoteStream, RemoteVLM, TextPart
from vlm.errors import ServiceUnreachableError


class Service:
    """The model of `vlm serve` at an address, asked from several threads: each has a connection of its own.

    A context manager; see `vlm.captions.work.Asker`. Connecting raises what `vlm.connect` does.
    """

    def __init__(self, url: str, api_key: str | None, model: str | None) -> None:
        self._where = {"url": url, "api_key": api_key, "model": model}
        self._mine = threading.local()
        self._lock, self._connections = threading.Lock(), list[RemoteVLM]()

    def ask(self, question: Question) -> ToldByService:
        """Ask; the deadline is the service's own affair. Raises RkvlmError."""
        parts = [part for turn in question.turns for part in turn.content]
        pictures = [part.data for part in parts if isinstance(part, ImagePart)]
        prompt = "".join(part.text for part in parts if isinstance(part, TextPart))
        return ToldByService(self._connection().stream(pictures, prompt, **question.options))

    def _connection(self) -> RemoteVLM:
        if not hasattr(self._mine, "connection"):
            self._mine.connection = vlm.connect(**self._where)  # type: ignore[arg-type]
            with self._lock:
                self._connections.append(self._mine.connection)
        connection: RemoteVLM = self._mine.connection
        return connection

    def __enter__(self) -> Service:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()


class ToldByService:
    """An answer of the service; see `vlm.captions.work.Telling`."""

    position = 0
    """How many wait before it, the service does not say; it counts as being worked on."""

    def __init__(self, stream: RemoteStream) -> None:
        self._stream, self._closed = stream, False

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._stream
        except ServiceUnreachableError:
            if not self._closed:  # else it is ourselves who left
                raise

    @property
    def answer(self) -> Answer:
        """What was told, with its figures once it is over."""
        answer = self._stream.answer
        return replace(answer, queue_ms=answer.queue_ms or 0.0)

    def close(self) -> None:
        """Leave the answer; after the end it does nothing."""
        self._closed = True
        self._stream.close()
