"""A model in a process of its own: questions in, answers out, whatever becomes of the process."""

from __future__ import annotations

import itertools
import subprocess
import time
from types import TracebackType

from vlm.engine.configuration import EngineLimits, ModelChoice
from vlm.engine.faults import to_error
from vlm.engine.health import Health, Totals
from vlm.engine.line import Job
from vlm.engine.messages import Ask, Open, Question, Request
from vlm.engine.process import Popen
from vlm.engine.reply import Reply
from vlm.engine.supervisor import Supervisor, failed, stopping
from vlm.engine.wire import WireError, frame
from vlm.errors import OptionError

_CLOSE_S = 10.0  # for what is left to do when the grace is over


class Engine:
    """Answers questions with a model that it keeps in a child process. Every method may be called from any thread.

    A crash, a hang or a leak of the model's libraries ends that process alone: the questions that it had end with
    EngineCrashedError, those in the queue are answered by the next one. popen: starts the process, as subprocess.Popen
    does, which it is but for tests. Raises OptionError for options that are not plain values.
    """

    def __init__(
        self, choice: ModelChoice, limits: EngineLimits | None = None, *, popen: Popen = subprocess.Popen
    ) -> None:
        self._limits = limits or EngineLimits()
        self._supervisor = Supervisor(_packed(Open(choice.arguments())), self._limits, popen)
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Begin to open the model. Returns at once; questions may be asked already. To be called once."""
        self._supervisor.thread.start()

    def wait_ready(self, timeout: float | None = None) -> Health:
        """Wait until the model is open, or `timeout` seconds are over; the health says which.

        Raises what opening the model raised, as `vlm.load` does; EngineFailedError when its process ends each time;
        EngineStoppingError.
        """
        supervisor = self._supervisor
        with supervisor.lock:
            supervisor.lock.wait_for(lambda: supervisor.state not in ("starting", "restarting"), timeout)
            if supervisor.state == "stopping":
                raise stopping()
            if supervisor.failure is not None:
                raise to_error(supervisor.failure)
        return self.health()

    def ask(self, question: Question) -> Reply:
        """Put a question in the queue. Returns at once; what is wrong with the question is raised by the reply.

        Raises EngineQueueFullError, EngineFailedError, EngineStoppingError, and OptionError for options that are not
        plain values.
        """
        number, now = next(self._numbers), time.monotonic()
        limit = self._limits.deadline_s if question.deadline_s is None else question.deadline_s
        limit = min(limit, self._limits.deadline_s)
        request = _packed(Ask(number, question.turns, question.options, question.tools, question.embed))
        reply = Reply(self._cancel)
        supervisor = self._supervisor
        with supervisor.lock:
            if supervisor.state == "stopping":
                raise stopping()
            if supervisor.failure is not None:
                raise failed(supervisor.failure)
            supervisor.line.join(Job(number, reply, request, now, now + limit, limit))
            supervisor.dispatch()
        supervisor.line.announce()
        return reply

    def health(self) -> Health:
        """How the engine is now."""
        supervisor = self._supervisor
        with supervisor.lock:
            line, child = supervisor.line, supervisor.child
            state = supervisor.state
            return Health(
                state=state,
                answering=state in ("ready", "busy") and not line.full(),
                model=supervisor.facts,
                waiting=len(line.waiting),
                in_flight=len(line.sent),
                pid=child.pid if child else None,
                rss_bytes=child.rss_bytes() if child else 0,
                cache=supervisor.cache,
                totals=Totals(
                    questions=line.questions,
                    answers=line.answers,
                    aborted=line.aborted,
                    errors=dict(line.errors),
                    restarts=supervisor.restarts,
                    recycled=supervisor.recycled,
                ),
                last_error=supervisor.last_error,
            )

    def stop(self, grace_s: float = 30) -> None:
        """Begin to end: waiting questions at once, running ones when they are answered or `grace_s` seconds are over.

        Returns at once; `close` waits for the end. What is said first counts.
        """
        supervisor = self._supervisor
        with supervisor.lock:
            supervisor.stop(grace_s)
        supervisor.line.announce()

    def close(self, grace_s: float = 30) -> None:
        """End, as `stop` does. Returns when the model's process has ended, or cannot be ended. May be called twice."""
        self.stop(grace_s)
        supervisor = self._supervisor
        if supervisor.thread.is_alive():
            supervisor.thread.join(grace_s + 2 * self._limits.kill_s + _CLOSE_S)

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close(0 if kind else 30)

    def _cancel(self, reply: Reply) -> None:
        supervisor = self._supervisor
        with supervisor.lock:
            job = supervisor.line.leave(reply)
            if job is not None:
                supervisor.cancel(job.id)
        supervisor.line.announce()


def _packed(request: Request) -> bytearray:
    try:
        return frame(request)
    except WireError as exc:
        raise OptionError(f"It cannot be passed to the model's process. {exc}") from exc
