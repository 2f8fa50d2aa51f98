"""Keeps one model process alive: starts it, gives it questions, ends it when it is stuck or too big, starts another."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from enum import Enum, auto

import msgspec

from vlm import Thought
from vlm.engine.configuration import EngineLimits
from vlm.engine.faults import to_error, to_fault
from vlm.engine.health import State
from vlm.engine.line import Line
from vlm.engine.messages import Begun, CacheFigures, Cancel, Ended, Event, Fault, ModelFacts, Opened, Refused, Told
from vlm.engine.process import ChildProcess, Popen
from vlm.engine.wire import frame
from vlm.errors import EngineCrashedError, EngineFailedError, EngineStoppingError, RkvlmError

_LOOK_AGAIN_S = 1.0  # a process may end without its pipes being closed: something it started holds them

_log = logging.getLogger(__name__)


class Why(Enum):
    """Why a process is to end, or has ended."""

    CRASHED = auto()
    RECYCLED = auto()
    STOPPING = auto()
    REFUSED = auto()


class Supervisor:
    """One thread that owns the model's process. `lock` guards everything here and in `line`."""

    def __init__(self, opening: bytearray, limits: EngineLimits, popen: Popen) -> None:
        self.lock = threading.Condition()
        self.line = Line(limits)
        self.facts: ModelFacts | None = None
        self.failure: Fault | None = None
        self.last_error: str | None = None
        self.restarts = self.recycled = 0
        self.child: ChildProcess | None = None
        self._opening, self._limits, self._popen = opening, limits, popen
        self._cache_before, self._cache_now = CacheFigures(), CacheFigures()
        self._open = self._too_big = False
        self._broken: str | None = None  # why the process has to be ended
        self._refusal: Fault | None = None
        self._stop_at: float | None = None  # until when running answers may go on
        self._wakes_at = 0.0
        self._in_a_row = 0  # restarts without an answer between them
        self._failed_starts = 0
        self._start_s = 0.0
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # Called by the engine, with the lock held.

    @property
    def state(self) -> State:
        """The state, in Health's words."""
        if self._stop_at is not None:
            return "stopping"
        if self.failure is not None:
            return "failed"
        if not self._open:
            return "starting" if self.facts is None else "restarting"
        return "busy" if self.line.sent else "ready"

    @property
    def cache(self) -> CacheFigures:
        """The embedding cache's figures; the counts go on over restarts."""
        before, now = self._cache_before, self._cache_now
        return msgspec.structs.replace(now, hits=before.hits + now.hits, misses=before.misses + now.misses)

    @property
    def retry_after(self) -> int:
        """When a process that is being restarted should be there again, in seconds."""
        return 1 + math.ceil(self._start_s + self._limits.pause_s(self._in_a_row + 1))

    def dispatch(self) -> None:
        """Give the model what it may have; wake the supervisor where a deadline comes before it would look."""
        if self._open and self._stop_at is None and not self._too_big and self.child is not None:
            assert self.facts is not None
            while (job := self.line.pop(self.facts.name)) is not None:
                self.child.send(job.request)
                job.request = bytearray()
        if self.line.next_due() < self._wakes_at:
            self.lock.notify_all()

    def cancel(self, number: int) -> None:
        """Tell the model that nobody wants an answer any more."""
        if self.child is not None:
            self.child.send(frame(Cancel(number)))
        self.lock.notify_all()

    def stop(self, grace_s: float) -> None:
        """End the waiting questions now, and the process when the running ones are over or the grace is."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + grace_s
            self.line.end_all(list(self.line.waiting), stopping)
            self.lock.notify_all()

    # The thread that reads events.

    def _on_events(self, child: ChildProcess, events: list[Event]) -> None:
        with self.lock:
            if self.child not in (None, child):  # what an earlier process had still to say
                return
            for event in events:
                if isinstance(event, Told):
                    pieces: list[str] = [*map(Thought, event.pieces)] if event.thoughts else event.pieces
                    self.line.tell(event.id, pieces)
                elif isinstance(event, Begun) and event.id in self.line.sent:
                    self.line.sent[event.id].begun = True
                elif isinstance(event, Ended):
                    self._on_ended(child, event)
                elif isinstance(event, Opened):
                    child.facts = event.facts
                    self.lock.notify_all()
                elif isinstance(event, Refused):
                    self._refusal = event.fault
                    self.lock.notify_all()
            if child.hung_up:
                self.lock.notify_all()
        self.line.announce()

    def _on_ended(self, child: ChildProcess, event: Ended) -> None:
        if event.fault is None:
            self._in_a_row = 0
        elif event.fatal:
            self._broken = event.fault.text
        self._cache_now = event.cache
        self.line.end(event.id, to_error(event.fault) if event.fault else None, event.figures)
        if self._limits.rss_bytes and child.rss_bytes() > self._limits.rss_bytes:
            self._too_big = True
        self.dispatch()
        if self._too_big or self._broken or self._stop_at is not None:
            self.lock.notify_all()

    # The supervisor's own thread.

    def _run(self) -> None:
        try:
            while self._one_child():
                pass
        except BaseException as exc:  # nobody would be left to answer: say so rather than have them wait
            _log.exception("The supervisor of the model's process failed")
            self._fail(to_error(to_fault(exc)))
        finally:
            if self.child is not None and not self.child.gone:
                self.child.kill()
            self._end_all(stopping, waiting=True)

    def _one_child(self) -> bool:
        """Have one process, from its start to its end; whether there is to be another."""
        with self.lock:
            self._open = self._too_big = False
            self._broken = self._refusal = None
        try:
            child = ChildProcess(self._opening, self._on_events, self._popen)
        except OSError as exc:
            return self._again(Why.CRASHED, f"could not be started: {exc}", opened=False)
        with self.lock:
            self.child = child
        why, text = self._open_model(child) or self._answer(child)
        if not self._bury(child, why, text):
            return False
        return self._again(why, text, opened=child.facts is not None and why is not Why.REFUSED)

    def _open_model(self, child: ChildProcess) -> tuple[Why, str] | None:
        """Wait for the model to be open. Returns what came in between."""
        began, limit = time.monotonic(), self._limits.rss_bytes
        in_time = self._wait(
            lambda: child.facts is not None or child.gone or self._stop_at is not None, self._limits.start_s
        )
        if self._stop_at is not None:
            return Why.STOPPING, "was ended before the model was open"
        if not in_time:
            return Why.CRASHED, f"did not open the model within {self._limits.start_s:g} s and was killed"
        if self._refusal is None and child.facts is not None and 0 < limit < child.rss_bytes():
            self._refusal = _over_limit(child.rss_bytes(), limit)
        if self._refusal is not None:
            return Why.REFUSED, self._refusal.text
        if child.facts is None:
            child.wait(_LOOK_AGAIN_S)
            return Why.CRASHED, f"{child.how_it_ended()} while it opened the model"
        with self.lock:
            self.facts, self._open, self._start_s = child.facts, True, time.monotonic() - began
            self._failed_starts, self.failure = 0, None
            self.lock.notify_all()
            self.dispatch()
        self.line.announce()
        return None

    def _answer(self, child: ChildProcess) -> tuple[Why, str]:
        """Have a process answer until there is a reason to end it."""
        reason: tuple[Why, str] | None = None

        def ended() -> bool:
            nonlocal reason
            reason = self._why_end(child)
            self._open = reason is None
            return not self._open

        self._wait(ended, None)
        assert reason is not None
        why, text = reason
        if not text:
            child.wait(_LOOK_AGAIN_S)  # its pipes are closed a moment before it can be asked how it ended
            text = child.how_it_ended()
        return why, text

    def _why_end(self, child: ChildProcess) -> tuple[Why, str] | None:
        now = time.monotonic()
        if child.gone:
            return Why.CRASHED, ""
        if self._broken is not None:
            return Why.CRASHED, f"had to be ended: {self._broken}"
        if self.line.stuck(now):
            return Why.CRASHED, f"did not end a run within {self._limits.abort_s:g} s of being asked to, and was killed"
        if self._stop_at is not None and (not self.line.sent or now >= self._stop_at):
            return Why.STOPPING, "was ended"
        if self._too_big and not self.line.sent:
            return Why.RECYCLED, f"was restarted: it had grown beyond {self._limits.rss_bytes} bytes"
        return None

    def _bury(self, child: ChildProcess, why: Why, text: str) -> bool:
        """End a process and the questions that it had; whether it has ended, so that another may be started."""
        seconds = self._limits.kill_s
        if self._stop_at is not None:
            self._end_all(stopping)
        orderly = why is not Why.CRASHED and child.facts is not None
        if orderly:
            child.hang_up()
        if not (orderly and child.wait(seconds)):
            child.kill()
        while not child.wait(seconds):
            self._fail(
                EngineFailedError(
                    f"The model's process ({child.pid}) was killed and does not end: it is stuck in a driver. No other "
                    "is started while it is there. Restart the machine if this lasts."
                )
            )
            if self._wait(lambda: self._stop_at is not None, seconds):
                child.close()
                return False
        child.close()
        with self.lock:
            self.child = None
            self._cache_before, self._cache_now = self.cache, CacheFigures()
        self._end_all(lambda: self._crashed(text))
        if why is Why.CRASHED:
            _log.error("The model's process %d %s. It said last:\n%s", child.pid, text, child.tail())
        return True

    def _again(self, why: Why, text: str, *, opened: bool) -> bool:
        """Take note of why a process ended, and wait for as long as is right; whether to start another."""
        if self._stop_at is not None:
            return False
        with self.lock:
            self.last_error = text if why is Why.REFUSED else f"The model's process {text}."
            if why is Why.RECYCLED:
                self.restarts += 1
                self.recycled += 1
                return True
            self._in_a_row += 1
            self._failed_starts += not opened
        wrong_from_the_start = why is Why.REFUSED and self.facts is None  # trying again would change nothing
        if not opened and (wrong_from_the_start or self._failed_starts >= self._limits.starts):
            tries = f", {self._failed_starts} times in a row" if self._failed_starts > 1 else ""
            self._fail(
                to_error(self._refusal)
                if self._refusal
                else EngineFailedError(
                    f"The model's process {text}{tries}. The log has what it said; `vlm doctor` looks at this machine."
                )
            )
            if self.facts is None:
                return False  # what was open once may come back: a disk, memory that others took
        if self._wait(lambda: self._stop_at is not None, self._limits.pause_s(self._in_a_row)):
            return False
        with self.lock:
            self.restarts += 1
        return True

    def _crashed(self, text: str) -> RkvlmError:
        return EngineCrashedError(
            f"The model's process {text}; the answer is lost. Ask again.", retry_after=self.retry_after
        )

    def _end_all(self, error: Callable[[], RkvlmError], *, waiting: bool = False) -> None:
        """End the questions that the model has, and those that wait too if told so, each with an error of its own."""
        with self.lock:
            self.line.end_all([*self.line.sent.values(), *(self.line.waiting if waiting else ())], error)
        self.line.announce()

    def _fail(self, error: RkvlmError) -> None:
        """Nothing is answered from here on, and whoever waits is told."""
        with self.lock:
            if self.failure is None:
                _log.error("The model is not available: %s", error)
            self.failure = fault = to_fault(error)
            self.last_error = fault.text
            self.lock.notify_all()
        self._end_all(lambda: failed(fault), waiting=True)

    def _wait(self, ready: Callable[[], bool], seconds: float | None) -> bool:
        """Wait until `ready()`, which is called with the lock held, for at most so long; whether it is.

        Deadlines are kept meanwhile.
        """
        until = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            with self.lock:
                now = time.monotonic()
                for job in self.line.expire(now):
                    self.cancel(job.id)
                reached = ready()
                if not reached and now < until:
                    self._wakes_at = min(now + _LOOK_AGAIN_S, until, self.line.next_due(), self._stop_at or math.inf)
                    self.lock.wait(max(0.0, self._wakes_at - now))
            self.line.announce()
            if reached or now >= until:
                return reached


def failed(fault: Fault) -> EngineFailedError:
    """What a question gets from an engine that has failed. Why may name the machine's files: askers are not told."""
    return EngineFailedError(f"The model is not available ({fault.kind}). The service's log and health say why.")


def stopping() -> EngineStoppingError:
    """What a question gets from an engine that is being closed."""
    return EngineStoppingError("The service is being stopped; ask again when it is back.", retry_after=10)


def _over_limit(rss: int, limit: int) -> Fault:
    return to_fault(
        EngineFailedError(
            f"The model's process takes {rss} bytes when the model is open, which is over the limit of {limit} "
            "(rss_bytes). Set a limit well above that."
        )
    )
