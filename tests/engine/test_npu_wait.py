"""Questions that wait for another process's NPU cores, and are cancelled there: no hang, and no process is lost.

The machine is told to be an RK3588; the language model is the compiled stand-in, the encoder keeps to a board's pace.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_rig import answers_again, question, standin_choice, wait_until
from sample_pictures import PICTURES, ROOT

import vlm

STAR, LIGHT = ((PICTURES / name).read_bytes() for name in ("blue-star.jpg", "traffic-light.jpg"))
ABORT_S = 0.4


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[vlm.Engine]:
    settings = {"soc": "rk3588", "lock_dir": str(tmp_path), "pace": {"encode_ms": 1}}
    choice = standin_choice(tmp_path, pictures=True).model_copy(update={"settings": settings})
    with vlm.Engine(choice, vlm.EngineLimits(abort_s=ABORT_S)) as made:
        made.wait_ready()
        yield made


@pytest.fixture
def holder(engine: vlm.Engine, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds every core until it is killed."""
    command = [sys.executable, str(ROOT / "tests" / "gate_worker.py"), str(tmp_path), "hold", "0,1,2"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("held")
    yield process
    process.kill()
    process.communicate()


def somebody_waits(folder: Path) -> bool:
    """Whether a process has gone into the turnstile of a core that another one holds."""
    for turnstile in folder.glob("*.next"):
        with turnstile.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def text(name: str) -> vlm.Question:
    return question(f"[id={name}][tokens=2]")


def embedding(name: str) -> vlm.Question:
    return vlm.Question((vlm.Turn("user", (vlm.TextPart(f"[id={name}]"),)),), embed="mean")


def picture(name: str) -> vlm.Question:
    return question(f"[id={name}][tokens=2]", STAR if name == "a" else LIGHT)


@pytest.mark.parametrize("asked", [text, embedding, picture])
def test_cancelled_at_the_gate_and_behind_one_that_waits_there(
    engine: vlm.Engine,
    holder: subprocess.Popen[str],
    tmp_path: Path,
    asked: Callable[[str], vlm.Question],
) -> None:
    pid = engine.health().pid
    first = engine.ask(asked("a"))
    wait_until(lambda: somebody_waits(tmp_path))
    second = engine.ask(asked("b"))
    wait_until(lambda: engine.health().in_flight == 2)
    for reply, left in ((second, 1), (first, 0)):
        reply.close()
        wait_until(lambda left=left: engine.health().in_flight == left)
    health = engine.health()
    assert (health.pid, health.state, health.totals.restarts, health.totals.aborted) == (pid, "ready", 0, 2)
    assert holder.poll() is None
    third = engine.ask(asked("c"))
    wait_until(lambda: somebody_waits(tmp_path))
    holder.kill()
    assert third.finish().finish_reason == "stop"
    answers_again(engine)
    assert engine.health().pid == pid


def test_a_deadline_at_the_gate(engine: vlm.Engine, holder: subprocess.Popen[str]) -> None:
    pid = engine.health().pid
    with pytest.raises(vlm.errors.EngineDeadlineError):
        engine.ask(question("[id=a]", deadline_s=0.2)).finish()
    wait_until(lambda: engine.health().in_flight == 0)
    assert (engine.health().pid, engine.health().totals.restarts) == (pid, 0)
    assert holder.poll() is None
