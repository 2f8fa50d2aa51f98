"""The stand-in at a board's pace, set by words in the model's path. Lower bounds only: a busy machine is slower."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from backends import StandIn, c_backend, finish
from pydantic import ValidationError

from vlm.pace import Pace
from vlm.rkllm.abi import RELEASES
from vlm.rkllm.model import Request

PACE = Pace(
    prefill_ms_per_token=20, tokens_per_second=62.5, prefill_ms_per_token_one_core=40, tokens_per_second_one_core=25
)
IMAGE_TOKENS = 4


def words(pace: Pace) -> str:
    """The stand-in's words for a pace."""
    assert pace.prefill_ms_per_token is not None
    return f"[prefill-token={pace.prefill_ms_per_token * 1000:.0f}][rate={pace.tokens_per_second}]"


@pytest.mark.parametrize("cores", ["all", "one"])
@pytest.mark.parametrize("release", RELEASES)
def test_a_whole_model_is_paced(built: Callable[[str], StandIn], tmp_path: Path, release: str, cores: str) -> None:
    pace = PACE if cores == "all" else PACE.one_core()
    backend = c_backend(built(release), tmp_path, words(pace))
    prompt = "<image>[id=x][tokens=5] "
    request = backend.request(images=1, prompt=prompt)
    model = backend.open()
    started = time.perf_counter()
    with model.generate(request) as generation:
        pieces = iter(generation)
        next(pieces)
        first = time.perf_counter() - started
        assert len(list(pieces)) == 4
    total = time.perf_counter() - started
    tokens = IMAGE_TOKENS + len(prompt) // 4
    print(f"first token after {first:.3f} s, at least {pace.prefill_s(tokens):.3f}; in all {total:.3f} s")
    assert first >= pace.prefill_s(tokens)
    assert total >= pace.prefill_s(tokens) + 5 * pace.token_s
    if generation.perf is not None:
        assert RELEASES.index(release) >= RELEASES.index("1.2.1")
        assert (generation.perf.prefill_tokens, generation.perf.generate_tokens) == (tokens, 5)
        assert pace.prefill_s(tokens) <= generation.perf.prefill_ms / 1000 <= total
        assert 5 * pace.token_s <= generation.perf.generate_ms / 1000 <= total
    finish(backend)


def test_an_abort_is_heard_after_the_prefill(built: Callable[[str], StandIn], tmp_path: Path) -> None:
    backend = c_backend(built("1.3.0"), tmp_path, "[prefill-token=100000]")
    started = time.perf_counter()
    generation = backend.open().generate(Request(prompt="[tokens=50][abort=finish]..."))
    while not backend.standin.seen("run"):
        time.sleep(0.002)
    generation.close()
    assert time.perf_counter() - started >= 7 * 0.1
    (returned,) = backend.standin.seen("returned")
    assert returned["tokens"] == 0
    finish(backend)


def test_one_core_never_takes_the_figures_of_all() -> None:
    partly = Pace(encode_ms=842, prefill_ms_per_token=0.6, tokens_per_second=78, encode_ms_one_core=2000)
    alone = partly.one_core()
    assert (alone.encode_ms, alone.prefill_ms_per_token, alone.tokens_per_second) == (2000, None, None)
    assert (alone.prefill_s(128), alone.token_s) == (0, 0)
    assert partly.prefill_s(128) == pytest.approx(0.0768)
    assert partly.token_s == pytest.approx(1 / 78)
    assert alone.one_core() == alone


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens_per_second": 0},
        {"tokens_per_second": float("inf")},
        {"encode_ms": float("nan")},
        {"encode_ms": -1},
        {"encode_ms": "842"},
        {"encode_ms": True},
        {"prefill_ms_per_token_one_core": 1e9},
        {"prefill": 3},
    ],
)
def test_a_pace_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Pace(**wrong)


def test_a_pace_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PACE.tokens_per_second = 1  # type: ignore[misc]
