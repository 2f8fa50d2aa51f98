"""What is written down: a line for each picture told, a line for each that failed, and nothing lost by a power cut.

metadata.jsonl is the Hugging Face imagefolder convention: `file_name` and columns of one type each, none of them ever
null, because the loader takes a column's type from the first lines. `text` is the answer to the first prompt, so that
whoever knows the convention finds the caption where it is expected; `texts` has the answers to all `prompts`, in their
order.

A picture's line is appended with one write. Of two lines about the same picture the later counts; the earlier goes,
with those of pictures that are no more, when the file is rewritten at the end of a run, beside the old one and then put
in its place. So at every instant the file is whole but for its last line, and that is put right at the next start.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from vlm.captions.scan import Stamp
from vlm.errors import FolderError

log = logging.getLogger(__name__)

METADATA, ERRORS = "metadata.jsonl", "errors.jsonl"
SYNC_S = 1.0
"""Seconds between two syncs to the disk: what a power cut can cost. The end of the process costs nothing."""

_ELSEWHERE = "it is left as it is. Move it elsewhere, or have the captions written to another folder (--out)."


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What both files say of a picture: which one, as it was then, and what was asked of whom.

    options: how it was asked, as JSON. modified_ns: the file's time of change, nanoseconds since 1970.
    """

    file_name: str
    size_bytes: int
    modified_ns: int
    model: str
    prompts: list[str]
    options: str

    @property
    def stamp(self) -> Stamp:
        """The picture's stamp when it was told."""
        return Stamp(self.size_bytes, self.modified_ns)

    @property
    def asked(self) -> bytes:
        """A digest of model, prompts and options."""
        return asked(self.model, self.prompts, self.options)


class Caption(Line, frozen=True, kw_only=True):
    """A line of metadata.jsonl. content_hash: BLAKE2b of the file, 128 bits. seconds: what the answers took."""

    text: str
    texts: list[str]
    content_hash: str
    told_at: str
    seconds: float


class Failure(Line, frozen=True, kw_only=True):
    """A line of errors.jsonl. error: the class in `vlm.errors`."""

    error: str
    message: str
    failed_at: str


L = TypeVar("L", bound=Line)


def asked(model: str, prompts: Sequence[str], options: str) -> bytes:
    """A digest of what is asked: pictures told under another have to be told again."""
    return hashlib.blake2b(json.dumps([model, list(prompts), options]).encode(), digest_size=8).digest()


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Entry(NamedTuple):
    """Where a picture's line is, and what is needed to know whether it still holds."""

    stamp: Stamp
    asked: bytes
    offset: int
    length: int


