"""`vlm bench serve`: what the service adds to the library that it serves."""

from __future__ import annotations

import pytest
from service_rig import STAR, build

from vlm.bench.serve import TARGETS, report, run


def test_it_measures() -> None:
    """No figure is held to a target here: other programs run too."""
    result = run(build("1.3.0"), rounds=1, jpeg=STAR.read_bytes())
    assert result.rate > 0
    assert result.bare_ms > 20  # which the stand-in sleeps
    assert len(report(result).splitlines()) == 5


@pytest.mark.slow
def test_the_service_adds_little() -> None:
    result = run(build("1.3.0"), rounds=15)
    print(report(result))
    assert result.first_ms < TARGETS["first"]
    assert result.token_ms < TARGETS["token"]
    assert result.picture_ms < TARGETS["picture"]
    assert result.again_ms < result.bare_ms + 100  # the encoder's time
    assert result.rate >= TARGETS["rate"]
