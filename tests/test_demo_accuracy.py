"""How well the shipped model knows its world, on cases it was never trained on; samples/demo/evaluate.py, reduced."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from sample_pictures import ROOT

import vlm


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(str(ROOT / "samples" / "demo"))
    import evaluate

    yield evaluate
    for name in ("evaluate", "questions", "wordings", "world"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("count", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_demo_answers_what_it_was_never_trained_on(demo: vlm.VLM, evaluate: object, count: int) -> None:
    score = evaluate.measure(demo, evaluate.make_cases(count, seed=7))  # type: ignore[attr-defined]
    least = {"single fact": 0.97, "description": 0.95, "two pictures": 0.90, "outside": 0.90}
    slack = 0.0 if count >= 1000 else 0.06  # one wrong answer among 20 is 5 %
    for group, share in least.items():
        assert score.share(group) >= share - slack, "\n".join(score.wrong)
    assert score.declined <= 0.01 * score.inside
