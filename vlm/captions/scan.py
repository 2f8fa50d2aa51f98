"""Which pictures a folder holds, seen without reading any of them."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from vlm.errors import FolderError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class Stamp(NamedTuple):
    """What tells a changed picture without reading it: its size in bytes and its time of change in nanoseconds."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp in what stat() says."""
        return cls(status.st_size, status.st_mtime_ns)


class Found(NamedTuple):
    """A picture: its name below the folder, with / between the parts, and its stamp."""

    name: str
    stamp: Stamp


class Choice(BaseModel):
    """Which pictures are wanted. What is drawn or mixed is so by a hash of the names: a run that goes on later draws
    the same ones, and meets them in the same order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", title="Which pictures")

    recursive: bool = Field(default=False, description="The folders within the folder too.")
    include: tuple[str, ...] = Field(
        default=(), description="Only what has a name or path like this glob; may be repeated."
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="No picture or folder with a name or path like this glob; may be repeated."
    )
    sample: int | None = Field(default=None, ge=1, description="Only so many, drawn at random.")
    shuffle: bool = Field(default=False, description="In a mixed order.")
    limit: int | None = Field(default=None, ge=1, description="Only the first so many.")


def root_of(paths: Sequence[Path], out: Path | None = None) -> Path:
    """The folder that metadata.jsonl lies in: the one folder given, or the one that holds all that was given, or `out`.

    Raises FolderError where something is missing, or lies outside `out`: the loader follows no path that leads up.
    """
    for path in paths:
        if not path.exists():
            raise FolderError(f"There is no file or folder {str(path)!r}.")
        if not (path.is_dir() or path.is_file()):
            raise FolderError(f"{str(path)!r} is neither a folder nor a regular file; give the picture's own file.")
    places = [Path(os.path.abspath(path if path.is_dir() else path.parent)) for path in paths]
    common = Path(os.path.commonpath(places))
    if out is None:
        return common
    root = Path(os.path.abspath(out))
    if not root.is_dir() or not common.is_relative_to(root):
        raise FolderError(
            f"The pictures lie in {str(common)!r}, which is not within {str(out)!r}; metadata.jsonl has to lie beside "
            "or above them. Give a folder that holds them."
        )
    return root


def find_pictures(paths: Sequence[Path], root: Path, choice: Choice) -> list[Found]:
    """The pictures among the files and in the folders given, each once, in the order they are to be told.

    Files given by name are taken whatever their suffix; in folders, those with a picture's suffix whose names do not
    begin with a dot. Links to folders are not followed. Raises FolderError where a folder cannot be read.
    """
    found: dict[str, Found] = {}
    for path in paths:
        absolute = os.path.abspath(path)
        files = _walk(absolute, root, choice) if os.path.isdir(absolute) else iter([absolute])
        for file in files:
            name = os.path.relpath(file, root)
            stamp = _stamp(file) if _wanted(name, choice) else None
            if stamp is not None:
                found[name] = Found(name, stamp)
    return _chosen(sorted(found.values()), choice)


def _walk(folder: str, root: Path, choice: Choice) -> Iterator[str]:
    def refuse(exc: OSError) -> None:
        raise FolderError(f"The folder {exc.filename!r} cannot be read: {exc.strerror}.") from exc

    for place, folders, files in os.walk(folder, onerror=refuse):
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield os.path.join(place, name)
        below = (name for name in folders if choice.recursive and not name.startswith("."))
        folders[:] = [name for name in below if not _matches(_relative(place, name, root), choice.exclude)]


def _relative(place: str, name: str, root: Path) -> str:
    return os.path.relpath(os.path.join(place, name), root)


def _stamp(path: str) -> Stamp | None:
    """The stamp of a regular file; None for anything else, and for what has gone in the meantime."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None


def _wanted(name: str, choice: Choice) -> bool:
    return (not choice.include or _matches(name, choice.include)) and not _matches(name, choice.exclude)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    base = os.path.basename(name)
    return any(fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(base, pattern) for pattern in patterns)


def _chosen(found: list[Found], choice: Choice) -> list[Found]:
    if choice.sample is not None:
        found = sorted(sorted(found, key=_drawn)[: choice.sample])
    if choice.shuffle:
        found = sorted(found, key=_drawn)
    return found[: choice.limit]


def _drawn(found: Found) -> bytes:
    """A place in an order that has nothing to do with names, and is the same each time."""
    return hashlib.blake2b(os.fsencode(found.name), digest_size=8).digest()
