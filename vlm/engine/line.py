"""The questions: those that wait, first come first served, and those that are in the model's process.

First come first served is all the fairness there is: a user with many questions has as many places in line, and what
keeps one from taking them all is the business of the surface, which knows who asks. Those in the process may overtake
one another: a text does not wait for a picture that is being encoded.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from vlm.engine.configuration import EngineLimits
from vlm.engine.messages import Figures
from vlm.engine.reply import Reply
from vlm.errors import EngineDeadlineError, EngineQueueFullError, RkvlmError

_LONGEST_ADVICE_S = 300

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """One question and its answer; times are those of time.monotonic().

    request: its frame, until it is sent. begun: whether the language model has it. left: since when nobody wants the
    answer, or since when a run that nobody wants could have ended.
    """

    id: int
    reply: Reply
    request: bytearray
    asked: float
    deadline: float
    limit_s: float
    sent: float = 0.0
    begun: bool = False
    left: float | None = None


class Line:
    """The questions of an engine. Every method but `announce` is called with the engine's lock held."""

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self.waiting: deque[Job] = deque()
        self.sent: dict[int, Job] = {}
        self.questions = self.answers = self.aborted = 0
        self.errors: Counter[str] = Counter()
        self._waiting_bytes = 0
        self._answer_s = 1.0  # what an answer takes, about
        self._news: deque[Reply] = deque()

    def full(self, more_bytes: int = 0) -> bool:
        """Whether one more question would be refused. One that has not to wait never is."""
        if not self.waiting and len(self.sent) < self._limits.in_flight:
            return False
        size = self._waiting_bytes + more_bytes
        return len(self.waiting) >= self._limits.queue or size > self._limits.queue_bytes

    def join(self, job: Job) -> None:
        """Put a question at the end. Raises EngineQueueFullError."""
        if self.full(len(job.request)):
            waiting = len(self.waiting)
            advice = min(_LONGEST_ADVICE_S, 1 + int(self._answer_s * waiting / self._limits.in_flight))
            raise EngineQueueFullError(
                f"{waiting} questions ({self._waiting_bytes} bytes) wait already; the most is {self._limits.queue} "
                f"({self._limits.queue_bytes} bytes). Ask again in {advice} s.",
                retry_after=advice,
            )
        self.questions += 1
        self.waiting.append(job)
        self._waiting_bytes += len(job.request)
        job.reply.move(len(self.waiting))

    def pop(self, model: str) -> Job | None:
        """Take the question that is next for the model, unless as many as may be are there."""
        if not self.waiting or len(self.sent) >= self._limits.in_flight:
            return None
        job = self.waiting.popleft()
        self._waiting_bytes -= len(job.request)
        job.sent = time.monotonic()
        job.reply.begin(model, (job.sent - job.asked) * 1e3)
        self.sent[job.id] = job
        self._news.append(job.reply)
        self._close_up()
        return job

    def tell(self, number: int, pieces: list[str]) -> None:
        """Pieces of an answer have come; those of one that is over are dropped."""
        job = self.sent.get(number)
        if job is not None:
            job.reply.tell(pieces)
            self._news.append(job.reply)

    def end(self, number: int, error: RkvlmError | None, figures: Figures | None) -> None:
        """The model is done with a question."""
        job = self.sent.pop(number, None)
        if job is None:
            return
        if figures is not None and job.left is None:
            self._answer_s += 0.2 * (time.monotonic() - job.sent - self._answer_s)
        self._over(job, error, figures)

    def leave(self, reply: Reply) -> Job | None:
        """The asker wants no answer any more. Returns the job if the model has to be told."""
        for job in self.waiting:
            if job.reply is reply:
                self._out(job, None)
                return None
        for job in self.sent.values():
            if job.reply is reply and job.left is None:
                return self._give_up(job, None)
        return None

    def expire(self, now: float) -> list[Job]:
        """End what is over its deadline. Returns the jobs of which the model has to be told."""
        for job in [job for job in self.waiting if job.deadline <= now]:
            self._out(job, _late(job))
        late = [job for job in self.sent.values() if job.left is None and job.deadline <= now]
        return [self._give_up(job, _late(job)) for job in late]

    def end_all(self, jobs: list[Job], error: Callable[[], RkvlmError]) -> None:
        """End questions, each with an error of its own."""
        for job in jobs:
            if self.sent.pop(job.id, None) is not None:
                self._over(job, error(), None)
            elif job in self.waiting:
                self._out(job, error())

    def stuck(self, now: float) -> bool:
        """Whether a run that nobody wants has not ended in time. One that has not begun waits for those that have."""
        running = any(job.begun for job in self.sent.values())
        for job in self.sent.values():
            if job.left is not None and running and not job.begun:
                job.left = now
        return any(job.left is not None and now - job.left >= self._limits.abort_s for job in self.sent.values())

    def next_due(self) -> float:
        """When `expire` or `stuck` have something to do, if nothing else happens."""
        times = [job.deadline for job in self.waiting]
        times += [job.deadline if job.left is None else job.left + self._limits.abort_s for job in self.sent.values()]
        return min(times, default=float("inf"))

    def announce(self) -> None:
        """Call the listeners of the replies that have something new. Not with the lock held: they are strangers."""
        while self._news:
            try:
                reply = self._news.popleft()
            except IndexError:  # another thread took the last one
                break
            try:  # each time: a reply may have more news than when it was called a moment ago
                reply.announce()
            except Exception:  # one listener's failure must not be the end of everybody's answers
                _log.exception("A listener failed")

    def _give_up(self, job: Job, error: RkvlmError | None) -> Job:
        """End the reply of a job that the model still has."""
        job.left = time.monotonic()
        self._finish(job, error, None)
        return job

    def _out(self, job: Job, error: RkvlmError | None) -> None:
        """End a job that waits."""
        self.waiting.remove(job)
        self._waiting_bytes -= len(job.request)
        self._finish(job, error, None)
        self._close_up()

    def _over(self, job: Job, error: RkvlmError | None, figures: Figures | None) -> None:
        if job.left is None:
            self._finish(job, error, figures)

    def _finish(self, job: Job, error: RkvlmError | None, figures: Figures | None) -> None:
        if error is not None:
            self.errors[type(error).__name__] += 1
        elif figures is None:
            self.aborted += 1
        else:
            self.answers += 1
        job.reply.end(error, figures)
        self._news.append(job.reply)

    def _close_up(self) -> None:
        for position, job in enumerate(self.waiting, 1):
            if job.reply.move(position):
                self._news.append(job.reply)


def _late(job: Job) -> EngineDeadlineError:
    where = "being answered" if job.sent else "waiting for its turn"
    return EngineDeadlineError(
        f"The answer was not complete after {job.limit_s:g} s; the question was still {where}. Ask for fewer tokens, "
        "or allow more time."
    )
