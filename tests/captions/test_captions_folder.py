"""What a run over a folder leaves: the right captions beside the right pictures, in a form that others load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scenes import caption, draw_folder, texts


def load(folder: Path, cache: Path) -> dict[str, Any]:
    """What the `datasets` library makes of a folder, in a process of its own."""
    script = Path(__file__).with_name("load_dataset.py")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache / "home")}
    done = subprocess.run(
        [sys.executable, script, folder, cache], env=env, capture_output=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_datasets_loads_the_right_captions(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "pictures"
    truth = draw_folder(folder, count)
    (folder / "plain" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    done = caption(folder, "--recursive", "--model", "demo")
    assert done.returncode == 101, done.stderr
    loaded = load(folder, tmp_path / "cache")
    assert loaded["columns"][:2] == ["image", "text"]
    assert {row["path"] for row in loaded["rows"]} == truth.keys()
    for row in loaded["rows"]:
        with Image.open(folder / row["path"]) as picture:
            assert row["size"] == list(picture.size)
        assert row["text"] == row["texts"][0] == texts(folder)[row["path"]]
    right = sum(row["text"] == truth[row["path"]] for row in loaded["rows"])
    print(f"{right} of {count} captions right")
    assert right >= 0.95 * count - (1 if count < 100 else 0)
