"""`vlm caption --server`: the same by a service in another process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from parrot import Parrot, Spoken, told
from sample_pictures import ROOT
from scenes import PROGRAM, caption, draw_folder, rows, steady, texts

from vlm import Question
from vlm.errors import (
    EngineQueueFullError,
    OptionError,
    RkvlmError,
    ServiceBusyError,
    ServiceUnreachableError,
)

sys.path.insert(0, str(ROOT / "tests" / "server"))
from service_rig import serve


def test_a_folder_told_by_a_service(tmp_path: Path) -> None:
    """The files are those of a run on this machine; a service that ends in the middle leaves what was told."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        draw_folder(folder, 12, long_side=120)
        (folder / "broken.png").write_bytes(b"no picture")
    words = ["--recursive", "--prompt", "Describe the picture.", "--prompt", "How many stars are there?"]
    assert caption(here, *words, "--model", "demo").returncode == 101
    with serve("--model", "demo", VLM_PACE='{"tokens_per_second": 60}') as served:
        served.ready()
        command = [*PROGRAM, there, *words, "--server", served.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
            while len(texts(there)) < 3:
                assert run.poll() is None, run.communicate()
            served.end(signal.SIGKILL)
            _, errors = run.communicate(timeout=100)
        assert run.returncode == ServiceUnreachableError.exit_code, errors.decode()
        assert "Traceback" not in errors.decode()
    assert 3 <= len(rows(there)) < 12
    with serve("--model", "demo") as served:
        served.ready()
        done = caption(there, *words, "--server", served.url)
    assert done.returncode == 101, done.stderr
    assert "asking the model demo" in done.stderr

    def plain(folder: Path) -> dict[str, object]:
        return {name: {**row, "modified_ns": 0} for name, row in steady(folder).items()}

    assert plain(there) == plain(here)


def test_a_picture_that_the_service_finds_too_large(tmp_path: Path) -> None:
    """It is one failure, and the others are told."""
    draw_folder(tmp_path, 3, long_side=120)
    (tmp_path / "large.png").write_bytes(bytes(200_000))
    with serve("--model", "demo", "--max-body-bytes", "100000") as served:
        served.ready()
        done = caption(tmp_path, "--recursive", "--server", served.url)
    assert done.returncode == 101, done.stderr
    assert len(rows(tmp_path)) == 3
    assert rows(tmp_path, "errors.jsonl")["large.png"]["error"] == "RequestTooLargeError"


@pytest.mark.parametrize("error", [EngineQueueFullError("Full."), ServiceBusyError("No room.", retry_after=1)])
def test_a_service_that_has_no_room_is_asked_again(tmp_path: Path, error: RkvlmError) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"%d" % number)
    refused = Counter[bytes]()

    class Crowded(Parrot):
        def ask(self, question: Question) -> Spoken:
            data = question.turns[0].content[0].data  # type: ignore[union-attr]
            refused[data] += 1
            if data == b"3" and refused[data] == 1:
                raise error
            return super().ask(question)

    assert told(tmp_path, Crowded()).told == 5
    assert refused == {b"%d" % number: 2 if number == 3 else 1 for number in range(5)}


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--server", "http://127.0.0.1:9"], ServiceUnreachableError),
        (["--server", "http://127.0.0.1:9", "--encoder", "eyes.onnx"], OptionError),
    ],
)
def test_no_service_there(tmp_path: Path, words: list[str], kind: type[OptionError]) -> None:
    draw_folder(tmp_path, 1)
    done = caption(tmp_path, *words)
    assert done.returncode == kind.exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert not rows(tmp_path)
