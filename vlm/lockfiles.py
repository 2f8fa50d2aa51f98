"""The files that say, between processes, who holds which NPU core: advisory locks that end with their process.

Each core has two files. Who wants the core first takes its turnstile (.next), then the core, and lets the turnstile go:
`flock` is not fair, and a process with one run after the other would otherwise never let another one in. Cores are
taken in ascending order, so that no two processes wait for each other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vlm.errors import NPULockError

LOCK_DIRS = (Path("/run/lock"), Path("/tmp"))
"""Where the files lie: the first that is there. A service and a login user have to meet, so no one's own settings
(TMPDIR) count, nor whether a directory can be written to."""

_TEXT_BYTES = 500
_OPEN_AGAIN_S = 0.01

_open: set[int] = set()
# Held while a file is opened: a child forked in between would keep the lock of a parent that died.
_opening = threading.RLock()


def _after_fork_in_child() -> None:
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()
    _opening.release()


os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_after_fork_in_child)


@dataclass(frozen=True)
class Holder:
    """The process that holds a core: its number, and the command it was started with. As its lock file has it."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"


def lock_dir(given: Path | None = None) -> Path:
    """The directory of the lock files: the one given, else the first of LOCK_DIRS that is there."""
    return given or next((place for place in LOCK_DIRS if place.is_dir()), LOCK_DIRS[-1])


def lock_cores(directory: Path, cores: Iterable[int], wait: Callable[[int], None], taken: list[int]) -> None:
    """Lock the cores' files, and write down who holds them.

    wait: called with the core's number between two attempts, to sleep or to raise. taken: gets the open files, for
    `unlock`, those taken before something was raised too. Raises NPULockError.
    """
    for core in sorted(cores):
        pause = partial(wait, core)
        turnstile = [_lock(_turnstile(directory, core), pause)]
        try:
            taken.append(_lock(_core(directory, core), pause))
        finally:
            unlock(turnstile)
        _sign(taken[-1])


def unlock(descriptors: list[int]) -> None:
    """Give back what `lock_cores` took; the list is emptied."""
    while descriptors:
        descriptor = descriptors.pop()
        try:
            os.ftruncate(descriptor, 0)
        finally:
            # Said, not left to closing: a child forked in this moment shares the file, and so the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            _open.discard(descriptor)
            os.close(descriptor)


def holder(directory: Path, core: int) -> Holder | None:
    """Who holds a core now; None where nobody does. Raises NPULockError where the file cannot be read."""
    try:
        descriptor = os.open(_core(directory, core), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _refused(_core(directory, core), exc) from exc
    try:
        # For a moment this is a lock too; who is not to wait for one tries again after that.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _signature(descriptor)
    finally:
        os.close(descriptor)
    return None


def _core(directory: Path, core: int) -> Path:
    return directory / f"rkvlm-npu-core{core}.lock"


def _turnstile(directory: Path, core: int) -> Path:
    return directory / f"rkvlm-npu-core{core}.next"


def _lock(path: Path, wait: Callable[[], None]) -> int:
    """Open and lock a file. A file that was deleted meanwhile locks nobody out: then the new one is taken."""
    while True:
        descriptor = _open_file(path)
        try:
            while not _try_lock(descriptor):
                wait()
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            _close(descriptor)
            raise
        _close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _close(descriptor: int) -> None:
    _open.discard(descriptor)
    os.close(descriptor)


def _open_file(path: Path) -> int:
    """Open a lock file, making it where there is none. Raises NPULockError."""
    attempts = 5
    while True:
        try:
            return _open_or_create(path)
        except PermissionError as exc:
            # Another user's file has its mode a moment after it is made.
            attempts -= 1
            if not attempts:
                raise _refused(path, exc) from exc
            time.sleep(_OPEN_AGAIN_S)
        except FileExistsError:
            continue  # made by another process just now
        except OSError as exc:
            raise _refused(path, exc) from exc


def _open_or_create(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with _opening:
        try:
            # Without O_CREAT: in a sticky directory the kernel may deny it for another user's file, root included
            # (fs.protected_regular).
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)  # whatever the umask says
        _open.add(descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        _close(descriptor)
        raise NPULockError(f"{path} is no regular file, and says nothing about who holds the NPU. Remove it.")
    return descriptor


def _refused(path: Path, exc: OSError) -> NPULockError:
    if exc.errno == errno.ELOOP:
        return NPULockError(f"{path} is a symbolic link, which is not followed. Remove it.")
    return NPULockError(
        f"The lock file {path}, by which processes share the NPU, cannot be opened: {exc.strerror}. It must lie in a "
        "directory that everyone who uses the NPU can write to; VLM_LOCK_DIR names another one, the same for all."
    )


def _sign(descriptor: int) -> None:
    """Write down who holds the lock."""
    command = shlex.join(sys.orig_argv)
    text = f"{os.getpid()}\n{command}".encode("utf-8", "replace")[:_TEXT_BYTES]
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text + b"\n", 0)
    except OSError:
        pass  # a full disk: the lock holds all the same, and nobody is named


def _signature(descriptor: int) -> Holder:
    """Who is said to hold the lock. Anyone may have written it, so only plain characters are taken."""
    text = os.pread(descriptor, 2 * _TEXT_BYTES, 0).decode("utf-8", "replace")
    pid, _, command = text.partition("\n")
    plain = "".join(letter if letter.isprintable() else " " for letter in command).strip()
    return Holder(int(pid) if pid.isascii() and pid.isdecimal() and len(pid) < 10 else 0, plain or "unknown")
