"""What comes out: an answer, whole or as it is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from vlm.rkllm.model import Generation


@dataclass(frozen=True)
class Answer:
    """An answer and what it took; `str(answer)` is its text.

    finish_reason: "stop", or "length" when max_new_tokens ended it. encode_ms: decoding, fitting and encoding of the
    pictures, None when they were encoded before or there were none. ttft_ms: from the question to the first text.
    prompt_tokens, tokens, tokens_per_second: as the runtime says, None where its release does not. queue_ms: how long
    the question waited in an engine's queue, before all of these; None where there is none.
    """

    text: str
    model: str
    finish_reason: str
    encode_ms: float | None
    ttft_ms: float | None
    prompt_tokens: int | None
    tokens: int | None
    tokens_per_second: float | None
    queue_ms: float | None = None

    def __str__(self) -> str:
        return self.text


class Stream:
    """An answer as it is told: an iterator over pieces of text.

    Closing it (or leaving it, as a context manager) aborts the run and waits for it to return. `answer` is there once
    it has ended. Errors of the run travel through the iterator.
    """

    def __init__(
        self, generation: Generation, turn: ExitStack, *, model: str, started: float, encode_ms: float | None
    ) -> None:
        self._generation, self._turn = generation, turn
        self._model, self._started, self._encode_ms = model, started, encode_ms
        self._pieces: list[str] = []
        self._ttft_ms: float | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            piece = next(self._generation)
        except BaseException:  # the end, or an error: either way the run is over, or has to be
            self.close()
            raise
        if self._ttft_ms is None:
            self._ttft_ms = (time.perf_counter() - self._started) * 1e3
        self._pieces.append(piece.text)
        return piece.text

    def close(self) -> None:
        """Abort the run if it goes on, and wait for it to return. May be called twice. Raises RunTimeoutError."""
        with self._turn:
            self._generation.close()

    def abort(self) -> None:
        """Ask for the end, from any thread, without waiting for it: the iterator ends once the run has returned."""
        self._generation.abort()

    def __del__(self) -> None:
        if hasattr(self, "_turn"):
            self.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def answer(self) -> Answer:
        """What was told so far, with its figures once the run has ended."""
        perf = self._generation.perf
        rate = None
        if perf is not None and perf.generate_ms and perf.generate_tokens:
            rate = perf.generate_tokens / perf.generate_ms * 1e3
        return Answer(
            text="".join(self._pieces),
            model=self._model,
            finish_reason=self._generation.finish_reason or "abort",
            encode_ms=self._encode_ms,
            ttft_ms=self._ttft_ms,
            prompt_tokens=perf.prefill_tokens if perf else None,
            tokens=perf.generate_tokens if perf else None,
            tokens_per_second=rate,
        )

    def finish(self) -> Answer:
        """Read to the end. Returns the whole answer; raises what the run raised."""
        with self:
            for _ in self:
                pass
        return self.answer
