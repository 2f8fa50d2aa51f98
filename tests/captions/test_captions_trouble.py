"""The model's process dies, hangs or will not go on in the middle of a folder; and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import psutil
import pytest
from parrot import Parrot, Quiet, said, told
from scenes import PROGRAM, caption, draw_folder, rows, texts

from vlm.errors import EngineCrashedError, EngineDeadlineError, EngineFailedError

SLOW = {**os.environ, "VLM_PACE": '{"tokens_per_second": 60}'}


@contextmanager
def running(folder: Path, *words: object, pace: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """The command at work on a folder, with so many tokens a second; it does not outlive the block."""
    env = {**os.environ, "VLM_PACE": f'{{"tokens_per_second": {pace}}}'}
    command = [*PROGRAM, folder, "--recursive", "--model", "demo", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen(command, env=env, **pipes) as run:  # type: ignore[call-overload]
        try:
            yield run
        finally:
            run.kill()


def model_process(run: subprocess.Popen[bytes]) -> psutil.Process:
    """The child that has the model; waits for it."""
    while run.poll() is None:
        children = [child for child in psutil.Process(run.pid).children() if "vlm.engine.child" in child.cmdline()]
        if children:
            return children[0]
        time.sleep(0.02)
    raise AssertionError(run.communicate())


def wait_for_lines(run: subprocess.Popen[bytes], folder: Path, count: int) -> None:
    path = folder / "metadata.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("how", [psutil.Process.kill, psutil.Process.suspend], ids=["killed", "hung"])
def test_the_models_process_ends_in_the_middle(tmp_path: Path, how: Callable[[psutil.Process], None]) -> None:
    """Every picture is told all the same, and rightly."""
    draw_folder(tmp_path, 10, long_side=120)
    with running(tmp_path, "--deadline", 3, pace=90) as run:
        wait_for_lines(run, tmp_path, 3)
        how(model_process(run))
        output, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors.decode()
    assert b"told now" in output
    disturbed = texts(tmp_path)
    assert caption(tmp_path, "--recursive", "--model", "demo", "--force").returncode == 0
    assert disturbed == texts(tmp_path)
    assert len(disturbed) == 10


@pytest.mark.parametrize("error", [EngineCrashedError, EngineDeadlineError])
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_picture_that_ends_the_process_each_time(
    tmp_path: Path, error: type[EngineCrashedError], retries: int
) -> None:
    """It alone fails; those that were in the process with it are told."""
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(b"%d" % number)
    bad, times = b"5", []

    def trouble(data: bytes) -> None:
        if data == bad:
            times.append(data)
        # What is in the process with it goes down with it, once.
        if data == bad or (data == b"6" and retries and parrot.asked[data] == 1):
            raise error("The model's process ended.")

    parrot = Parrot(trouble)
    watcher = Quiet()
    result = told(tmp_path, parrot, watcher, retries=retries)
    assert (result.told, dict(result.failed)) == (11, {error.__name__: 1})
    assert texts(tmp_path) == {f"{n}.png": said(b"%d" % n) for n in range(12) if n != 5}
    assert rows(tmp_path, "errors.jsonl")["5.png"]["message"] == "The model's process ended."
    assert len(times) == 1 + retries
    assert len(watcher.outcomes) == 12
    assert parrot.most_at_once <= 3


def test_a_model_that_cannot_go_on_ends_the_run(tmp_path: Path) -> None:
    """What was told stays, and nothing is held against the pictures that were not reached."""
    for number in range(30):
        (tmp_path / f"{number:02}.png").write_bytes(b"%d" % number)

    def fails(data: bytes) -> None:
        if int(data) >= 8:
            raise EngineFailedError("The model's process cannot be started.")

    with pytest.raises(EngineFailedError):
        told(tmp_path, Parrot(fails))
    assert set(texts(tmp_path)) == {f"{number:02}.png" for number in range(8)}
    assert not rows(tmp_path, "errors.jsonl")

    def always(data: bytes) -> None:
        raise EngineCrashedError("The model's process ended.")

    parrot = Parrot(always)
    with pytest.raises(EngineCrashedError):
        told(tmp_path, parrot)
    assert parrot.asked.total() < 16  # not all of them, one after the other
    assert told(tmp_path, Parrot()).told == 22


def test_ctrl_c_once_finishes_what_is_being_told(tmp_path: Path) -> None:
    draw_folder(tmp_path, 30, long_side=120)
    words = [str(tmp_path), "--recursive", "--model", "demo"]
    run = pexpect.spawn(
        PROGRAM[0], [*PROGRAM[1:], *words], env=SLOW, encoding="utf-8", timeout=100, dimensions=(30, 150)
    )
    run.expect(r"3/30.*pictures/(s|min).*left.*tokens/s")
    run.sendintr()
    run.expect(pexpect.EOF)
    run.close()
    assert run.exitstatus == 130
    assert "not reached" in run.before
    done = rows(tmp_path)
    assert 3 <= len(done) < 12
    assert all(row["text"].endswith("background.") for row in done.values())
    finished = caption(tmp_path, "--recursive", "--model", "demo")
    assert finished.returncode == 0
    assert f"told before  {len(done)}" in " ".join(finished.stdout.split()).replace("told before ", "told before  ")
    assert len(rows(tmp_path)) == 30


def test_ctrl_c_twice_stops_at_once(tmp_path: Path) -> None:
    """Even an answer that takes minutes; nothing is left behind, neither half a line nor the model's process."""
    draw_folder(tmp_path, 6, long_side=120)
    with running(tmp_path, pace=0.1) as run:
        child = model_process(run)
        assert run.stderr is not None
        while b"opening" not in (line := run.stderr.readline()):
            assert line, "it ended before it opened the model"
        while (
            run.poll() is None and psutil.Process(run.pid).num_threads() < 7
        ):  # those that tell pictures come after those of the engine
            time.sleep(0.05)
        for _ in range(2):
            os.killpg(run.pid, signal.SIGINT)
            time.sleep(0.4)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "the same command goes on" in errors.decode()
    assert "Traceback" not in errors.decode()
    assert not (tmp_path / "metadata.jsonl").exists()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_sigterm_is_like_ctrl_c(tmp_path: Path) -> None:
    draw_folder(tmp_path, 12, long_side=120)
    with running(tmp_path) as run:
        wait_for_lines(run, tmp_path, 2)
        run.terminate()
        output, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert b"not reached" in output
