"""What the runtime's own lines say: facts about the pair of runtime and model, and why a model did not load.

Sources: the lines and the answers to them in the issues of airockchip/rknn-llm and NotPunchnox/rkllama, by number where
they stand below. The text of a failure differs between releases; what no line tells, the facts may.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from vlm.errors import (
    DriverTooOldError,
    ModelFileError,
    ModelLoadError,
    NPUMemoryError,
    OptionError,
    RkvlmError,
    RuntimeTooOldError,
    WrongPlatformError,
)
from vlm.rkllm.messages import severity

OLDEST_DRIVER = "0.9.8"
_QUOTED = 12  # a failing runtime may repeat itself for every operator of the model
_TOOLKIT_MARK = re.compile(rb"rkllm-toolkit version: ?([0-9][0-9A-Za-z.]*)\s*\0*\Z")
_STAMP = re.compile(r"\[\d\d:\d\d:\d\d\.\d+\] ?")


@dataclass(frozen=True)
class RuntimeFacts:
    """What the runtime said of itself, the board and the model; None where it did not, which depends on the release.

    runtime, driver, toolkit: versions. platform: the board's SoC, target_platform: the SoC that the model was made
    for. max_context_limit: the longest context, in tokens, that the model was converted for. npu_core_num: the NPU
    cores that it uses.
    """

    runtime: str | None = None
    driver: str | None = None
    platform: str | None = None
    toolkit: str | None = None
    max_context_limit: int | None = None
    npu_core_num: int | None = None
    target_platform: str | None = None
    model_dtype: str | None = None


_NAMES = {
    "runtime": "rkllm-runtime version",
    "driver": "rknpu driver version",
    "platform": "platform",
    "toolkit": "rkllm-toolkit version",
    "max_context_limit": "max_context_limit",
    "npu_core_num": "npu_core_num",
    "target_platform": "target_platform",
    "model_dtype": "model_dtype",
}


def read_facts(lines: Sequence[str]) -> RuntimeFacts:
    """Read the facts from the lines of one `rkllm_init`."""
    text = "\n".join(line for line in lines if line.startswith("I rkllm: ") and "loading rkllm model" not in line)
    found: dict[str, Any] = {}
    for name, words in _NAMES.items():
        value = re.search(rf"\b{words}: *([^,\s]+)", text)
        if value and value.group(1) not in ("unknown", "none"):
            found[name] = value.group(1)
    for name in ("max_context_limit", "npu_core_num"):
        number = found.pop(name, "")
        found[name] = int(number) if number.isdecimal() else None
    return RuntimeFacts(**found)


def version(text: str | None) -> tuple[int, ...]:
    """A version to compare by, "1.2.1b1" before "1.2.1"; empty, which is before all, where there is none."""
    parts = re.match(r"v?(\d+)\.(\d+)\.(\d+)(?:b(\d+))?", text or "")
    if parts is None:
        return ()
    *numbers, beta = parts.groups()
    return (*map(int, numbers), int(beta) if beta else 1 << 16)


@dataclass(frozen=True)
class Attempt:
    """One `rkllm_init`: what it was asked, what it returned and what it said.

    release: that of the library. context: the max_context_len asked for, None for the runtime's own.
    """

    path: str
    origin: str
    release: str
    code: int = 0
    handle: bool = True
    context: int | None = None
    lines: Sequence[str] = ()
    facts: RuntimeFacts = field(default_factory=RuntimeFacts)

    @property
    def problems(self) -> list[str]:
        """The lines that are warnings or errors, each once."""
        kept: dict[str, str] = {}
        for line in self.lines:
            if severity(line) in ("W", "E", "F"):
                kept.setdefault(_STAMP.sub("", line), line)
        return list(kept.values())

    @property
    def loaded(self) -> bool:
        """Whether there is a model behind the handle, whatever `rkllm_init` returned."""
        # 1.1.x returns 0 and a handle for a file that it could not load, and dies of it in the first run (#129, #156).
        broken = any(re.search("load model file error|rknn_init fail|rkllm_init failed", line) for line in self.lines)
        return self.code == 0 and self.handle and not broken

    @property
    def failed(self) -> bool:
        """Whether there is no model to use."""
        return not self.loaded or _context_too_long(self)


class Cause(NamedTuple):
    """Why a model does not load: the error, what to say, and how it is known: by a line's words, or by the facts."""

    kind: type[RkvlmError]
    text: str
    words: str = ""
    when: Callable[[Attempt], bool] = lambda attempt: False


def _context_too_long(attempt: Attempt) -> bool:
    limit = attempt.facts.max_context_limit
    return limit is not None and attempt.context is not None and attempt.context > limit


def _other_platform(attempt: Attempt) -> bool:
    here, target = attempt.facts.platform, attempt.facts.target_platform
    # RK3588S is an RK3588 to the NPU
    return bool(here and target) and str(here).upper().rstrip("S") != str(target).upper().rstrip("S")


def _toolkit_is_newer(attempt: Attempt) -> bool:
    made = version(attempt.facts.toolkit)
    return bool(made) and made > version(attempt.facts.runtime or attempt.release)


def driver_is_old(facts: RuntimeFacts) -> bool:
    """Whether the NPU's driver is known, and older than what the vendor asks for."""
    return () < version(facts.driver) < version(OLDEST_DRIVER)


