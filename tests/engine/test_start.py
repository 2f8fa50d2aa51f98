"""A model that cannot be opened, and a process that cannot be started: said once, clearly, and not tried for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_rig import question, standin_choice, told, wait_until

import vlm
from vlm.errors import (
    EncoderFileError,
    EngineFailedError,
    EngineStoppingError,
    LibraryNotFoundError,
    ModelLoadError,
    NPUMemoryError,
    OptionError,
    ProfileError,
    RkvlmError,
)


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ({"model": "no-such-model"}, ProfileError),
        ({"model": "demo", "encoder": "/nowhere/vision.onnx"}, EncoderFileError),
        ({"model": "demo", "llm": "/nowhere/model.rkllm"}, ModelLoadError),
        ({"model": "demo", "options": {"top_p": 7}}, OptionError),
        ({"model": "demo", "options": {"colour": "blue"}}, OptionError),
    ],
)
def test_what_opening_raises_is_raised_here_and_tried_once(choice: dict[str, Any], kind: type[RkvlmError]) -> None:
    starts = []

    def popen(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        starts.append(args)
        return subprocess.Popen(*args, **options)

    with vlm.Engine(vlm.ModelChoice(**choice), popen=popen) as engine:
        reply = engine.ask(question("Hello!"))
        with pytest.raises(RkvlmError) as caught:
            engine.wait_ready()
        with pytest.raises(kind) as direct:
            vlm.load(
                choice["model"],
                **{k: v for k, v in choice.items() if k in ("encoder", "llm")},
                **choice.get("options", {}),
            )
        assert type(caught.value) is type(direct.value)
        assert str(caught.value) == str(direct.value)
        with pytest.raises(EngineFailedError):
            reply.finish()
        with pytest.raises(EngineFailedError, match="not available") as asked:
            engine.ask(question("Hello!"))
        assert "/" not in str(asked.value)  # no path of the machine
        health = engine.health()
        assert (health.state, health.last_error, health.pid) == ("failed", str(caught.value), None)
        assert not health.answering
        assert len(starts) == 1


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    choice = standin_choice(tmp_path).model_copy(update={"library": str(tmp_path / "librkllmrt.so")})
    with vlm.Engine(choice) as engine, pytest.raises(LibraryNotFoundError):
        engine.wait_ready()


def test_a_path_that_is_no_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    link = tmp_path / "link.rkllm"
    link.symlink_to(folder)
    with vlm.Engine(vlm.ModelChoice(model="demo", llm=str(link))) as engine, pytest.raises(RkvlmError):
        engine.wait_ready()
    with pytest.raises(OptionError, match="cannot be passed"):
        vlm.Engine(vlm.ModelChoice(model=str(folder)))


def test_a_model_that_the_runtime_refuses(tmp_path: Path) -> None:
    with vlm.Engine(standin_choice(tmp_path, "[null]")) as engine, pytest.raises(NPUMemoryError):
        engine.wait_ready()


def test_a_process_that_ends_each_time_is_given_up(tmp_path: Path) -> None:
    starts = []

    def popen(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        starts.append(words)
        return subprocess.Popen([sys.executable, "-c", "import os; os.abort()"], **options)

    limits = vlm.EngineLimits(starts=3, restart_s=0.01)
    with vlm.Engine(standin_choice(tmp_path), limits, popen=popen) as engine:
        reply = engine.ask(question("[id=a]"))
        with pytest.raises(EngineFailedError, match=r"SIGABRT while it opened the model, 3 times in a row"):
            engine.wait_ready()
        with pytest.raises(EngineFailedError):
            reply.finish()
    assert len(starts) == 3


def test_a_process_that_cannot_be_started_at_first(tmp_path: Path) -> None:
    starts = []

    def popen(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        starts.append(args)
        if len(starts) < 3:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return subprocess.Popen(*args, **options)

    with vlm.Engine(standin_choice(tmp_path), vlm.EngineLimits(restart_s=0.01), popen=popen) as engine:
        assert engine.ask(question("[id=a][tokens=2]")).finish().text == told("a", 2)
        assert engine.health().totals.restarts == 2


def test_opening_that_takes_too_long(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin("[slow=60000]", ready=False, start_s=1.5, starts=1)
    with pytest.raises(EngineFailedError, match="did not open the model within"):
        engine.wait_ready()


def test_a_memory_limit_below_what_the_model_takes(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin(ready=False, rss_bytes=1 << 20)
    with pytest.raises(EngineFailedError, match="over the limit of 1048576"):
        engine.wait_ready()


def test_a_model_that_goes_away_is_looked_for_again(tmp_path: Path) -> None:
    """After it was open once, a model that cannot be opened may come back: a disk, memory that others took."""
    choice = standin_choice(tmp_path)
    file = Path(choice.llm or "")
    limits = vlm.EngineLimits(restart_s=0.01, starts=2)
    with vlm.Engine(choice, limits) as engine:
        pid = engine.wait_ready().pid
        assert pid is not None
        file.unlink()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: engine.health().state == "failed")
        with pytest.raises(EngineFailedError, match="not available"):
            engine.ask(question("[id=a]"))
        file.touch()
        wait_until(lambda: engine.health().state == "ready")
        assert engine.ask(question("[id=a][tokens=2]")).finish().text == told("a", 2)


def test_questions_before_the_model_is_open_wait(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin("[slow=300]", ready=False)
    assert engine.health().state == "starting"
    assert not engine.health().answering
    reply = engine.ask(question("[id=a][tokens=2]"))
    assert engine.wait_ready(0.01).state == "starting"
    assert reply.finish().text == told("a", 2)


def test_close_while_the_model_is_being_opened(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin("[slow=60000]", ready=False)
    wait_until(lambda: engine.health().pid is not None)
    reply = engine.ask(question("[id=a]"))
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 60
    with pytest.raises(EngineStoppingError):
        reply.finish()
    with pytest.raises(EngineStoppingError):
        engine.wait_ready()
