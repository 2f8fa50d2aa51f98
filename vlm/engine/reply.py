"""One answer, on the asker's side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from vlm import Thought
from vlm.engine.messages import Figures

if TYPE_CHECKING:
    from vlm import Answer
    from vlm.errors import RkvlmError


class Reply:
    """An answer as it is told: an iterator over pieces, texts and `Thought`s, a context manager; leaving it cancels.

    Read it by iterating, which waits and raises what ended the answer, or by `listen` and `take`, which do not.
    """

    def __init__(self, cancel: Callable[[Reply], None]) -> None:
        self._cancel = cancel
        self._changed = threading.Condition()
        self._untaken: deque[str] = deque()
        self._told: list[str] = []
        self._position: int | None = None
        self._done = self._closed = False
        self._error: RkvlmError | None = None
        self._figures: Figures | None = None
        self._model = ""
        self._queue_ms: float | None = None
        self._callback: Callable[[], None] | None = None

    # The asker's side: any thread.

    def __iter__(self) -> Reply:
        return self

    def __next__(self) -> str:
        with self._changed:
            while not self._untaken and not self._done:
                self._changed.wait()
            if self._untaken:
                return self._untaken.popleft()
            if self._error is not None:
                raise self._error
            raise StopIteration

    def take(self) -> list[str]:
        """The pieces that wait now, without waiting for more. Raises nothing: look at `done` first, then at `error`."""
        with self._changed:
            taken = list(self._untaken)
            self._untaken.clear()
            return taken

    def listen(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when there is something new: a position, pieces, the end; and once now.

        Later calls come from threads of the engine and must return at once, without waiting for anything.
        """
        with self._changed:
            self._callback = callback
        callback()

    def close(self) -> None:
        """Cancel: out of the queue, or an abort asked for. Does not wait for it. After the end it does nothing."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        self._cancel(self)

    def finish(self) -> Answer:
        """Read to the end. Returns the whole answer; raises what ended it."""
        with self:
            for _ in self:
                pass
        return self.answer

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def position(self) -> int | None:
        """Place in line: 1 is next, 0 is being worked on, None is over."""
        return self._position

    @property
    def done(self) -> bool:
        """Whether nothing more will be told; pieces may wait to be taken."""
        return self._done

    @property
    def error(self) -> RkvlmError | None:
        """What ended the answer, if it was an error."""
        return self._error

    @property
    def answer(self) -> Answer:
        """What was told so far, with its figures once it is over; their times begin when the question left the queue.

        finish_reason is "abort" until the end, and for an answer that was cut off.
        """
        from vlm import Answer

        with self._changed:
            told, figures = list(self._told), self._figures
        return Answer(
            text="".join(piece for piece in told if not isinstance(piece, Thought)),
            model=self._model,
            finish_reason=figures.finish_reason if figures else "abort",
            encode_ms=figures.encode_ms if figures else None,
            ttft_ms=figures.ttft_ms if figures else None,
            prompt_tokens=figures.prompt_tokens if figures else None,
            tokens=figures.tokens if figures else None,
            tokens_per_second=figures.tokens_per_second if figures else None,
            queue_ms=self._queue_ms,
            reasoning="".join(piece for piece in told if isinstance(piece, Thought)),
            tool_calls=figures.tool_calls if figures else (),
            embedding=figures.embedding if figures else None,
        )

    # The engine's side.

    def move(self, position: int) -> bool:
        """Say the place in line; whether it is a new one."""
        moved, self._position = position != self._position, position
        return moved

    def begin(self, model: str, queue_ms: float) -> None:
        """The question has left the queue for the model."""
        self._model, self._queue_ms, self._position = model, queue_ms, 0

    def tell(self, pieces: list[str]) -> None:
        """Add pieces; after the end they are dropped."""
        with self._changed:
            if not self._done:
                self._untaken += pieces
                self._told += pieces
                self._changed.notify_all()

    def end(self, error: RkvlmError | None, figures: Figures | None) -> bool:
        """Nothing more will be told; whether that is new."""
        with self._changed:
            if self._done:
                return False
            self._done, self._position = True, None
            self._error, self._figures = error, figures
            if self._closed:
                self._untaken.clear()
            self._changed.notify_all()
            return True

    def announce(self) -> None:
        """Call the listener, if there is one."""
        if self._callback is not None:
            self._callback()
