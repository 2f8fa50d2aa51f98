"""`vlm doctor`, run as a user runs it, on trees that stand for machines and on this one.

The pages in golden/ are written by `python tests/doctor/test_doctor.py`, and reviewed by eye.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trees

GOLDEN = Path(__file__).parent / "golden"
ERRORS, FINE = 12, 0
# Each page: the tree, the words after it, and the exit code. {root} stands for the tree.
QWEN = ("--model", "{root}/models/qwen2-vl-2b")
PAGES: dict[str, tuple[str, Sequence[str], int]] = {
    "rk3588": ("rk3588", QWEN, FINE),
    "rk3576": ("rk3576", QWEN, ERRORS),
    "rk3562": ("rk3562", QWEN, ERRORS),
    "rv1126b": ("rv1126b", QWEN, ERRORS),
    "mainline": ("mainline", QWEN, ERRORS),
    "container": ("container", QWEN, ERRORS),
    "masked": ("masked", QWEN, ERRORS),
    "pc": ("pc", ("--model", "{root}/models/demo"), FINE),
    "swapped": (
        "rk3588",
        (
            *QWEN,
            *("--encoder", "{root}/models/qwen2-vl-2b/qwen2-vl-2b_w8a8_rk3588.rkllm"),
            *("--llm", "{root}/models/qwen2-vl-2b/qwen2_vl_2b_vision_rk3588.rknn"),
        ),
        ERRORS,
    ),
}


def doctor(*words: object, columns: int = 110) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "doctor", *map(str, words)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VLM_", "LD_LIBRARY"))}
    environment = {**clean, "COLUMNS": str(columns), "VLM_MODELS_DIR": "/nonexistent"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def lines(*words: object) -> dict[str, dict[str, Any]]:
    done = doctor("--json", *words)
    assert "Traceback" not in done.stderr
    return {line["topic"]: line for line in json.loads(done.stdout)}


def page(name: str, root: Path) -> tuple[str, int]:
    """A page as it is printed, and the exit code."""
    tree, words, _ = PAGES[name]
    trees.TREES[tree](root)
    done = doctor("--root", root, *(word.format(root=root) for word in words))
    text = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    return f"{text}\n\n{done.stderr}", done.returncode


@pytest.mark.parametrize("name", PAGES)
def test_the_page_of_a_machine(name: str, tmp_path: Path) -> None:
    text, code = page(name, tmp_path)
    assert text == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert code == PAGES[name][2]


def test_a_rknn_as_the_language_model_and_a_rkllm_as_the_encoder_are_named(tmp_path: Path) -> None:
    """Whatever they are called: what counts is what they hold."""
    trees.rk3588(tmp_path)
    trees.rknn(tmp_path / "a.rkllm", "rk3588", 1 << 20)
    trees.rkllm(tmp_path / "b.rknn", "1.2.3", 1 << 20)
    found = lines(
        "--root", tmp_path, "-m", "qwen2-vl-2b", "--llm", tmp_path / "a.rkllm", "--encoder", tmp_path / "b.rknn"
    )
    assert found["language model"]["level"] == found["encoder"]["level"] == "error"
    assert "/a.rkllm is a .rknn" in found["language model"]["found"]
    assert "/b.rknn is a .rkllm" in found["encoder"]["found"]
    assert "--encoder" in found["language model"]["advice"]
    assert "--llm" in found["encoder"]["advice"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"GGUF\x03\0\0\0", "llama.cpp"),
        (b"\x08\x08\x12\x04test", "ONNX"),
    ],
)
def test_what_lies_in_place_of_a_model_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    trees.rk3588(tmp_path)
    file = trees.put(tmp_path, "words.rkllm", content)
    line = lines("--root", tmp_path, *(word.format(root=tmp_path) for word in QWEN), "--llm", file)["language model"]
    assert (line["level"], said in line["found"]) == ("error", True)


def test_an_encoder_for_another_soc(tmp_path: Path) -> None:
    trees.rk3588(tmp_path)
    trees.rknn(tmp_path / "eyes.rknn", "rk3576", 1 << 20)
    line = lines("--root", tmp_path, "-m", tmp_path / "models/qwen2-vl-2b", "--encoder", tmp_path / "eyes.rknn")[
        "encoder"
    ]
    assert line["level"] == "error"
    assert re.search(r"built for rk3576; this is rk3588", line["found"])


def test_an_onnx_encoder_is_opened_and_compared(tmp_path: Path) -> None:
    """The demo's encoder is not Qwen's: both shapes are said."""
    trees.pc(tmp_path)
    words = ("--root", tmp_path, "-m", "qwen2-vl-2b", "--encoder", tmp_path / "models/demo/vision_encoder.onnx")
    line = lines(*words, "--llm", tmp_path / "models/demo")["encoder"]
    assert line["level"] == "error"
    assert "392" in line["found"]
    assert "112" in line["found"]


def test_this_machine_has_a_true_page() -> None:
    done = doctor()
    assert (done.returncode in (FINE, ERRORS), "Traceback" in done.stderr) == (True, False)
    assert "demo" in done.stdout
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in lines()["Python"]["found"]


@pytest.mark.parametrize(
    ("words", "topic", "said"),
    [
        (("--model", "nobody"), "model", 'no profile "nobody"'),
        (("--model", "qwen2-vl-2b"), "encoder", "/nonexistent/qwen2-vl-2b"),
        (("--llm", "nowhere.rkllm"), "language model", "nowhere.rkllm"),
    ],
)
def test_what_is_not_there_is_a_line_and_not_a_crash(words: Sequence[str], topic: str, said: str) -> None:
    assert doctor(*words).returncode == ERRORS
    line = lines(*words)[topic]
    assert (line["level"], said in line["found"]) == ("error", True)


def test_another_system_needs_a_model_named(tmp_path: Path) -> None:
    done = doctor("--root", tmp_path)
    assert (done.returncode, "--model" in done.stderr) == (5, True)


def test_an_empty_root_is_no_crash(tmp_path: Path) -> None:
    done = doctor("--root", tmp_path, "--model", "demo")
    assert (done.returncode, done.stderr) == (FINE, "")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for one in PAGES:
        with tempfile.TemporaryDirectory() as directory:
            (GOLDEN / f"{one}.txt").write_text(page(one, Path(directory))[0], encoding="utf-8")
