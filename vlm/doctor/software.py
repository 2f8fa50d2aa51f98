"""The vendor's libraries, the wheel and the Python that it is for."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from vlm.doctor.case import WHEEL, Case, Line
from vlm.errors import LibraryError
from vlm.rkllm.diagnosis import version
from vlm.rkllm.elf import check_library_file
from vlm.rkllm.library import LIBRARY_NAME, choose_release, find_library

# As librknnrt.so 1.3.0 to 2.3.2 have printed it in public issues (airockchip/rknn-toolkit2 #254, #281, #405).
_RKNN_VERSION = re.compile(rb"librknnrt version: ?(\d+\.\d+\.\d+)")
# The one place where the wheel looks for it.
_RKNN_LIBRARY = "usr/lib/librknnrt.so"
_LAST_PYTHON = (3, 12)


def check_rkllm_library(case: Case) -> Iterator[Line]:
    """librkllmrt.so: where it is, which release, and whether that is new enough for the profile."""
    if not case.on_board:
        return
    machine, settings = case.machine, case.settings
    named = settings.rkllm_lib if machine.here else None
    try:
        file = find_library(named, root=machine.root)
        check_library_file(file, machine.machine)
        release = choose_release(file, settings.rkllm_release if machine.here else None).release
    except LibraryError as exc:
        yield Line(LIBRARY_NAME, "error", _within(case, str(exc)))
        return
    found = f"release {release}, {machine.shown(file)}"
    needed = case.profile.min_release if case.profile else release
    if version(release) < version(needed):
        advice = f"install {LIBRARY_NAME} {needed} or newer"
        yield Line(LIBRARY_NAME, "error", f"{found}; the model needs {needed}", advice)
    else:
        yield Line(LIBRARY_NAME, "fine", found)


def _within(case: Case, text: str) -> str:
    """An error's text with that system's own paths."""
    return text if case.machine.here else text.replace(str(case.machine.root), "")


def check_rknn_library(case: Case) -> Iterator[Line]:
    """librknnrt.so: where it is and which version, beside the wheel's."""
    if not case.on_board:
        return
    machine = case.machine
    file = machine.root / _RKNN_LIBRARY
    if not file.is_file():
        other = next(iter(machine.glob("usr/local/lib/librknnrt.so") + machine.glob("usr/lib/*/librknnrt.so")), None)
        found = f"not at /{_RKNN_LIBRARY}, the one place where {WHEEL} looks"
        advice = (
            f"`sudo ln -s {machine.shown(other)} /{_RKNN_LIBRARY}`"
            if other
            else "copy it there from airockchip/rknn-toolkit2, rknpu2/runtime/Linux/librknn_api/aarch64"
        )
        yield Line("librknnrt.so", "error", found, advice)
        return
    try:
        check_library_file(file, machine.machine)
    except LibraryError as exc:
        yield Line("librknnrt.so", "error", _within(case, str(exc)))
        return
    told = _find(file, _RKNN_VERSION)
    found = f"version {told or 'not said in the file'}, {machine.shown(file)}"
    if told and machine.wheel and version(told)[:2] != version(machine.wheel)[:2]:
        advice = f"take both of the same release: librknnrt.so {machine.wheel}, or {WHEEL} {told}"
        yield Line("librknnrt.so", "warning", f"{found}; {WHEEL} is {machine.wheel}", advice)
    else:
        yield Line("librknnrt.so", "fine" if told else "warning", found)


def _find(path: Path, pattern: re.Pattern[bytes]) -> str | None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        match = pattern.search(data)
        return match[1].decode("ascii") if match else None


def check_python(case: Case) -> Iterator[Line]:
    """The Python, and the vendor's wheel in it."""
    machine = case.machine
    python = machine.python
    spoken = ".".join(map(str, python)) if python else "not found"
    last = ".".join(map(str, _LAST_PYTHON))
    if not case.on_board:
        yield Line("Python", "fine", spoken)
        return
    if python and python > _LAST_PYTHON:
        advice = f"make the environment with Python {last} or older; the vendor has no {WHEEL} for newer ones"
        yield Line("Python", "error", f"{spoken}: no NPU encoder on it", advice)
    else:
        yield Line("Python", "fine" if python else "warning", spoken)
    if machine.wheel:
        yield Line(WHEEL, "fine", machine.wheel)
    else:
        yield Line(WHEEL, "error", "not installed in this Python", f"`pip install {WHEEL}` (Python {last} or older)")
