"""The language model's file: what it is, and whether this machine and its runtime are for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vlm.doctor.case import Case, Line
from vlm.doctor.content import WORDS, kind_of
from vlm.errors import LibraryError
from vlm.npu import SOCS
from vlm.rkllm.diagnosis import toolkit_of, version
from vlm.rkllm.library import choose_release, find_library

_TOPIC = "language model"


def check_llm(case: Case) -> Iterator[Line]:
    """What was given as the language model."""
    if case.llm is None:
        if "llm" in case.missing:
            yield Line(_TOPIC, "error", case.missing["llm"])
        return
    name = case.machine.shown(case.llm)
    try:
        kind = kind_of(case.llm)
    except OSError as exc:
        yield Line(_TOPIC, "error", f"{name} cannot be read: {exc.strerror}")
        return
    if kind == "onnx directory":
        yield Line(_TOPIC, "fine", f"{name}: {WORDS[kind]}")
    elif kind in ("rknn", "onnx"):
        advice = "give it as the encoder (--encoder), and a .rkllm as the language model (--llm)"
        yield Line(_TOPIC, "error", f"{name} is {WORDS[kind]}; it was given as the language model", advice)
    elif kind != "rkllm" and (kind != "unknown" or case.llm.suffix != ".rkllm"):
        yield Line(_TOPIC, "error", f"{name} is {WORDS[kind]}", "fetch the .rkllm anew, with `vlm pull` for one")
    elif not case.on_board:
        advice = "use an ONNX model here; on a board this one runs"
        yield Line(_TOPIC, "error", f"{name} is {WORDS['rkllm']}, and this machine has none", advice)
    else:
        yield from _check_rkllm(case, case.llm, name)


def _check_rkllm(case: Case, path: Path, name: str) -> Iterator[Line]:
    toolkit, release, soc = toolkit_of(path), _release(case), case.machine.soc
    if toolkit is None:
        advice = "if the runtime refuses it: copy it again, or convert it with rkllm-toolkit 1.1.4 or newer"
        yield Line(_TOPIC, "warning", f"{name} does not say that it is a .rkllm, nor which toolkit made it", advice)
        return
    found = f"{name}, made with rkllm-toolkit {toolkit}"
    named = soc_in_name(path)
    if release and version(toolkit) > version(release):
        advice = f"install librkllmrt.so {toolkit} or newer, or take a model made with {release} or older"
        yield Line(_TOPIC, "error", f"{found}; the runtime is older: {release}", advice)
    elif soc and named and named != soc.name:
        advice = f"take the file for {soc.name}: the runtime refuses another SoC's"
        yield Line(_TOPIC, "warning", f"{found}; its name says {named}, and this is {soc.name}", advice)
    else:
        yield Line(_TOPIC, "fine", f"{found}; for which SoC and cores, the runtime says once it is open")


def _release(case: Case) -> str | None:
    """The release of the runtime, where one is there; what is wrong with it is said on its own line."""
    settings, here = case.settings, case.machine.here
    try:
        file = find_library(settings.rkllm_lib if here else None, root=case.machine.root)
        return choose_release(file, settings.rkllm_release if here else None).release
    except (LibraryError, OSError, ValueError):
        return None


def soc_in_name(path: Path) -> str | None:
    """The SoC that a file's name names, as the vendor's converters write it."""
    found = re.search("|".join(SOCS), path.name.lower())
    return found[0] if found else None