CAUSES: tuple[Cause, ...] = (
    Cause(
        OptionError,
        "A context of {context} tokens was asked for, and the model was converted for at most {max_context_limit}. Set "
        "max_context_len to no more than that, or convert the model with a larger max_context.",
        r"max_context(?:_len)?\W(?P<context>\d+)\W.*max_context_limit\W(?P<max_context_limit>\d+)",
        _context_too_long,
    ),
    Cause(
        OptionError,
        "The model uses {npu_core_num} NPU cores and wants no fewer CPUs; enable more in cpu_mask.",
        "number of enabled CPUs must be greater",
    ),
    Cause(  # rknn-llm #17, #62
        ModelLoadError,
        "The process has no file descriptors left. Allow it more, with `ulimit -n 65536` before it is started, say.",
        "Too many open files",
    ),
    Cause(  # rknn-llm #139, #195, #232, #335
        NPUMemoryError,
        "The NPU has no memory for it. An IOMMU domain of the NPU has 4 GB, and holds everything that is loaded in it: "
        "close other models and programs that use the NPU, put this model in another base_domain_id, or take a smaller "
        "one.",
        "failed to malloc npu memory|can not create weight memory|weight_memory is NULL",
    ),
    Cause(  # rknn-llm #290, #413, #449
        DriverTooOldError,
        f"The NPU could not multiply matrices. Its driver is {{driver}}; {OLDEST_DRIVER} or newer is needed. Update "
        "the board's kernel (/sys/kernel/debug/rknpu/version says the driver's version).",
        r"matmul\S* run failed",
    ),
    Cause(  # rknn-llm #416, #530
        ModelLoadError,
        "The runtime does not find an SoC that it knows (RK3588, RK3576, RK3562, RV1126B). Check that the kernel has "
        "the vendor's rknpu driver, and that /proc/device-tree/compatible can be read, in a container too.",
        "Platform error|Query platform error|Your platform is",
    ),
    Cause(
        WrongPlatformError,
        "The model was made for another SoC ({target_platform}) than this one ({platform}). Convert it for this one "
        "(target_platform), or take a file made for it.",
        "target_platform does not match",
        _other_platform,
    ),
    Cause(  # rkllama #55
        RuntimeTooOldError,
        "The model was made with rkllm-toolkit {toolkit}, and the runtime is older: {runtime}. Install librkllmrt.so "
        "{toolkit} or newer, or convert the model with a toolkit no newer than the runtime.",
        when=_toolkit_is_newer,
    ),
    Cause(
        ModelFileError,
        "The model was made with a toolkit too old for runtime {runtime}. Convert it again with a newer rkllm-toolkit.",
        "model version is too old",
    ),
    Cause(  # rknn-llm #129, #235, rkllama #55
        ModelFileError,
        "It is no .rkllm file that runtime {runtime} can read: a .rknn, a file cut short, a git-lfs pointer, or one "
        "made by a toolkit far from the runtime's release. Copy it again, or convert it with rkllm-toolkit {runtime}.",
        "invalid rkllm model|invalid rknn llm model magic|invalid magic",
    ),
    Cause(
        NPUMemoryError,
        "The runtime gave no handle, which is what it does when the NPU has no memory left: close other models and "
        "programs that use the NPU, or put this model in another base_domain_id.",
        when=lambda attempt: attempt.code == 0 and not attempt.handle,
    ),
    Cause(
        DriverTooOldError,
        f"The NPU's driver is {{driver}}; {OLDEST_DRIVER} or newer is needed. Update the board's kernel.",
        when=lambda attempt: driver_is_old(attempt.facts),
    ),
)
"""From what is known of a failed load to our errors: the first row that fits counts. The one place for this."""


def find_cause(attempt: Attempt) -> tuple[Cause | None, str]:
    """The row of CAUSES that a failed load belongs to, or None, and its text filled in."""
    if attempt.facts.toolkit is None:
        attempt = replace(attempt, facts=replace(attempt.facts, toolkit=toolkit_of(attempt.path)))
    for cause in CAUSES:
        matches = [m for m in (re.search(cause.words, line) for line in attempt.problems if cause.words) if m]
        if matches or cause.when(attempt):
            given = vars(attempt.facts) | {"context": attempt.context}
            given["runtime"] = attempt.facts.runtime or attempt.release
            for match in reversed(matches):  # the first line that says a thing counts
                given |= {name: value for name, value in match.groupdict().items() if value is not None}
            return cause, cause.text.format_map({k: "unknown" if v is None else v for k, v in given.items()})
    return None, ""


def load_error(attempt: Attempt) -> RkvlmError:
    """The error for a failed load: why, what to do, and what the runtime itself said."""
    cause, why = find_cause(attempt)
    did = f"rkllm_init returned {attempt.code}" + ("" if attempt.handle or attempt.code else " and no handle")
    said = attempt.problems
    more = f"; and {len(said) - _QUOTED} more lines" if len(said) > _QUOTED else ""
    quoted = (
        f"said: {'; '.join(said[:_QUOTED])}{more}"
        if said
        else "did not say why; with RKLLM_LOG_LEVEL=2 in the environment it says more."
    )
    runtime = f"The runtime ({attempt.origin}, release {attempt.release})"
    text = f"The runtime would not load {attempt.path}. {why}{' ' if why else ''}{did}. {runtime} {quoted}"
    return (cause.kind if cause else ModelLoadError)(text)


def run_advice(facts: RuntimeFacts) -> str:
    """What the facts have to say about a run that failed; empty where they say nothing."""
    if not driver_is_old(facts):
        return ""
    return f" The NPU's driver is {facts.driver}; {OLDEST_DRIVER} or newer is needed: update the board's kernel first."


def toolkit_of(path: str | os.PathLike[str]) -> str | None:
    """The version of the toolkit that made a .rkllm file: the last bytes of the file say it; None where they do not.

    Seen in published files of toolkits 1.1.4 and 1.3.1; a runtime that is too old for a file does not print it.
    """
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
            mark = _TOOLKIT_MARK.search(file.read())
    except OSError:  # a directory (the host's), or gone: no version to be had
        return None
    return mark.group(1).decode("ascii") if mark else None
