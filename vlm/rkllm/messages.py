"""What the runtime prints while it opens a model, taken at the process's own stdout and stderr.

librkllmrt.so gives its log to nobody: it prints it, and why a model would not load stands nowhere else. So for the time
of `rkllm_init` both descriptors lead into temporary files. The runtime's lines are ours; whatever else passed, another
thread's print say, is written on to where it was going.

What this costs, for that time only: other threads' output comes late; a child process that another thread starts keeps
writing into a file that nobody reads any more; and a crash inside the runtime takes its last words with it.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import fcntl
import logging
import os
import re
import select
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

MESSAGES_KEPT = 1000
"""How many lines `Library.drain_messages` gives at most; the oldest go first."""

RUNTIME_LOG = logging.getLogger("vlm.rkllm.runtime")

_log = logging.getLogger(__name__)
_lock = threading.Lock()  # there is one stdout, whatever the number of models being opened

_MARKED = re.compile(r"([DIWEF]) (?:rkllm|RKNN): ")
# What the library prints without a mark, as users of its releases have published it.
_BARE = re.compile(
    r"rknn_init fail|can not create weight memory|Error: iommu_context|(?:gguf_init_from_file)?: invalid magic"
    r"|: error: failed to load model|RKLLM: failed to load|Platform error|Query platform error|Your platform is"
    r"|The model target_platform|Warning: The model version|ggml_calloc: failed"
)
_LEVELS = {"D": logging.DEBUG, "I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.ERROR}


def severity(line: str) -> str | None:
    """The letter of a line of the runtime's: D, I, W, E or F; None for a line that is not the runtime's."""
    marked = _MARKED.match(line)
    if marked:
        return marked.group(1)
    bare = _BARE.match(line)
    return None if bare is None else "W" if line.startswith("Warning") else "E"


def log_lines(lines: Iterable[str], *, failed: bool) -> None:
    """Hand the runtime's lines to logging, at their own levels.

    failed: what they told of has become an error that quotes them, so that they are of use to the curious only (INFO).
    An E line is an ERROR only where the runtime went on in spite of it, because nobody else tells of it then.
    """
    for line in lines:
        level = _LEVELS[severity(line) or "I"]
        RUNTIME_LOG.log(min(level, logging.INFO) if failed else level, "%s", line)


@contextmanager
def captured() -> Iterator[list[str]]:
    """Take stdout and stderr for the length of the block; the list holds the runtime's lines once it is over.

    One block at a time in a process; others wait. Nothing is taken where that is impossible (no descriptors left, no
    place for a temporary file): the model can be opened all the same.
    """
    heard: list[str] = []
    with _lock:
        try:
            capture = Capture()
        except OSError as exc:
            _log.warning("What the runtime prints cannot be read here: %s", exc)
            yield heard
            return
        try:
            yield heard
        finally:
            heard += capture.close()


class Capture:
    """Stdout and stderr of the process, taken from the constructor until `close`.

    A process that is ours alone may leave it open for as long as it lives, and `take` now and then. Raises OSError.
    """

    def __init__(self) -> None:
        self._taps: list[_Tap] = []
        self._open, self._closing = True, threading.Lock()
        _flush()
        self._restore_buffering = _write_stdout_by_lines()
        try:
            for fd in (1, 2):
                self._taps.append(_Tap(fd))
        except OSError:
            self.close()
            raise
        # An interrupted program ends without waiting for the runtime; its last words are in our files then.
        atexit.register(self.close)

    def take(self) -> list[str]:
        """The runtime's lines since this was last asked; everything else is written on."""
        _flush()
        return [line for tap in self._taps for line in tap.take()]

    def close(self) -> list[str]:
        """Give both descriptors back as they were, and `take` for the last time. May be called twice."""
        with self._closing:
            if not self._open:
                return []
            self._open = False
            atexit.unregister(self.close)
            heard = self.take()  # nearly all, so that hardly a line can be overtaken by one printed after it
            for tap in self._taps:
                tap.restore()
            self._restore_buffering()
            heard += [line for tap in self._taps for line in tap.take(last=True)]
            for tap in self._taps:
                tap.close()
            return heard


