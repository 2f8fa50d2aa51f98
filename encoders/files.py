"""Encoder files: which one it is, what it is by its content, and which SoCs a .rknn was built for."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from encoders.errors import EncoderFileError

RKNN_MAGIC = b"RKNN"
# A .rknn is: magic, version at 8, size of the network at 16, the network from 64 on, then the size of a JSON text and
# the text. As rknn-toolkit2 2.3 and 2.5 write it, and as the vendor's wheel reads it.
_NETWORK_AT = 64
_MAX_TEXT = 16 << 20


def file_identity(path: Path) -> str:
    """The file's place, size and time of change: another file, or the same one exported anew, has another identity.

    Raises EncoderFileError where there is no such file.
    """
    try:
        status = path.stat()
    except OSError as exc:
        raise EncoderFileError(f"{str(path)!r} cannot be read: {exc.strerror}.") from exc
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def begins(path: Path, magic: bytes) -> bool:
    """Whether the file begins with `magic`. Raises EncoderFileError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as exc:
        raise EncoderFileError(f"{str(path)!r} cannot be read: {exc.strerror}.") from exc


def rknn_targets(path: Path) -> tuple[str, ...]:
    """The SoCs that a .rknn was built for, like ("rk3588",); empty where the file does not say it in a known way.

    Reads the beginning and the end of the file only. Raises EncoderFileError where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_NETWORK_AT)
            if len(head) < _NETWORK_AT or not head.startswith(RKNN_MAGIC):
                return ()
            text_at = _NETWORK_AT + struct.unpack_from("<Q", head, 16)[0]
            if text_at + 8 > os.fstat(file.fileno()).st_size:
                return ()
            file.seek(text_at)
            (size,) = struct.unpack("<Q", file.read(8))
            told = json.loads(file.read(size)) if size <= _MAX_TEXT else {}
    except OSError as exc:
        raise EncoderFileError(f"{str(path)!r} cannot be read: {exc.strerror}.") from exc
    except (ValueError, RecursionError):  # JSON of another kind, or none
        return ()
    targets = told.get("target_platform") if isinstance(told, dict) else None
    return (
        tuple(target.lower() for target in targets or () if isinstance(target, str))
        if isinstance(targets, list)
        else ()
    )
