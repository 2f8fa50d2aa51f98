"""Ended at any instant and started again: no picture twice, none lost, no line that is not whole."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parrot import Parrot, said, told
from sample_pictures import PICTURES, TRUTH
from scenes import PROGRAM, caption, draw_folder, rows, steady, texts

from vlm.errors import FolderError, ImageError, RunError

SLOW_PACE = '{"tokens_per_second": 60}'


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_killed_at_random_moments(tmp_path: Path, kills: int) -> None:
    """kill -9, and again, until it comes to its end: the files are those of a run that nobody disturbed."""
    fresh = tmp_path / "fresh"
    draw_folder(fresh, 25 if kills > 10 else 14, long_side=120)
    shutil.copy(fresh / "picture-0.jpg", fresh / "same as picture 0.jpg")
    for number in range(3):
        (fresh / f"broken-{number}.png").write_bytes(b"no picture" * number)
    words = ["--recursive", "--model", "demo", "--txt"]
    undisturbed = shutil.copytree(fresh, tmp_path / "undisturbed")
    assert caption(undisturbed, *words).returncode == 103
    expected = steady(undisturbed)
    rng, killed, rounds, in_the_middle = random.Random(kills), 0, 0, 0
    while killed < kills:
        rounds += 1
        folder = shutil.copytree(fresh, tmp_path / f"round-{rounds}")
        env = {**os.environ, "VLM_PACE": SLOW_PACE}
        while True:
            run = subprocess.Popen([*PROGRAM, folder, *words], env=env, stderr=subprocess.DEVNULL)
            try:
                code = run.wait(rng.uniform(0.1, 5) if killed < kills else 200)
                break
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                killed += 1
                in_the_middle += (folder / "metadata.jsonl").exists()
        assert code == 103
        assert steady(folder) == expected
        assert {path.name: path.read_text() for path in folder.rglob("*.txt")} == {
            path.name: path.read_text() for path in undisturbed.rglob("*.txt")
        }
        assert not [path for path in folder.rglob(".*") if path.name.endswith(".new")]
    print(f"{killed} kills in {rounds} rounds, {in_the_middle} with captions on the disk")


@given(
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    tails=st.tuples(*[st.sampled_from([b"", bytes(300), b"\xff\xc3"])] * 2),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_off_at_any_byte(tmp_path: Path, ends: tuple[float, float], tails: tuple[bytes, bytes]) -> None:
    """A power cut: the files end anywhere, with whatever bytes the file system leaves there."""
    folder = tmp_path / "cut"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number in range(6):
        (folder / f"ü{number}.png").write_bytes(b"%d" % number)

    def trouble(picture: bytes) -> None:
        if picture in (b"2", b"4"):
            raise ImageError("It is\nbroken.")

    told(folder, Parrot(trouble))
    expected, lost = steady(folder), set()
    for name, end, tail in zip(("metadata.jsonl", "errors.jsonl"), ends, tails, strict=True):
        whole = (folder / name).read_bytes()
        cut = whole[: round(end * len(whole))]
        (folder / name).write_bytes(cut + tail)
        left = (cut + tail).split(b"\n")
        lost |= {json.loads(line)["file_name"] for line in whole.splitlines() if line not in left}
    parrot = Parrot(trouble)
    result = told(folder, parrot)
    assert steady(folder) == expected
    assert parrot.asked == {(folder / name).read_bytes(): 1 for name in lost}
    assert result.failed == {"ImageError": 2}


def test_a_finished_folder_is_not_read_again(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes((PICTURES / "blue-star.jpg").read_bytes())
    assert caption(tmp_path, "--model", "demo").returncode == 0
    # Another content under the same size and time can only be noticed by who reads it.
    before = (tmp_path / "a.jpg").stat()
    (tmp_path / "a.jpg").write_bytes(bytes(before.st_size))
    os.utime(tmp_path / "a.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))
    done = caption(tmp_path, "--model", "demo")
    assert (done.returncode, "opening" in done.stderr) == (0, False)
    # Touched, it is read, and found to be another one.
    os.utime(tmp_path / "a.jpg")
    assert caption(tmp_path, "--model", "demo").returncode == 101
    assert texts(tmp_path) == {"b.jpg": TRUTH["blue-star.jpg"]}


def test_known_content_is_not_told_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"same")
    (tmp_path / "b.png").write_bytes(b"same")
    (tmp_path / "c.png").write_bytes(b"other")
    parrot = Parrot()
    result = told(tmp_path, parrot)
    assert (result.told, result.reused) == (2, 1)
    assert parrot.asked == {b"same": 1, b"other": 1}
    # Moved, copied or touched: the captions follow the content.
    os.utime(tmp_path / "c.png", (1, 1))
    (tmp_path / "in").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "in" / "d.png")
    result = told(tmp_path, Parrot(_nobody))
    assert (result.told, result.reused, result.done_before) == (0, 2, 1)
    assert texts(tmp_path) == {"b.png": said(b"same"), "c.png": said(b"other"), "in/d.png": said(b"same")}
    # Another prompt is another question, and so is another option.
    parrot = Parrot()
    told(tmp_path, parrot, prompts=("Sing.", "Say."))
    assert rows(tmp_path)["c.png"]["texts"] == [said(b"other", "Sing."), said(b"other")]
    assert parrot.asked == {b"same": 2, b"other": 2}


def test_force_and_retry_errors(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(b"good")
    (tmp_path / "bad.png").write_bytes(b"bad")

    def trouble(data: bytes) -> None:
        if data == b"bad":
            raise RunError("The run failed.")

    result = told(tmp_path, Parrot(trouble))
    assert (result.told, dict(result.failed)) == (1, {"RunError": 1})
    for words, asked in (({}, {}), ({"retry_errors": True}, {b"bad": 1}), ({"force": True}, {b"bad": 1, b"good": 1})):
        parrot = Parrot(trouble)
        result = told(tmp_path, parrot, **words)
        assert (parrot.asked, dict(result.failed)) == (asked, {"RunError": 1})
        assert texts(tmp_path) == {"good.png": said(b"good")}
    assert told(tmp_path, Parrot(), retry_errors=True).failed.total() == 0
    assert texts(tmp_path) == {"good.png": said(b"good"), "bad.png": said(b"bad")}
    assert not (tmp_path / "errors.jsonl").exists()


def test_pictures_out_of_sight_keep_their_captions(tmp_path: Path) -> None:
    """What a run was not asked about stays, unless the picture is no more."""
    for name in ("a.png", "b.png", "in/c.png", "in/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    told(tmp_path, Parrot())
    (tmp_path / "in" / "d.png").unlink()
    (tmp_path / "e.png").write_bytes(b"e")
    assert caption(tmp_path, "--model", "demo").returncode == 103  # neither is a picture
    assert texts(tmp_path) == {"in/c.png": said(b"in/c.png")}


@pytest.mark.parametrize(
    "theirs",
    [
        b'{"file_name": "a.png", "label": "cat"}\n',
        b'{"file_name": "a.png", "label": "cat"}',
        b"file_name,label\na.png,cat\n",
        b'{"file_name": "a.png"}\nnothing\n',
    ],
)
def test_somebody_elses_file_is_left_alone(tmp_path: Path, theirs: bytes) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "metadata.jsonl").write_bytes(theirs)
    with pytest.raises(FolderError, match="not written by vlm caption"):
        told(tmp_path, Parrot(_nobody))
    assert (tmp_path / "metadata.jsonl").read_bytes() == theirs


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    draw_folder(tmp_path, 30, long_side=120)
    env = {**os.environ, "VLM_PACE": SLOW_PACE}
    with subprocess.Popen([*PROGRAM, tmp_path, "-m", "demo"], env=env, stderr=subprocess.DEVNULL) as first:
        while not (tmp_path / "metadata.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.02)
        second = caption(tmp_path, "--model", "demo")
        first.send_signal(signal.SIGKILL)
    assert second.returncode == FolderError.exit_code
    assert "at work" in second.stderr


def _nobody(_: bytes) -> None:
    raise AssertionError("Nobody was to be asked.")
