"""`vlm pull`, run as a user runs it, against a hub of the tests' own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub import COMMIT, Hub, serving

REPO = "somebody/eyes-and-words"
EYES, WORDS = bytes(range(256)) * 4000, b"words" * 50_000
BLOCK = 10 << 20  # huggingface_hub writes blocks of this size
LARGE = bytes(range(256)) * (24 << 12)
KNOWN = "3ib0n/Qwen2-VL-2B-rkllm"
KNOWN_FILES = {"qwen2_vl_2b_vision_rk3588.rknn": EYES, "Qwen2-VL-2B-Instruct.rkllm": WORDS, "demo/llm": b"no model"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(
        Hub({REPO: {"eyes.rknn": EYES, "words.rkllm": WORDS, "README.md": b"hello"}, KNOWN: KNOWN_FILES})
    ) as one:
        yield one


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models"


def start(hub: Hub | str, home: Path, *words: object, **settings: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VLM_", "HF_", "HUGGING"))}
    environment = clean | {
        "HF_ENDPOINT": hub if isinstance(hub, str) else hub.url,
        "HF_HOME": str(home.parent / "hf"),
        "NO_PROXY": "127.0.0.1",
        "VLM_MODELS_DIR": str(home),
        **settings,
    }
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def vlm(hub: Hub | str, home: Path, *words: object, **settings: str) -> subprocess.CompletedProcess[str]:
    process = start(hub, home, *words, **settings)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return subprocess.CompletedProcess([], process.returncode, out, err)


def listed(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def test_a_repository_becomes_a_directory(hub: Hub, home: Path) -> None:
    done = vlm(hub, home, "pull", REPO, "--json")
    told: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, told["commit"], told["directory"]) == (0, COMMIT, str(home / "eyes-and-words"))
    assert listed(home) == {"eyes-and-words/eyes.rknn": EYES, "eyes-and-words/words.rkllm": WORDS}


def test_a_profile_names_its_files_and_models_shows_them(hub: Hub, home: Path) -> None:
    assert "vlm pull qwen2-vl-2b" in vlm(hub, home, "models").stdout
    assert vlm(hub, home, "pull", "qwen2-vl-2b").returncode == 0
    assert {name.partition("/")[2] for name in listed(home)} == set(KNOWN_FILES) - {"demo/llm"}
    row = next(row for row in json.loads(vlm(hub, home, "models", "--json").stdout) if row["name"] == "qwen2-vl-2b")
    assert row["encoder"].endswith("qwen2_vl_2b_vision_rk3588.rknn")
    assert row["llm"].endswith("Qwen2-VL-2B-Instruct.rkllm")
    assert "vlm pull qwen2-vl-2b" not in vlm(hub, home, "models").stdout


def test_a_repository_for_a_profile(hub: Hub, home: Path) -> None:
    assert vlm(hub, home, "pull", REPO, "-m", "internvl2-1b", "--file", "*.rknn").returncode == 0
    assert listed(home) == {"internvl2-1b/eyes.rknn": EYES}


def test_what_is_there_is_not_fetched_again_and_what_is_damaged_is(hub: Hub, home: Path) -> None:
    vlm(hub, home, "pull", REPO)
    hub.ranges.clear()
    assert "there already" in vlm(hub, home, "pull", REPO).stderr
    assert hub.ranges == []
    damaged = home / "eyes-and-words/words.rkllm"
    damaged.write_bytes(WORDS[:-1] + b"?")
    assert vlm(hub, home, "pull", REPO).returncode == 0
    assert (len(hub.ranges), damaged.read_bytes()) == (1, WORDS)


def test_killed_in_the_middle_and_resumed(hub: Hub, home: Path) -> None:
    """The next process asks for the rest alone, and the file is whole."""
    hub.repos[REPO]["eyes.rknn"] = LARGE
    hub.stall["eyes.rknn"] = 21 << 20
    process = start(hub, home, "pull", REPO)
    assert hub.stalled.wait(60)
    until = time.monotonic() + 60
    while part_size(home) < 2 * BLOCK and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    there = part_size(home)
    assert there == 2 * BLOCK
    hub.ranges.clear()
    assert vlm(hub, home, "pull", REPO).returncode == 0
    assert hub.ranges == [there, 0]
    assert listed(home) == {"eyes-and-words/eyes.rknn": LARGE, "eyes-and-words/words.rkllm": WORDS}


def part_size(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "eyes-and-words").glob(".eyes.rknn.*.part"))


def test_a_broken_connection_is_mended_on_the_way(hub: Hub, home: Path) -> None:
    hub.repos[REPO]["eyes.rknn"] = LARGE
    hub.stall["eyes.rknn"] = 21 << 20
    hub.released.set()
    assert vlm(hub, home, "pull", REPO).returncode == 0
    assert hub.ranges == [0, 2 * BLOCK, 0]
    assert listed(home)["eyes-and-words/eyes.rknn"] == LARGE


@pytest.mark.parametrize("name", ["words.rkllm", "README.md"])
def test_a_wrong_checksum_is_refused(name: str, hub: Hub, home: Path) -> None:
    """Of a large file (SHA-256) and of a small one (git's sum): nothing is left of it."""
    hub.wrong = True
    done = vlm(hub, home, "pull", REPO, "--file", name)
    assert (done.returncode, "another checksum" in done.stderr) == (15, True)
    assert listed(home) == {}


@pytest.mark.parametrize("name", ["../outside.rknn", "/outside.rknn", "a/../../outside.rknn", "..\\outside.rknn"])
def test_a_name_that_leads_out_is_refused(name: str, hub: Hub, home: Path) -> None:
    hub.repos[REPO] = {name: EYES}
    done = vlm(hub, home, "pull", REPO, "--file", "*")
    assert (done.returncode, "leads out" in done.stderr) == (15, True)
    assert list(home.parent.rglob("*outside*")) == []


def test_a_link_that_leads_out_is_refused(hub: Hub, home: Path) -> None:
    elsewhere = home.parent / "elsewhere"
    elsewhere.mkdir()
    (home / "eyes-and-words").mkdir(parents=True)
    (home / "eyes-and-words/sub").symlink_to(elsewhere)
    hub.repos[REPO] = {"sub/eyes.rknn": EYES}
    done = vlm(hub, home, "pull", REPO)
    assert (done.returncode, list(elsewhere.iterdir())) == (15, [])


@pytest.mark.parametrize(
    ("words", "refusal", "said"),
    [
        ((REPO,), (403, "GatedRepo"), "agree at"),
        ((REPO,), (401, ""), "HF_TOKEN"),
        ((REPO,), (403, ""), "HF_TOKEN"),
        ((REPO,), (500, ""), "answered 500"),
        (("somebody/else",), None, "no model somebody/else"),
        ((REPO, "--revision", "v9"), None, 'no revision "v9"'),
        ((REPO, "--file", "nothing.rknn"), None, "It has: README.md, eyes.rknn, words.rkllm"),
        (("internvl2-1b",), None, "--model internvl2-1b"),
        (("some body/else",), None, "owner/repo"),
    ],
)
def test_refusals_in_words(
    words: tuple[str, ...], refusal: tuple[int, str] | None, said: str, hub: Hub, home: Path
) -> None:
    if refusal:
        hub.refuse[REPO] = refusal
    done = vlm(hub, home, "pull", *words)
    assert (done.returncode, said in done.stderr) == (15, True), done.stderr


def test_a_disk_that_takes_no_more_is_said(hub: Hub, home: Path) -> None:
    hub.repos[REPO] = {"eyes.rknn": LARGE}
    process = start(hub, home, "pull", REPO)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    _, err = process.communicate(timeout=120)
    assert (process.returncode, "VLM_MODELS_DIR" in err, "Traceback" in err) == (15, True, False), err


def test_several_language_models_are_to_be_chosen_from(hub: Hub, home: Path) -> None:
    hub.repos[REPO]["more_words.rkllm"] = WORDS
    done = vlm(hub, home, "pull", REPO)
    assert (done.returncode, "--file" in done.stderr, "more_words.rkllm" in done.stderr) == (15, True, True)


def test_offline_in_words(home: Path) -> None:
    done = vlm("http://127.0.0.1:9", home, "pull", REPO)
    assert (done.returncode, "cannot be reached" in done.stderr, "HF_ENDPOINT" in done.stderr) == (15, True, True)
    done = vlm("http://127.0.0.1:9", home, "pull", REPO, HF_HUB_OFFLINE="1")
    assert (done.returncode, "HF_HUB_OFFLINE" in done.stderr) == (15, True)


def test_a_token_is_sent(hub: Hub, home: Path) -> None:
    vlm(hub, home, "pull", REPO, HF_TOKEN="hf_token")
    assert set(hub.tokens) == {"Bearer hf_token"}


def test_two_at_once_do_not_write_one_file(hub: Hub, home: Path) -> None:
    hub.stall["eyes.rknn"] = 600_000
    first = start(hub, home, "pull", REPO)
    assert hub.stalled.wait(60)
    done = vlm(hub, home, "pull", REPO)
    assert (done.returncode, "Another `vlm pull`" in done.stderr) == (15, True)
    hub.released.set()
    first.communicate(timeout=60)
    assert (first.returncode, listed(home)["eyes-and-words/eyes.rknn"]) == (0, EYES)
