"""What the tests of the engine share: questions, an engine over the compiled stand-in, and waiting for something."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from sample_pictures import ROOT

import vlm

sys.path.insert(0, str(ROOT / "tests" / "native"))
from standin import build

LONG_S = 60  # longer than anything takes on a machine that has other things to do

DEAF = "[id=deaf][tokens=2][pace=600000]"  # says one token, and then hears no abort for ten minutes


def question(text: str, *pictures: bytes, deadline_s: float | None = None, **options: object) -> vlm.Question:
    parts = (*(vlm.ImagePart(data) for data in pictures), vlm.TextPart(text))
    return vlm.Question((vlm.Turn("user", parts),), options, deadline_s)


def standin_choice(folder: Path, words: str = "", release: str = "1.3.0", *, pictures: bool = False) -> vlm.ModelChoice:
    """The demo's encoder, or none, before the stand-in; words: for the model's path."""
    llm = folder / f"model[width=160][image-tokens=49]{words}.rkllm"
    llm.touch()
    return vlm.ModelChoice(model="demo", llm=str(llm), library=str(build(release)), pictures=pictures)


def told(name: str, tokens: int) -> str:
    """What the stand-in says to [id=name][tokens=N]."""
    return "".join(f"{name}:{number} " for number in range(tokens))


def wait_until(condition: Callable[[], object], what: str = "it") -> None:
    until = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen within {LONG_S} s"
        time.sleep(0.005)


def answers_again(engine: vlm.Engine, name: str = "next") -> None:
    """Whether the engine answers, rightly, and is ready then."""
    assert engine.ask(question(f"[id={name}][tokens=3]")).finish().text == told(name, 3)
    wait_until(lambda: engine.health().state == "ready", "an engine that is ready")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked about since is gone too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
