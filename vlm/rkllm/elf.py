"""What a library file says about itself, read from its bytes before anything of it is loaded.

A loader given a damaged file can crash the process, and a library given a struct of another release will: so the file
is looked at first. Facts: the ELF specification; the release string is the one the vendor's library carries,
`RKLLM SDK (version: 1.2.3 ...`.
"""

from __future__ import annotations

import mmap
import platform
import re
import struct
from pathlib import Path

from vlm.errors import LibraryFormatError, LibraryMachineError

_MACHINES = {3: "32-bit x86", 40: "32-bit ARM", 62: "x86-64", 183: "aarch64", 243: "RISC-V"}
_PYTHON_MACHINES = {"x86_64": 62, "amd64": 62, "aarch64": 183, "arm64": 183}
_RELEASE = re.compile(rb"RKLLM SDK \(version: ?v?(\d+\.\d+\.\d+[0-9A-Za-z.\-]*)")
_SHARED_OBJECT, _LOADABLE = 3, 1


def check_library_file(path: Path, machine: str | None = None) -> None:
    """Raise LibraryFormatError or LibraryMachineError unless `path` is a whole ELF library for `machine`.

    machine: as `platform.machine` has it; None is this one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(64)
            if header[:4] != b"\x7fELF":
                raise LibraryFormatError(
                    f"{path} is not a shared library: it begins with {header[:8]!r}, not with the ELF mark. "
                    "Take it from the vendor's runtime; often a git-lfs pointer or a web page lies in its place."
                )
            _check_header(path, header, machine or platform.machine())
            offset = int(struct.unpack_from("<Q", header, 32)[0])
            entry, count = (int(n) for n in struct.unpack_from("<HH", header, 54))
            file.seek(offset)
            _check_whole(path, size, file.read(entry * count), entry, count)
    except OSError as exc:
        raise LibraryFormatError(f"{path} cannot be read: {exc}.") from exc


def _check_header(path: Path, header: bytes, here: str) -> None:
    if len(header) < 64 or header[4] != 2 or header[5] != 1:
        raise LibraryFormatError(f"{path} is not a 64-bit little-endian library; librkllmrt.so has no other form.")
    kind, machine = struct.unpack_from("<HH", header, 16)
    wanted = _PYTHON_MACHINES.get(here.lower())
    if struct.calcsize("P") != 8:
        raise LibraryMachineError(f"This Python is 32-bit and {path} is 64-bit; use a 64-bit Python.")
    if machine != wanted:
        raise LibraryMachineError(
            f"{path} is built for {_MACHINES.get(machine, f'machine {machine}')}, and this is {here}. "
            "The vendor's library exists for aarch64 boards; on a PC use the host runtime."
        )
    if kind != _SHARED_OBJECT:
        raise LibraryFormatError(f"{path} is an ELF file, but not a shared library (type {kind}).")


def _check_whole(path: Path, size: int, headers: bytes, entry: int, count: int) -> None:
    """A file cut short is mapped by the loader all the same, and kills the process at the first touch (SIGBUS)."""
    if entry < 56 or len(headers) < entry * count:
        raise LibraryFormatError(f"{path} is cut short or damaged: its program headers are not whole. Copy it again.")
    for at in range(0, entry * count, entry):
        kind, _, begin, _, _, length = struct.unpack_from("<IIQQQQ", headers, at)
        if kind == _LOADABLE and begin + length > size:
            raise LibraryFormatError(
                f"{path} is cut short: {size} bytes, and it says it has {begin + length}. Copy it again."
            )


def find_releases(path: Path) -> tuple[str, ...]:
    """The release strings found in a library file, each once, in the order in which they stand there."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return tuple(dict.fromkeys(m.group(1).decode("ascii").rstrip(".-") for m in _RELEASE.finditer(data)))