class _Tap:
    """One descriptor of the process, which leads into a temporary file until `restore`. Raises OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at, self._rest = 0, b""
        self._saved: int | None = None
        self._file = _temporary_file()
        try:
            self._inheritable = _is_inheritable(fd)
            if self._inheritable is not None:
                self._saved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
                os.dup2(self._file, fd, self._inheritable)
                self._taken = True
            else:
                # Closed. It is occupied in one step, so that no file that another thread opens is pushed aside.
                occupied = fcntl.fcntl(self._file, fcntl.F_DUPFD_CLOEXEC, fd)
                self._taken = occupied == fd
                if not self._taken:
                    os.close(occupied)
        except OSError:
            self.close()
            raise

    def take(self, last: bool = False) -> list[str]:
        """The runtime's whole lines since the last call; the others go on. last: unfinished lines too."""
        data = bytearray(self._rest)
        while chunk := os.pread(self._file, 1 << 16, self._at):
            self._at += len(chunk)
            data += chunk
        lines = bytes(data).split(b"\n")
        self._rest = b"" if last else lines.pop()
        heard, others = [], []
        for number, line in enumerate(lines):
            text = line.decode("utf-8", "replace")
            if severity(text) is not None:
                heard.append(text.rstrip())
                continue
            # What stands behind somebody else's unfinished line is heard, and stays in that line.
            middle = _MARKED.search(text)
            heard += [text[middle.start() :].rstrip()] if middle else []
            others.append(line if last and number == len(lines) - 1 else line + b"\n")
        self._write_on(b"".join(others))
        return heard

    def restore(self) -> None:
        """Let the descriptor lead to where it led before."""
        if self._saved is not None:
            os.dup2(self._saved, self._fd, bool(self._inheritable))
        elif self._taken:
            os.close(self._fd)

    def close(self) -> None:
        """Give up our own descriptors."""
        for fd in (self._file, self._saved):
            if fd is not None:
                os.close(fd)

    def _write_on(self, data: bytes) -> None:
        while data and self._saved is not None:
            try:
                data = data[os.write(self._saved, data) :]
            except BlockingIOError:  # somebody made it non-blocking; nothing of theirs is dropped for that
                poll = select.poll()
                poll.register(self._saved, select.POLLOUT)
                poll.poll()
            except OSError as exc:  # nobody reads it any more, as whoever wrote it would have been told
                _log.debug("%d bytes could not be written on: %s", len(data), exc)
                return


def _is_inheritable(fd: int) -> bool | None:
    """Whether child processes get the descriptor; None for one that is closed."""
    try:
        return os.get_inheritable(fd)
    except OSError as exc:
        if exc.errno != errno.EBADF:
            raise
        return None


def _temporary_file() -> int:
    """A descriptor above those of stdin, stdout and stderr, which may be free for a file to land on."""
    if hasattr(os, "memfd_create"):
        made = os.memfd_create("rkvlm")
    else:
        with tempfile.TemporaryFile() as file:
            made = os.dup(file.fileno())
    try:
        return fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(made)


_LINE_BUFFERED, _FULLY_BUFFERED = 1, 0  # _IOLBF and _IOFBF of stdio.h


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _c_stream(name: str) -> ctypes.c_void_p:
    return ctypes.c_void_p.in_dll(_libc(), name)


def _flush() -> None:
    """Python's streams and C's.

    Not fflush(NULL): that waits for the lock of every stream, stdin's too, and so for ever while another thread waits
    in C for a line to be typed.
    """
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(Exception):  # None, closed, read by nobody, a stand-in of the user's: not ours to report
            stream.flush()  # type: ignore[union-attr]
    for name in ("stdout", "stderr"):
        _libc().fflush(_c_stream(name))


def _write_stdout_by_lines() -> Callable[[], None]:
    """Have C's stdout written line by line; returns what puts it back.

    So no other thread's line lands in the middle of one of the runtime's. And C decides at the first write, for the
    life of the process, whether stdout is a terminal: the file that it leads into must not be what it finds then.
    """
    libc, stdout = _libc(), _c_stream("stdout")
    size, by_lines = libc["__fbufsize"](stdout), libc["__flbf"](stdout)
    if by_lines or size == 1:  # 1 is no buffer at all, 0 not decided yet
        return lambda: None
    undecided_terminal = size == 0 and _is_terminal(1)
    nothing = ctypes.c_size_t(0)
    libc.setvbuf(stdout, None, _LINE_BUFFERED, nothing)
    return lambda: None if undecided_terminal else libc.setvbuf(stdout, None, _FULLY_BUFFERED, nothing)


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False
