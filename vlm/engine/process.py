"""One child process, seen from its parent: starting it, talking to it, ending it, and how it ended."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue

from vlm.engine.messages import Event, ModelFacts
from vlm.engine.wire import RECEIVE, Frames, WireError

_TAIL_BYTES = 8192
_JOIN_S = 1.0

_log = logging.getLogger(__name__)

Popen = Callable[..., "subprocess.Popen[bytes]"]


class ChildProcess:
    """A process with the model in it. Three threads: one reads events, one sends requests, one reads what it prints.

    opening: the frame that says which model to open. on_events: called by the reading thread with each frame's events,
    and with an empty list once there will be no more. popen: starts the process, as subprocess.Popen does. Raises
    OSError.
    """

    def __init__(
        self, opening: bytearray, on_events: Callable[[ChildProcess, list[Event]], None], popen: Popen
    ) -> None:
        self.facts: ModelFacts | None = None  # once the model is open
        self.hung_up = False  # whether it has closed its end
        self._on_events = on_events
        self._requests: SimpleQueue[bytearray | None] = SimpleQueue()
        self._tail: deque[bytes] = deque()
        with ExitStack() as opened:
            self._connection, theirs = socket.socketpair()
            opened.enter_context(self._connection)
            with theirs:
                reading, writing = os.pipe()
                opened.callback(os.close, writing)
                try:
                    self._process = popen(
                        [sys.executable, "-m", "vlm.engine.child", str(theirs.fileno()), str(reading)],
                        pass_fds=(theirs.fileno(), reading),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                finally:
                    os.close(reading)
            self._opened = opened.pop_all()
        self.pid = self._process.pid
        self.send(opening)
        self._threads = [
            threading.Thread(target=target, name=f"engine-{self.pid}-{target.__name__.strip('_')}", daemon=True)
            for target in (self._read, self._write, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def gone(self) -> bool:
        """Whether the process has ended, or will say nothing more."""
        return self.hung_up or self._process.poll() is not None

    def send(self, request: bytearray) -> None:
        """Have a request's frame sent. Returns at once."""
        self._requests.put(request)

    def hang_up(self) -> None:
        """Close our end for writing: the process gives its model back and ends."""
        self._requests.put(None)

    def kill(self) -> None:
        """End the process the hard way."""
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Wait for the process to end; whether it has."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Take what the process still had to say, and give its pipes back."""
        self._requests.put(None)
        self._threads[0].join(_JOIN_S)
        with suppress(OSError):  # it was closed by the other side
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes the threads, should anybody else hold the other end
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._opened.close()

    def how_it_ended(self) -> str:
        """How the process ended, in words that go after "The model's process"."""
        code = self._process.poll()
        if code is None:
            return "closed its connection"
        if code >= 0:
            return f"ended with code {code}"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    def tail(self) -> str:
        """The last lines that the process printed."""
        return b"".join(list(self._tail)).decode("utf-8", "replace")[-_TAIL_BYTES:]

    def rss_bytes(self) -> int:
        """Memory that the process has in use; 0 once it has ended."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * resource.getpagesize()

    def _read(self) -> None:
        frames: Frames[list[Event]] = Frames(list[Event])
        try:
            while data := self._connection.recv(RECEIVE):
                for events in frames.feed(data):
                    self._on_events(self, events)
        except OSError as exc:
            _log.debug("Reading from process %d ended: %s", self.pid, exc)
        except WireError as exc:
            _log.error("Process %d is not to be understood any more: %s", self.pid, exc)
        finally:
            self.hung_up = True
            self._on_events(self, [])

    def _write(self) -> None:
        with suppress(OSError):  # it is gone; whoever reads says so
            while (request := self._requests.get()) is not None:
                self._connection.sendall(request)
            self._connection.shutdown(socket.SHUT_WR)

    def _listen(self) -> None:
        """Keep the end of what the process and its libraries print."""
        assert self._process.stdout is not None
        held = 0
        with self._process.stdout as stream:
            while line := stream.readline(_TAIL_BYTES):
                _log.debug("%d: %s", self.pid, line.decode("utf-8", "replace").rstrip())
                self._tail.append(line)
                held += len(line)
                while held > _TAIL_BYTES and len(self._tail) > 1:
                    held -= len(self._tail.popleft())
