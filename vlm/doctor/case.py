"""What is examined: a system under a root directory, and the model that is to run on it."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from vlm.errors import OptionError, RkvlmError
from vlm.locate import find_part, find_profile, given_part
from vlm.npu import Soc, find_soc
from vlm.profile import FilePart, Profile
from vlm.settings import Settings

Level = Literal["fine", "warning", "error"]
WHEEL = "rknn-toolkit-lite2"


@dataclass(frozen=True)
class Line:
    """One line of the page. found: what is there. advice: what to do; empty where there is nothing to do."""

    topic: str
    level: Level
    found: str
    advice: str = ""


class Machine:
    """A system under `root`. Paths of its own are relative to that, without a leading slash.

    Of the system that runs us, permissions are this process's, and the Python is this one. Of another one, the Python
    is the newest in its /usr, and what is closed to all but a file's owner counts as closed.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.here = root.resolve() == Path("/")
        self.soc: Soc | None = find_soc(root)

    def text(self, name: str) -> str | None:
        """What a file says, without the space around it; None where there is none that may be read."""
        if self.closed(name):
            return None
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
        except OSError:
            return None

    def glob(self, pattern: str) -> list[Path]:
        """Every path that fits, in order."""
        return sorted(self.root.glob(pattern))

    def exists(self, name: str) -> bool:
        """Whether there is such a file or directory, as far as one may look."""
        return not self.closed(name) and (self.root / name).exists()

    def closed(self, name: str) -> bool:
        """Whether a directory on the way there may not be entered, or the file not be read."""
        path = self.root / name
        way = [place for place in path.parents if place != self.root and self.root in place.parents]
        if any(place.is_dir() and not self.may(place, os.X_OK) for place in reversed(way)):
            return True
        return path.exists() and not self.may(path, os.R_OK)

    def may(self, path: Path, how: int) -> bool:
        """Whether a file may be used so (os.R_OK, os.W_OK, os.X_OK)."""
        if self.here:
            return os.access(path, how)
        mode = path.stat().st_mode
        return mode & how == how or mode >> 3 & how == how

    def shown(self, path: Path) -> str:
        """A path as that system itself has it."""
        try:
            return f"/{path.relative_to(self.root)}"
        except ValueError:
            return str(path)

    @property
    def machine(self) -> str:
        """What the system is built for: aarch64, x86_64."""
        if self.here:
            return platform.machine()
        found = self.glob("usr/lib/*-linux-gnu")
        return found[0].name.partition("-")[0] if found else "unknown"

    @property
    def in_container(self) -> bool:
        """Whether it is the inside of a container: the two marks that Docker and Podman leave."""
        return self.exists(".dockerenv") or self.exists("run/.containerenv")

    @property
    def hides_soc(self) -> bool:
        """Whether this may be a board whose device tree cannot be seen: containers mask it."""
        return self.soc is None and self.in_container and self.machine == "aarch64"

    @property
    def python(self) -> tuple[int, int] | None:
        """The version of its Python."""
        if self.here:
            return sys.version_info[:2]
        names = (re.fullmatch(r"python(\d+)\.(\d+)", path.name) for path in self.glob("usr/bin/python3.*"))
        return max(((int(name[1]), int(name[2])) for name in names if name), default=None)

    @property
    def wheel(self) -> str | None:
        """The release of rknn-toolkit-lite2 that its Python has."""
        if not self.here:
            found = self.glob("usr/**/rknn_toolkit_lite2-*.dist-info")
            return found[-1].name.split("-")[1].removesuffix(".dist") if found else None
        try:
            return metadata.version(WHEEL)
        except metadata.PackageNotFoundError:
            return None


@dataclass(frozen=True)
class Case:
    """A machine and the model that it is to run.

    encoder, llm: their files; None where there is none, and `missing` then says why, in words. profile: None where none
    was found, `missing` saying why under "profile".
    """

    machine: Machine
    settings: Settings
    profile: Profile | None = None
    encoder: Path | None = None
    llm: Path | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def on_npu(self) -> bool:
        """Whether a file of the model is one for the NPU."""
        return any(path is not None and path.suffix in (".rknn", ".rkllm") for path in (self.encoder, self.llm))

    @property
    def on_board(self) -> bool:
        """Whether the NPU's own software counts: the machine has one, or is a container that hides whether it has."""
        return self.machine.soc is not None or (self.machine.hides_soc and self.on_npu)


def make_case(
    machine: Machine,
    settings: Settings,
    model: str | Path | None = None,
    *,
    encoder: str | Path | None = None,
    llm: str | Path | None = None,
) -> Case:
    """The case of a model, or of files of the user's own, on a machine; what is missing is part of it."""
    missing: dict[str, str] = {}
    found: dict[FilePart, Path | None] = {"encoder": None, "llm": None}
    profile, directory = None, Path()
    try:
        profile, directory = find_profile(model, settings)
    except RkvlmError as exc:
        missing["profile"] = str(exc)
    given: dict[FilePart, str | Path | None] = {"encoder": encoder, "llm": llm}
    for part, file in given.items():
        try:
            if file is not None:
                found[part] = given_part(file, part)
            elif profile is not None:
                found[part] = find_part(profile, directory, part)
        except RkvlmError as exc:
            missing[part] = str(exc)
    if not machine.here and model is None and (encoder is None or llm is None):
        raise OptionError("Of another system than this one, say which model is meant: --model, or --encoder and --llm.")
    return Case(machine, settings, profile, found["encoder"], found["llm"], missing)
