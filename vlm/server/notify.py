"""What systemd is told: that the model is open, that the service is well (the watchdog), that it stops.

The protocol is that of sd_notify(3): lines in one datagram to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping

from vlm import EngineLimits, Health

_BEATS = 3
"""Signs of life in one watchdog interval, so that a late one does no harm."""


class Notifier:
    """Tells systemd how the service is. Without a socket nothing is told: it was not started by systemd."""

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        # A name that begins with @ is one in the abstract namespace, where the kernel has a zero byte.
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """The one that systemd asks for. A watchdog that is meant for another process is not fed."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        seconds = int(microseconds) / 1e6 if ours and microseconds.isdecimal() else None
        return cls(environment.get("NOTIFY_SOCKET"), seconds or None)

    def say(self, *lines: str) -> None:
        """Tell it lines such as "READY=1". Nothing is raised: a service does not end because systemd does not hear."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                sending.setblocking(False)
                sending.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass

    async def watch(self, health: Callable[[], Health], limits: EngineLimits) -> None:
        """Feed the watchdog for as long as the engine is well. It runs where requests do, and so vouches for them."""
        if self._watchdog_s is None:
            return
        vigil = Vigil(limits)
        while True:
            now = health()
            if vigil.well(now, time.monotonic()):
                self.say("WATCHDOG=1", f"STATUS={now.state}, {now.waiting} waiting, {now.in_flight} in flight")
            else:
                why = now.last_error or "nothing has come to an end for longer than the limits allow"
                self.say(f"STATUS=not well: {now.state}; {' '.join(why.split())}")
            await asyncio.sleep(self._watchdog_s / _BEATS)


class Vigil:
    """Whether an engine is well, from its health at one moment after another.

    It is while a question would be answered, and while something that takes its time is within its limits: an answer
    (deadline_s and abort_s), the start of a process (start_s), each with the time for the process's end (kill_s). It is
    not when it has failed, or when a state goes on beyond all limits, because nobody keeps them any more.
    """

    def __init__(self, limits: EngineLimits) -> None:
        start_s = limits.kill_s + limits.restart_max_s + limits.start_s
        self._limit_s = {
            "busy": limits.deadline_s + limits.abort_s + limits.kill_s,
            "starting": start_s,
            "restarting": start_s,
        }
        self._seen: object = None
        self._since = 0.0

    def well(self, health: Health, now: float) -> bool:
        """Whether it is well; now: of a clock that only goes forward, in seconds."""
        totals = health.totals
        ended = totals.answers + totals.aborted + sum(totals.errors.values())
        seen = (health.state, health.pid, ended, totals.restarts)
        if seen != self._seen:
            self._seen, self._since = seen, now
        within = now - self._since <= self._limit_s.get(health.state, float("inf"))
        return health.state != "failed" and within
