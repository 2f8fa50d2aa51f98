"""One thread that makes all the calls on a model's handle, one after the other.

The runtime is given one thread for life, so that what it keeps for each thread (its own thread pool, say) is made once.
The thread is a daemon: a run that never returns must not keep the program from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """A thread with a queue of jobs. Safe for use by several threads."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self._jobs,), name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have `job` called after those before it; the future holds its result or its exception."""
        future: Future[T] = Future()
        self._jobs.put((job, future))
        return future

    def call(self, job: Callable[[], T]) -> T:
        """Call `job` on the thread and wait for its result; raises what it raised."""
        return self.submit(job).result()

    def stop(self, timeout: float) -> bool:
        """Let the thread end after the jobs already given; whether it has ended within `timeout` seconds."""
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()


def _serve(jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]) -> None:
    while (entry := jobs.get()) is not None:
        job, future = entry
        try:
            future.set_result(job())
        except BaseException as exc:  # whoever asked gets it, whatever it is
            future.set_exception(exc)
        # A finished job may hold a model's arrays; it must not live until the next one comes.
        del entry, job, future
