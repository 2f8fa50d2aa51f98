"""LoRA adapters as they are named in settings and on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vlm.errors import OptionError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA adapter to load. name: what a question calls it. scale: how strongly it counts; 1 is as trained."""

    name: str
    file: Path
    scale: float = 1.0


def adapter_file(text: str) -> AdapterFile:
    """Read `[NAME=]FILE[@SCALE]`; without a name, it is the file's without its ending. Raises OptionError."""
    name, equals, rest = text.partition("=")
    if not equals:
        name, rest = "", text
    file, at, scale = rest.rpartition("@")
    try:
        number = float(scale) if at else 1.0
    except ValueError:
        file, number = rest, 1.0  # an @ of the path's own
    path = Path(file if at and file else rest).expanduser()
    name = name or path.stem
    if not _NAME.fullmatch(name) or not path.name:
        raise OptionError(
            f"A LoRA adapter is given as [NAME=]FILE[@SCALE], NAME of letters, digits, ., - and _; got {text!r}."
        )
    return AdapterFile(name, path, number)
