"""`vlm caption --server`: the same by a service in another process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sample_pictures import ROOT
from scenes import PROGRAM, caption, draw_folder, rows, steady, texts

from vlm.errors import OptionError, ServiceUnreachableError

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
