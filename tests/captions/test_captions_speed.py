"""What a folder takes, by simulated times of a board, and what it costs in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from parrot import Quiet
from scenes import draw, random_scene

import vlm
from vlm.captions.records import Result, Task
from vlm.captions.scan import Choice, find_pictures
from vlm.captions.stop import Stop
from vlm.captions.work import caption
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


def run(folder: Path, watcher: Quiet) -> Result:
    """Tell a folder anew through the engine."""
    for name in ("metadata.jsonl", "errors.jsonl"):
        (folder / name).unlink(missing_ok=True)

    @contextmanager
    def engine() -> Iterator[vlm.Engine]:
        with vlm.Engine(vlm.ModelChoice(model="demo")) as opened:
            opened.wait_ready()
            yield opened

    pictures = find_pictures([folder], folder, Choice())
    task = Task(folder, pictures, "demo", (DEFAULT_PROMPT,), {"max_new_tokens": TOKENS})
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
