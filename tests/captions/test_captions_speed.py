"""What a folder takes, by simulated times of a board, and what it costs in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from parrot import Parrot, Quiet, told
from scenes import draw, draw_folder, random_scene

import vlm
from vlm.captions.records import Outcome, Result, Task
from vlm.captions.scan import Choice, find_pictures
from vlm.captions.stop import Stop
from vlm.captions.work import WINDOW, caption
from vlm.options import DEFAULT_PROMPT

ENCODE_MS, PREFILL_MS, TOKENS, RATE = 208.0, 65.0, 60, 149.0


def draw_photographs(folder: Path, count: int) -> None:
    """JPEGs of 12 megapixels of scenes that take at least TOKENS tokens to tell."""
    rng = np.random.default_rng(3)
    number = 0
    while number < count:
        scene = random_scene(rng, held_out=True)
        if len(scene.things) < 5:
            continue
        pixels = cv2.resize(draw(scene, rng, 400), (4000, 3000), interpolation=cv2.INTER_CUBIC)
        folder.joinpath(f"{number}.jpg").write_bytes(cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes())
        number += 1


class Figures(Quiet):
    """Keeps the tokens of each picture."""

    @property
    def tokens(self) -> list[int]:
        return [outcome.tokens for outcome in self.outcomes]  # type: ignore[union-attr]


def run(
    folder: Path, watcher: Quiet, *, recursive: bool = False, max_new_tokens: int = TOKENS, anew: bool = True
) -> Result:
    """Tell a folder through the engine."""
    if anew:
        (folder / "metadata.jsonl").unlink(missing_ok=True)

    @contextmanager
    def engine() -> Iterator[vlm.Engine]:
        with vlm.Engine(vlm.ModelChoice(model="demo")) as opened:
            opened.wait_ready()
            yield opened

    pictures = find_pictures([folder], folder, Choice(recursive=recursive))
    task = Task(folder, pictures, "demo", (DEFAULT_PROMPT,), {"max_new_tokens": max_new_tokens})
    return caption(task, engine, watcher, Stop())


@pytest.mark.parametrize("count", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_simulated_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """With overlap the longer of the two stages, without it both; reading and decoding are hidden in either.

    An SoC of two cores: with overlap each part has one, so that the one-core figures count; they are given the same
    values here.
    """
    draw_photographs(tmp_path, count)
    with vlm.load("demo") as model:
        prompt_tokens = model.describe(tmp_path / "0.jpg").prompt_tokens
    assert prompt_tokens
    figures = {"encode_ms": ENCODE_MS, "prefill_ms_per_token": PREFILL_MS / prompt_tokens, "tokens_per_second": RATE}
    pace = {**figures, **{f"{name}_one_core": value for name, value in figures.items()}}
    monkeypatch.setenv("VLM_SOC", "rk3576")
    monkeypatch.setenv("VLM_PACE", json.dumps(pace))
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("VLM_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("VLM_THREADS", "1")  # what a PC computes itself must not get into the way
    monkeypatch.setenv("VLM_ENCODER_CORES", "1")
    monkeypatch.setenv("VLM_LLM_CORES", "1")
    ratios = {}
    for overlap in (True, False):
        monkeypatch.setenv("VLM_OVERLAP", str(overlap))
        watcher = Figures()
        result = run(tmp_path, watcher)
        assert result.told == count
        encode = count * ENCODE_MS / 1000
        llm = sum(PREFILL_MS / 1000 + tokens / RATE for tokens in watcher.tokens)
        expected = max(encode, llm) if overlap else encode + llm
        ratios[overlap] = result.seconds / expected
        print(
            f"overlap {overlap!s:5}: {count} pictures, {np.mean(watcher.tokens):.1f} tokens each: "
            f"{result.seconds:.2f} s, encoder {encode:.2f} s, language model {llm:.2f} s, ratio {ratios[overlap]:.3f}"
        )
    assert min(ratios.values()) > 0.97  # nothing is skipped
    if count >= 40:
        assert max(ratios.values()) < 1.05


@pytest.mark.parametrize("count", [1500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_many_small_pictures(tmp_path: Path, count: int) -> None:
    """Memory is flat, no more pictures are under way than may be, and a finished folder is gone over in seconds."""
    folder = tmp_path / "many"
    for number in range(count):
        path = folder / f"{number // 1000}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "big") * 500)

    class Forgetful(Parrot):
        """Keeps nothing of what it is asked about: the memory is ours alone."""

        def over(self) -> None:
            super().over()
            self.asked.clear()

    process, memory = psutil.Process(), []

    class Scale(Quiet):
        over = 0

        def settled(self, outcome: Outcome) -> None:
            self.over += 1
            if self.over % (count // 10) == 0:
                memory.append(process.memory_info().rss / 2**20)

    parrot = Forgetful(lambda _: time.sleep(0.001))
    result = told(folder, parrot, Scale())
    assert (result.told, parrot.most_at_once) == (count, WINDOW)
    began = time.monotonic()
    again = told(folder, Parrot(_nobody))
    seconds = time.monotonic() - began
    print(
        f"{count} pictures: {count / result.seconds:.0f} pictures/s, RSS {memory[0]:.0f} MiB after a tenth, "
        f"{memory[-1]:.0f} MiB at the end; gone over again in {seconds:.2f} s"
    )
    assert again.done_before == count
    # What is kept of each picture is its place in the file: under 1 kB, and nothing of its bytes.
    assert memory[-1] - memory[0] < 8 + count * 1e-3


def _nobody(_: bytes) -> None:
    raise AssertionError("Nobody was to be asked.")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_through_the_model(tmp_path: Path) -> None:
    """The same through the engine and the demo model, whose process is watched too."""
    draw_folder(tmp_path, 10_000, long_side=112)
    memory: list[tuple[float, float]] = []

    class Scale(Quiet):
        over = 0

        def settled(self, outcome: Outcome) -> None:
            self.over += 1
            if self.over % 1000 == 0:
                us = psutil.Process()
                memory.append((us.memory_info().rss / 2**20, us.children()[0].memory_info().rss / 2**20))

    result = run(tmp_path, Scale(), recursive=True, max_new_tokens=4)
    began = time.monotonic()
    again = run(tmp_path, Quiet(), recursive=True, max_new_tokens=4, anew=False)
    print(
        f"10000 pictures: {10_000 / result.seconds:.0f} pictures/s, RSS (ours, the model's) {memory[0]} MiB after a "
        f"tenth, {memory[-1]} MiB at the end; gone over again in {time.monotonic() - began:.1f} s"
    )
    assert (result.told + result.reused, again.done_before) == (10_000, 10_000)
    assert memory[-1][0] - memory[0][0] < 20
    assert memory[-1][1] - memory[0][1] < 100
