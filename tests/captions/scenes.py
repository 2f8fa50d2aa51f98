"""Folders of drawn scenes whose true descriptions are known, and the commands that are run over them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sample_pictures import ROOT

sys.path.insert(0, str(ROOT / "samples" / "demo"))
from questions import full
from world import draw, random_scene

PROGRAM = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "caption"]
FOLDERS = ("", "plain", "with space", "deep/er/and deeper", "ünïcode", "名前/写真", "a'b\"c", "100%", "tab\there")
NAMES = (
    "picture", "IMG 0042", "naïve", "наши", "写真", "🎈", "#hash", "q?x=1&y", "-dash", "per%20cent", "<script>alert(1)",
    "new\nline", "a:b", "semi;colon", "quote\"'", "dot.ted.name", "~tilde", "[brackets]", "star*", "{brace}",
)  # fmt: skip
KINDS = (".jpg", ".png", ".JPEG", ".webp", ".bmp")


def draw_folder(folder: Path, count: int, seed: int = 5, long_side: int | None = None) -> dict[str, str]:
    """Draw scenes that training never showed into nested folders. Returns the truth by name, with / between parts."""
    rng = np.random.default_rng(seed)
    truth = {}
    for number in range(count):
        scene = random_scene(rng, held_out=True)
        name = f"{NAMES[number % len(NAMES)]}-{number}{KINDS[number % len(KINDS)]}"
        path = folder / FOLDERS[number % len(FOLDERS)] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = cv2.imencode(path.suffix.lower(), draw(scene, rng, long_side)[..., ::-1])[1]
        path.write_bytes(data.tobytes())
        truth[str(path.relative_to(folder))] = full(scene)
    return truth


def caption(
    *words: object, env: dict[str, str] | None = None, timeout: float = 250
) -> subprocess.CompletedProcess[str]:
    """Run `vlm caption` to its end."""
    command = [*PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, env={**os.environ, **(env or {})})
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def rows(folder: Path, name: str = "metadata.jsonl") -> dict[str, dict[str, Any]]:
    """The lines of a file by picture; each picture has one."""
    path = folder / name
    lines = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    assert len({line["file_name"] for line in lines}) == len(lines)
    return {line["file_name"]: line for line in lines}


def texts(folder: Path) -> dict[str, str]:
    return {name: row["text"] for name, row in rows(folder).items()}


def steady(folder: Path) -> dict[str, dict[str, Any]]:
    """Both files without times, which no two runs share."""
    times = ("told_at", "failed_at", "seconds")
    return {
        f"{file} {name}": {key: value for key, value in row.items() if key not in times}
        for file in ("metadata.jsonl", "errors.jsonl")
        for name, row in rows(folder, file).items()
    }
