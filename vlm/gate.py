"""Whose turn it is on the NPU: every run holds its cores, and no core is ever held twice.

Within a process in the order of arrival: a run goes ahead as soon as nobody who came before it holds or wants one of
its cores, so that nobody starves and runs on different cores pass each other. Between processes by `vlm.lockfiles`.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType

from vlm.errors import NPUBusyError
from vlm.lockfiles import Holder, holder, lock_cores, unlock

log = logging.getLogger(__name__)

POLL_S = 0.01
SAY_AFTER_S = 0.5
NO_WAIT_S = 0.1
"""How long a run that is not to wait tries all the same: someone may only be looking who holds a core."""


def no_check() -> None:
    """Nothing ends the wait."""


class Hold:
    """The cores that one run holds, or waits for; made by `Gate.take`. Leaving it as a context gives them back."""

    def __init__(self, line: list[Hold], cores: Iterable[int]) -> None:
        self.cores = frozenset(cores)
        self.pid = os.getpid()
        self.files: list[int] = []
        # A queue, because it may be put to whatever the thread is doing that is interrupted by a collection.
        self.woken: SimpleQueue[None] = SimpleQueue()
        self._line = line

    @property
    def first(self) -> bool:
        """Whether nobody who came before shares a core. Once true it stays true: only those before may leave."""
        for other in tuple(self._line):
            if other is self:
                break
            if other.pid == self.pid and not self.cores.isdisjoint(other.cores):
                return False
        return True

    def release(self) -> None:
        """Give the cores back, from any thread. May be called twice; a forked child has nothing to give back."""
        if self.pid != os.getpid():
            return
        try:
            self._line.remove(self)
        except ValueError:
            return
        try:
            unlock(self.files)
        finally:
            for other in tuple(self._line):
                other.woken.put(None)

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class Gate:
    """The way to the NPU for this process. Made by `gate`, so that there is one for each directory of lock files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # In order of arrival, those that hold their cores included. Appending to, removing from and copying a list
        # are atomic, so no lock is needed, which a collection in the wrong moment could block.
        self._line: list[Hold] = []
        self._said = False

    def take(self, cores: Iterable[int], *, wait: bool = True, check: Callable[[], None] = no_check) -> Hold:
        """Wait until the cores are free, and hold them until `Hold.release`; none at all is held at once.

        wait: False raises NPUBusyError where another process holds one of them; one's own runs are waited for. check:
        called while waiting; what it raises ends the wait. Raises NPUBusyError, NPULockError.
        """
        hold = Hold(self._line, cores)
        try:
            self._line.append(hold)
            while not hold.first:
                check()
                try:
                    hold.woken.get(timeout=POLL_S)
                except Empty:
                    continue
            if hold.cores:
                lock_cores(self.directory, hold.cores, self._waiting(wait, check), hold.files)
        except BaseException:
            hold.release()
            raise
        return hold

    def holders(self, cores: Iterable[int]) -> dict[int, Holder | None]:
        """Who holds each core now, this process included. Raises NPULockError."""
        return {core: holder(self.directory, core) for core in cores}

    def _waiting(self, wait: bool, check: Callable[[], None]) -> Callable[[int], None]:
        """What to do while another process holds a core."""
        began = time.monotonic()

        def pause(core: int) -> None:
            check()
            waited = time.monotonic() - began
            if not wait and waited > NO_WAIT_S:
                raise NPUBusyError(
                    f"NPU core {core} is held by {self._who(core)}, and this run was not to wait for it. Try again "
                    "when that one is done, or let it wait (without --no-wait or VLM_NO_WAIT)."
                )
            if waited > SAY_AFTER_S and not self._said:
                self._said = True  # once: two processes that share the NPU all day would say nothing else
                log.warning("Waiting for NPU core %d, held by %s.", core, self._who(core))
            time.sleep(POLL_S)

        return pause

    def _who(self, core: int) -> str:
        return str(holder(self.directory, core) or "another process")


@functools.cache
def gate(directory: Path) -> Gate:
    """The gate of this process that uses the lock files in `directory`, which is looked at in the first run."""
    return Gate(directory)
