"""One run: what the runtime's callback makes of it, how it is stopped, and the iterator that people read it through.

Three threads meet here. The worker calls `rkllm_run`; the runtime calls back from it or from a thread of its own; the
consumer reads a queue. Asking for an abort has a fourth thread, because `rkllm_abort` may wait, and must not be called
from inside the callback.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlm.errors import RkvlmError, RunError, RunTimeoutError
from vlm.rkllm.abi import Abi, CallbackReturn, CallState, InferMode
from vlm.rkllm.text import StopScanner, Utf8Joiner

FinishReason = Literal["stop", "length", "abort"]

_ABORT_AGAIN_S = (0.05, 1.0)  # an abort that came just before the run began is lost: it is asked for again
_LATE_FINISH_S = 0.5  # a run that returned without a word gets this long for a FINISH from another thread
_FAST_S = 0.002  # tokens that come quicker than this are taken several at a time
_NAP_S = 0.001
_ids = itertools.count(1)


@dataclass(frozen=True)
class Piece:
    """Some text, whole characters, never empty; token_id is the last token that it came from."""

    text: str
    token_id: int


@dataclass(frozen=True)
class Perf:
    """What the runtime measured (1.2.1 and later): times in milliseconds, memory in megabytes."""

    prefill_ms: float
    prefill_tokens: int
    generate_ms: float
    generate_tokens: int
    memory_mb: float


class Run:
    """The state of one run. `on_result` is called by the runtime, `finish` by the worker, the rest by anyone."""

    def __init__(
        self, abi: Abi, *, stop: tuple[str, ...], limit: int, runtime_limit: int, mode: InferMode, timeout: float
    ) -> None:
        self.id = next(_ids)
        self.queue: SimpleQueue[Piece | None] = SimpleQueue()
        self.returned = threading.Event()
        self.done = threading.Event()
        self.ended = threading.Event()
        self.stuck = False
        self.error: RkvlmError | None = None
        self.finish_reason: FinishReason | None = None
        self.perf: Perf | None = None
        self.token_ids: list[int] = []
        self.arrays: list[NDArray[np.float32]] = []
        self.abort: Callable[[], object] = lambda: None
        self.on_return: Callable[[], object] = lambda: None
        self._frees_arrays = abi.frees_arrays
        self._has_perf = abi.has("RKLLMResult", "perf")
        self._limit, self._runtime_limit = limit, runtime_limit
        self._mode = mode
        self._timeout = timeout
        self._joiner, self._scanner = Utf8Joiner(), StopScanner(stop)
        self._asked: FinishReason | None = None
        self._lock = threading.RLock()  # a Generation may be collected, and ask, while this thread holds it
        self._aborter: threading.Thread | None = None
        self._last: tuple[int, bytes] | None = None
        self._failed: str | None = None

    @property
    def stopping(self) -> bool:
        """Whether the end of this run was asked for, or has been told by the runtime."""
        return self._asked is not None or self.ended.is_set()

    # The runtime's side.

    def on_result(self, result: Any, state: int) -> CallbackReturn:
        """Take one callback. Everything is copied out: the result is the runtime's again when this returns.

        Returns what to tell the runtime, which is to go on, and of an array that it may free it now.
        """
        told = CallbackReturn.GO_ON
        content = result.contents if result else None
        text = content.text if content is not None else None
        if state == CallState.ERROR:
            self._failed = "the runtime reported an error" + (f": {text.decode('utf-8', 'replace')}" if text else "")
            self.ended.set()
            return told
        if content is not None and self._mode is not InferMode.GENERATE:
            if self._take_array(content, state) and self._frees_arrays:
                told = CallbackReturn.RELEASE
        elif content is not None and state in (CallState.NORMAL, CallState.WAITING):
            self._take_token(content.token_id, text or b"")
        elif content is not None and text and (content.token_id, text) != self._last:
            self._take_token(content.token_id, text)  # FINISH with a token of its own, not the last one once more
        if state == CallState.FINISH:
            if self._has_perf and content is not None:
                p = content.perf
                self.perf = Perf(
                    p.prefill_time_ms, p.prefill_tokens, p.generate_time_ms, p.generate_tokens, p.memory_usage_mb
                )
            self.ended.set()
        return told

    def fail(self, exc: BaseException, what: str = "Taking a result from the runtime") -> None:
        """Record what went wrong inside a callback, and have the run end; no exception may reach C."""
        error = RunError(f"{what} failed: {type(exc).__name__}: {exc}")
        error.__cause__ = exc
        self.error = self.error or error
        self.ask_abort("abort")

    def _take_token(self, token_id: int, text: bytes) -> None:
        self._last = (token_id, text)
        if self._asked is not None:
            return
        if len(self.token_ids) >= self._limit:  # a runtime that goes on past its own limit
            self.ask_abort("length")
            return
        self.token_ids.append(token_id)
        self._emit(self._scanner.feed(self._joiner.feed(text)))
        if self._scanner.stopped:
            self.ask_abort("stop")
        elif len(self.token_ids) == self._limit < self._runtime_limit:
            self.ask_abort("length")

    def _emit(self, text: str) -> None:
        if text:
            self.queue.put(Piece(text, self.token_ids[-1] if self.token_ids else -1))

    def _take_array(self, content: Any, state: int) -> bool:
        """Copy an array out of a result; whether there was one."""
        if self._mode is InferMode.GET_LOGITS:
            source, pointer, width = content.logits, content.logits.logits, content.logits.vocab_size
        else:
            source = content.last_hidden_layer
            pointer, width = source.hidden_states, source.embd_size
        if not pointer or width <= 0 or source.num_tokens <= 0 or (state == CallState.FINISH and self.arrays):
            return False
        self.arrays.append(np.ctypeslib.as_array(pointer, (source.num_tokens, width)).copy())
        return True

    # The worker's side.

    def finish(self, code: int, describe: Callable[[str], RkvlmError]) -> None:
        """End the stream after `rkllm_run` returned `code`; `describe` makes an error of what went wrong."""
        if code == 0 and self._asked is None and not self.arrays:
            self.ended.wait(_LATE_FINISH_S)
        self._mark_returned()
        if self._asked is None and self.error is None:
            if code != 0:
                self.error = describe(self._failed or f"rkllm_run returned {code}")
            elif self._failed is not None:
                self.error = describe(self._failed)

    def _mark_returned(self) -> None:
        with self._lock:  # waits for an abort that is just being asked for, so that it cannot meet the next run
            self.returned.set()
        if self._aborter is not None:
            self._aborter.join()

    def end_stream(self) -> None:
        """Let the consumer see the end; nothing more of this run is going to happen."""
        self._mark_returned()
        reached: FinishReason = "length" if len(self.token_ids) >= self._limit else "stop"
        reason = self._asked or reached
        if self._asked is None and reached == "stop":  # a character that we cut in two is not shown as a broken one
            self._emit(self._scanner.feed(self._joiner.flush()))
        self._emit(self._scanner.flush())
        if self.error is None:
            self.finish_reason = reason
        try:
            self.on_return()
        finally:
            self.done.set()
            self.queue.put(None)

    # Anyone's side.

    def ask_abort(self, reason: FinishReason) -> None:
        """Ask the runtime to stop this run, from a thread of its own; returns at once. The first reason stays."""
        if self._asked is not None:  # looked at before the lock, which is held while the runtime is being asked
            return
        with self._lock:
            if self._asked is not None or self.ended.is_set() or self.returned.is_set():
                return
            self._asked = reason
            self._aborter = threading.Thread(target=self._keep_asking, name=f"rkllm-abort-{self.id}", daemon=True)
            self._aborter.start()

    def _keep_asking(self) -> None:
        until, (pause, longest) = time.monotonic() + self._timeout, _ABORT_AGAIN_S
        while time.monotonic() < until:
            with self._lock:
                if self.returned.is_set():
                    return
                self.abort()
            if self.returned.wait(pause):
                return
            pause = min(2 * pause, longest)

    def stop(self) -> None:
        """Ask for the end and wait for the run to return. Raises RunTimeoutError when it does not in time."""
        self.ask_abort("abort")
        if self.done.wait(self._timeout):
            return
        self.stuck = True
        self.error = RunTimeoutError(
            f"The run did not return within {self._timeout:g} s after it was asked to stop. This model cannot be used "
            "again in this process: end the process. A long prompt may need a larger stop_timeout_s."
        )
        self.queue.put(None)
        raise self.error


class Generation(Iterator[Piece]):
    """The answer of one run, piece by piece, as it is made.

    Leaving it early, by `close()` or the end of a `with` block, aborts the run and waits for it to return; the model is
    free after that, and after the last piece. What goes wrong in the run is raised by `next()`, after the pieces that
    came before: RunError, RunTimeoutError. Read by one thread; `close()` may be called by another.
    """

    def __init__(self, run: Run, owner: object) -> None:
        self._run = run
        self._owner = owner  # the model stays open for as long as its answer is read
        self._closed = False
        self._raised = False
        self._fast, self._taken = False, 0.0

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Piece:
        if self._closed:
            raise StopIteration
        piece = self._take()
        if piece is not None and not self._closed:
            return piece
        self._run.queue.put(None)  # the end stays the end
        if self._run.error is not None and not self._raised and (self._run.stuck or not self._closed):
            self._raised = True
            raise self._run.error
        raise StopIteration

    def _take(self) -> Piece | None:
        """The next piece. Waking this thread for each token would cost a fast runtime a tenth of its speed: where they
        come quicker than _FAST_S, it naps and then takes all that has come.
        """
        queue = self._run.queue
        if queue.empty() and self._fast:
            time.sleep(_NAP_S)
        piece = queue.get()
        now = time.perf_counter()
        self._fast, self._taken = now - self._taken < _FAST_S, now
        return piece

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Abort the run if it is going on, and wait for it to return. May be called twice.

        Raises RunTimeoutError when it does not return in time; the model is then unusable.
        """
        self._closed = True
        if not self._run.done.is_set() and not self._run.stuck:
            self._run.stop()

    def abort(self) -> None:
        """Ask for the end of the run, from any thread, without waiting for it to return."""
        self._run.ask_abort("abort")

    def __del__(self) -> None:
        run = getattr(self, "_run", None)
        if run is not None and not run.done.is_set():
            run.ask_abort("abort")

    def text(self) -> str:
        """Read to the end, and give the text that was left. Raises what the run raises."""
        return "".join(piece.text for piece in self)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended: the model or a stop string ("stop"), max_new_tokens, or an abort; None until then."""
        return self._run.finish_reason

    @property
    def perf(self) -> Perf | None:
        """What the runtime measured; None before the end, and where it does not say."""
        return self._run.perf

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens so far, those whose text is still incomplete or was cut off as a stop string included."""
        return tuple(self._run.token_ids)
