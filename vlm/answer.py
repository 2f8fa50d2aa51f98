"""What comes out: an answer, whole or as it is told."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from vlm.rkllm.model import Generation
from vlm.speech import Speech, Thought, ToolCall


@dataclass(frozen=True)
class Answer:
    """An answer and what it took; `str(answer)` is its text.

    finish_reason: "stop", or "length" when max_new_tokens ended it. encode_ms: decoding, fitting and encoding of the
    pictures, None when they were encoded before or there were none. ttft_ms: from the question to the first text.
    prompt_tokens, tokens, tokens_per_second: as the runtime says, None where its release does not. queue_ms: how long
    the question waited in an engine's queue, before all of these; None where there is none. reasoning: what the model
    thought before, where `thinking` was asked for. tool_calls: functions that it wants called, of those it was offered.
    embedding: of a question that asked for one (see `VLM.embed`); it has no text then.
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
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    embedding: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return self.text


class Stream:
    """An answer as it is told: an iterator over pieces of text, some of which may be `Thought`s.

    Closing it (or leaving it, as a context manager) aborts the run and waits for it to return. `answer` is there once
    it has ended. Errors of the run travel through the iterator.
    """

    def __init__(
        self,
        generation: Generation,
        turn: ExitStack,
        *,
        model: str,
        started: float,
        encode_ms: float | None,
        speech: Speech | None = None,
    ) -> None:
        self._generation, self._turn = generation, turn
        self._speech = speech
        self._sorted: deque[str] = deque()
        self._model, self._started, self._encode_ms = model, started, encode_ms
        self._pieces: list[str] = []
        self._ttft_ms: float | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            piece = self._next()
        except BaseException:  # the end, or an error: either way the run is over, or has to be
            self.close()
            raise
        self._pieces.append(piece)
        return piece

    def _next(self) -> str:
        while not self._sorted:
            try:
                text = next(self._generation).text
            except StopIteration:
                if self._speech is not None:
                    self._sorted += self._speech.flush()
                if not self._sorted:
                    raise
                break
            if self._ttft_ms is None:
                self._ttft_ms = (time.perf_counter() - self._started) * 1e3
            self._sorted += [text] if self._speech is None else self._speech.feed(text)
        return self._sorted.popleft()

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
            text="".join(piece for piece in self._pieces if not isinstance(piece, Thought)),
            model=self._model,
            finish_reason=self._generation.finish_reason or "abort",
            encode_ms=self._encode_ms,
            ttft_ms=self._ttft_ms,
            prompt_tokens=perf.prefill_tokens if perf else None,
            tokens=perf.generate_tokens if perf else None,
            tokens_per_second=rate,
            reasoning="".join(piece for piece in self._pieces if isinstance(piece, Thought)),
            tool_calls=tuple(self._speech.calls) if self._speech else (),
        )

    def finish(self) -> Answer:
        """Read to the end. Returns the whole answer; raises what the run raised."""
        with self:
            for _ in self:
                pass
        return self.answer