class Journal(Generic[L]):
    """One of the two files: `index` has the lines that count, by the picture's name; the lines stay on the disk.

    each: called with every line when the file is opened. Raises FolderError where the file is somebody else's, or
    cannot be written.
    """

    def __init__(self, path: Path, kind: type[L], each: Callable[[L, Entry], None] = lambda line, entry: None) -> None:
        self.path, self.index = path, dict[str, Entry]()
        self._decoder, self._encoder = msgspec.json.Decoder(kind), msgspec.json.Encoder()
        self._dirty = False
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                self._end = self._read(each)
            except BaseException:
                os.close(self._file)
                raise
        except OSError as exc:
            raise _unwritable(path, exc) from exc
        self._synced = time.monotonic()

    def _read(self, each: Callable[[L, Entry], None]) -> int:
        """Fill the index, and cut a half-written last line off. Returns where the file ends."""
        end, damaged, replaced = 0, 0, False
        same: dict[bytes, bytes] = {}
        with open(self._file, "rb", closefd=False) as file:
            for number, raw in enumerate(file, 1):
                line = self._parse(raw, number)
                if not raw.endswith(b"\n"):
                    if line is None:
                        log.info("%s: the last line was half written; its picture is told again.", self.path)
                        os.ftruncate(self._file, end)
                        break
                    _write(self._file, b"\n")
                if line is None:
                    damaged += 1
                else:
                    entry = Entry(line.stamp, same.setdefault(line.asked, line.asked), end, len(raw))
                    replaced = replaced or line.file_name in self.index
                    self.index[line.file_name] = entry
                    each(line, entry)
                end += len(raw)
        if damaged and not self.index:
            raise FolderError(f"{str(self.path)!r} was not written by vlm caption; {_ELSEWHERE}")
        if damaged:
            log.warning("%s: %d damaged lines are dropped; their pictures are told again.", self.path, damaged)
        self._dirty = bool(damaged) or replaced
        return os.fstat(self._file).st_size

    def _parse(self, raw: bytes, number: int) -> L | None:
        """The line; None where it is damaged. Raises FolderError where it is whole and not one of ours."""
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as exc:
            raise FolderError(
                f"{str(self.path)!r}, line {number}, was not written by vlm caption ({exc}); {_ELSEWHERE}"
            ) from exc
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def append(self, line: L) -> Entry:
        """Write a picture's line; the kernel has it when this returns. Raises FolderError, and then no part of it."""
        raw = self._encoder.encode(line) + b"\n"
        try:
            _write(self._file, raw)
            if time.monotonic() - self._synced >= SYNC_S:
                self.sync()
        except OSError as exc:
            os.ftruncate(self._file, self._end)
            raise _unwritable(self.path, exc) from exc
        self._dirty = self._dirty or line.file_name in self.index
        self.index[line.file_name] = entry = Entry(line.stamp, line.asked, self._end, len(raw))
        self._end += len(raw)
        return entry

    def read(self, entry: Entry) -> L:
        """The line at a place in the index."""
        return self._decoder.decode(os.pread(self._file, entry.length, entry.offset))

    def holds(self, name: str, stamp: Stamp, question: bytes) -> bool:
        """Whether there is a line about this picture, unchanged, under this question."""
        entry = self.index.get(name)
        return entry is not None and (entry.stamp, entry.asked) == (stamp, question)

    def forget(self, name: str) -> None:
        """Take a picture's line out of what counts; it leaves the file when that is rewritten."""
        self._dirty |= self.index.pop(name, None) is not None

    def sync(self) -> None:
        """See what was written onto the disk."""
        os.fdatasync(self._file)
        self._synced = time.monotonic()

    def compact(self) -> None:
        """Leave only lines that count, and no file where there are none; the last thing done. Raises FolderError."""
        try:
            self.sync()
            if self._dirty and self.index:
                self._rewrite()
            if not self.index:
                self.path.unlink(missing_ok=True)
            _sync_folder(self.path.parent)
        except OSError as exc:
            raise _unwritable(self.path, exc) from exc
        self._dirty = False

    def _rewrite(self) -> None:
        beside = self.path.with_name(f".{self.path.name}.new")
        moved, end = dict[str, Entry](), 0
        with open(beside, "w+b") as file:
            for name, entry in sorted(self.index.items(), key=lambda item: item[1].offset):
                file.write(os.pread(self._file, entry.length, entry.offset))
                moved[name] = entry._replace(offset=end)
                end += entry.length
            file.flush()
            os.fsync(file.fileno())
            os.replace(beside, self.path)
            os.close(self._file)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self.index, self._end = moved, end

    def close(self) -> None:
        """Close the file; every line in it stays."""
        os.close(self._file)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder while this process lives. Raises FolderError where one is at work."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.EACCES):
            os.close(descriptor)
            raise FolderError(f"Another vlm caption is at work in {str(folder)!r}; wait for it, or stop it.") from exc
        log.warning("%s cannot be locked (%s): see that no second run works in it.", folder, exc.strerror)
    try:
        yield
    finally:
        os.close(descriptor)


def write_beside(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    beside = path.with_name(f".{path.name}.new"[:255])
    beside.write_bytes(data)
    os.replace(beside, path)


def _write(descriptor: int, data: bytes) -> None:
    view: Any = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, exc: OSError) -> FolderError:
    return FolderError(
        f"{str(path)!r} cannot be written: {exc.strerror or exc}. Free space or give write permission; what was told "
        "so far is kept."
    )
