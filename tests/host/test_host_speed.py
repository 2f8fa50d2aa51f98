"""The decode benchmark, and the share of a bare loop's speed that it is there to watch."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model

from vlm.bench import decode
from vlm.errors import OptionError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As large as the demo model's decoder, about half a millisecond a token."""
    spec = tiny_model.Spec(width=192, heads=4, layers=6, limit=512)
    return tiny_model.build(tmp_path_factory.mktemp("speed") / "model", spec)


def test_both_are_measured_and_agree(model: Path) -> None:
    result = decode.run(model, tokens=40, rounds=2, threads=1)
    assert (result.tokens, result.rounds) == (40, 2)
    assert 10 < result.bare_tps < 1e6
    assert result.ratio == result.ours_tps / result.bare_tps
    text = decode.report(result)
    assert f"{result.ours_tps:.1f}" in text
    assert f"{result.ratio:.3f}" in text


def test_the_verdict_is_the_ratio_s() -> None:
    assert "MISSED" in decode.report(decode.DecodeResult(200, 5, ours_tps=84.0, bare_tps=100.0))
    assert "reached" in decode.report(decode.DecodeResult(200, 5, ours_tps=85.0, bare_tps=100.0))


def test_what_cannot_be_measured_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="exceed the model's context 512"):
        decode.run(model, tokens=500)
    ids = tiny_model.build(tmp_path, tiny_model.Spec(takes_ids=True))
    with pytest.raises(OptionError, match="The bare loop knows"):
        decode.run(ids, tokens=5)


@pytest.mark.slow
def test_at_least_85_percent_of_a_bare_loop(model: Path) -> None:
    result = decode.run(model, tokens=200, rounds=15)
    assert result.ratio >= decode.TARGET, decode.report(result)
