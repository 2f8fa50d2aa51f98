"""The sampler against the formulas, written out with numpy, and against the same fields set through the structs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from numpy.typing import NDArray
from rig import Rig

from vlm.errors import OptionError
from vlm.host import HostRuntime
from vlm.host.sampling import Sampler, SamplingParams
from vlm.rkllm.abi import InferMode, abi

LOGITS = np.array([2.0, -1.0, 3.0, 0.5, 2.5, -4.0, 1.0, 0.0], np.float32)
DRAWS = 6_000


def params(**changes: float) -> SamplingParams:
    values = {
        "top_k": 0,
        "top_p": 1.0,
        "temperature": 1.0,
        "repeat_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
    }
    return SamplingParams(**{**values, **changes})  # type: ignore[arg-type]


def shares(sampler: Sampler, logits: NDArray[np.float32] = LOGITS) -> NDArray[np.float64]:
    picked = [sampler.pick(logits) for _ in range(DRAWS)]
    return np.bincount(picked, minlength=logits.size) / DRAWS


def softmax(logits: NDArray[np.float32], kept: list[int], temperature: float = 1.0) -> NDArray[np.float64]:
    chances = np.zeros(logits.size)
    chances[kept] = np.exp(logits[kept].astype(np.float64) / temperature)
    return chances / chances.sum()


def assert_close(found: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    """Within five standard deviations of a binomial draw; what must not come does not come."""
    assert not found[expected == 0].any()
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-9).all()


BEST = [2, 4, 0, 6, 3, 7, 1, 5]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 2, 5, 100])
def test_top_k_and_temperature(top_k: int, temperature: float) -> None:
    sampler = Sampler(params(top_k=top_k, temperature=temperature), seed=1)
    assert_close(shares(sampler), softmax(LOGITS, BEST[: top_k or None], temperature))


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.8, 0.99])
def test_top_p_keeps_the_likeliest_up_to_the_sum(top_p: float) -> None:
    chances = softmax(LOGITS, BEST)
    total, kept = 0.0, []
    for token in BEST:
        kept.append(token)
        total += chances[token]
        if total >= top_p:
            break
    assert_close(shares(Sampler(params(top_p=top_p), seed=2)), softmax(LOGITS, kept))


def test_top_k_before_top_p_and_temperature_after_both() -> None:
    first = softmax(LOGITS, BEST[:3])
    kept = BEST[:2]
    assert first[kept[0]] < 0.7 < first[kept].sum()
    sampler = Sampler(params(top_k=3, top_p=0.7, temperature=3.0), seed=3)
    assert_close(shares(sampler), softmax(LOGITS, kept, 3.0))


@pytest.mark.parametrize("changes", [{"top_k": 1, "temperature": 5.0}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_greedy(changes: dict[str, float]) -> None:
    assert set(np.flatnonzero(shares(Sampler(params(**changes), seed=4)))) == {2}


def test_equal_logits_are_all_drawn() -> None:
    flat = np.zeros(8, np.float32)
    assert_close(shares(Sampler(params(top_k=8), seed=5), flat), np.full(8, 1 / 8))


def test_repeat_penalty_divides_above_zero_and_multiplies_below() -> None:
    sampler = Sampler(params(top_k=1, repeat_penalty=2.0), recent=[2, 2, 4, 1])
    assert sampler.pick(LOGITS) == 0, "3.0 / 2 and 2.5 / 2 are below 2.0"
    assert sampler.recent == (2, 2, 4, 1, 0)
    low = np.array([-1.0, -1.5, -3.0], np.float32)
    assert Sampler(params(top_k=1, repeat_penalty=2.0), recent=[0]).pick(low) == 1
    np.testing.assert_array_equal(LOGITS, np.array([2.0, -1.0, 3.0, 0.5, 2.5, -4.0, 1.0, 0.0], np.float32))


def test_frequency_counts_and_presence_does_not() -> None:
    recent = [2, 2, 2, 4]
    assert Sampler(params(top_k=1, frequency_penalty=0.2), recent=recent).pick(LOGITS) == 2, "2.4 against 2.3"
    assert Sampler(params(top_k=1, frequency_penalty=0.3), recent=recent).pick(LOGITS) == 4, "2.1 against 2.2"
    assert Sampler(params(top_k=1, presence_penalty=0.6), recent=[2, 2, 2]).pick(LOGITS) == 4, "2.4 against 2.5"
    assert Sampler(params(top_k=1, presence_penalty=0.4), recent=[2, 2, 2]).pick(LOGITS) == 2, "2.6 against 2.5"
    assert Sampler(params(top_k=1, presence_penalty=-0.6), recent=[4]).pick(LOGITS) == 4


def test_penalties_see_the_answer_itself_and_only_the_latest() -> None:
    sampler = Sampler(params(top_k=1, presence_penalty=10.0))
    assert [sampler.pick(LOGITS) for _ in range(8)] == BEST, "each is said once before any comes again"
    long_ago = Sampler(params(top_k=1, presence_penalty=10.0), recent=[2] + [5] * 64)
    assert long_ago.pick(LOGITS) == 2
    assert Sampler(params(top_k=1, presence_penalty=10.0), recent=[2] + [5] * 63).pick(LOGITS) == 4


def test_mirostat_2_keeps_what_is_less_surprising_than_mu() -> None:
    """With eta next to 0, mu stays at 2 tau: tokens of a surprise above that are never drawn."""
    chances = softmax(LOGITS, BEST)
    tau = 1.1
    kept = [t for t in BEST if -np.log2(chances[t]) <= 2 * tau]
    assert 1 < len(kept) < 8
    sampler = Sampler(params(mirostat=2, mirostat_tau=tau, mirostat_eta=1e-12), seed=6)
    assert_close(shares(sampler), softmax(LOGITS, kept))


def test_mirostat_2_step_by_step() -> None:
    """Each draw moves mu by eta times how far its surprise is from tau: replayed with the same generator."""
    tau, eta, temperature = 2.0, 0.3, 1.5
    sampler = Sampler(params(mirostat=2, mirostat_tau=tau, mirostat_eta=eta, temperature=temperature), seed=7)
    rng, mu = np.random.default_rng(7), 2 * tau
    sizes = set()
    for _ in range(300):
        chances = np.sort(softmax(LOGITS, BEST, temperature))[::-1]
        kept = chances[: max(1, int((-np.log2(chances) <= mu).sum()))]
        kept = kept / kept.sum()
        place = int(np.searchsorted(np.cumsum(kept), rng.random(), side="right"))
        mu -= eta * (-np.log2(kept[place]) - tau)
        sizes.add(len(kept))
        assert sampler.pick(LOGITS) == BEST[place]
    assert len(sizes) > 1


def test_mirostat_1_step_by_step() -> None:
    """The paper's estimate of k, for a distribution that is Zipf's with exponent 1.5 and so gives s = 1.5 exactly."""
    s, n, tau, eta = 1.5, 200, 3.0, 0.2
    logits = (-s * np.log(np.arange(1, n + 1))).astype(np.float32)
    chances = softmax(logits, list(range(n)))
    sampler = Sampler(params(mirostat=1, mirostat_tau=tau, mirostat_eta=eta), seed=13)
    rng, mu = np.random.default_rng(13), 2 * tau
    sizes = set()
    for _ in range(300):
        k = ((s - 1) * 2**mu / (1 - n ** -(s - 1))) ** (1 / s)
        kept = chances[: min(max(round(k), 1), n)]
        kept = kept / kept.sum()
        place = int(np.searchsorted(np.cumsum(kept), rng.random(), side="right"))
        mu -= eta * (-np.log2(kept[place]) - tau)
        sizes.add(len(kept))
        assert sampler.pick(logits) == place
    assert len(sizes) > 5


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_mirostat_brings_the_surprise_to_tau(version: int, tau: float) -> None:
    """Over a Zipf distribution of 500 tokens, whose own surprise is about 6.6 bits."""
    logits = (-1.1 * np.log(np.arange(1, 501))).astype(np.float32)
    chances = softmax(logits, list(range(500)))
    sampler = Sampler(params(mirostat=version, mirostat_tau=tau), seed=8)
    picked = np.array([sampler.pick(logits) for _ in range(3000)])[500:]
    surprise = -np.log2(chances[picked])
    # What is drawn is less surprising among the tokens that were allowed than among all, by a bit or two.
    assert tau - 0.1 < surprise.mean() < tau + 2.2
    free = Sampler(params(), seed=8)
    assert surprise.mean() < -np.log2(chances[[free.pick(logits) for _ in range(3000)]]).mean() - 0.5


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_on_odd_distributions(version: int) -> None:
    sampler = Sampler(params(mirostat=version), seed=9)
    one = np.full(300, -1e9, np.float32)
    one[7] = 50
    for logits in (one, np.zeros(300, np.float32), np.array([1.0], np.float32), np.array([1, 2], np.float32)):
        assert 0 <= sampler.pick(logits) < logits.size
    assert sampler.pick(one) == 7


def test_the_same_seed_draws_the_same() -> None:
    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(params(temperature=2.0), seed=seed)
        return [sampler.pick(LOGITS) for _ in range(50)]

    assert draw(11) == draw(11)
    assert draw(11) != draw(12)
    assert draw(None) != draw(None)


@pytest.mark.parametrize(
    "changes",
    [{"top_p": 0.0}, {"top_p": 1.5}, {"repeat_penalty": 0.0}, {"mirostat": 3}, {"temperature": float("nan")}],
)
def test_values_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(changes))):
        params(**changes).check()


class TestThroughTheStructs:
    WILD = {"top_k": 0, "top_p": 1.0, "temperature": 1.5, "max_new_tokens": 12}  # noqa: RUF012

    def test_the_seed_of_the_runtime(self, random_model: Path, rig: Callable[..., Rig]) -> None:
        runtime = HostRuntime(abi("1.2.3"), seed=5, threads=1)
        r = rig(random_model, "1.2.3", runtime=runtime, **self.WILD)

        def say() -> list[int]:
            assert r.run("Hello") == 0
            return r.ids

        first = say()
        assert say() == first, "each run begins with the seed anew"
        runtime.set_seed(6)
        assert say() != first
        runtime.set_seed(None)
        assert say() == first
        other = rig(random_model, "1.2.3", **self.WILD)
        assert other.run("Hello") == 0
        assert other.ids != first

    def test_sampling_for_one_run(self, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model, seed=5, **self.WILD)
        assert r.run("Hello") == 0
        wild = r.ids
        greedy = rig(random_model, max_new_tokens=12)
        assert greedy.run("Hello") == 0
        assert r.run("Hello", r.infer(sampling_params=r.sampling(top_k=1))) == 0
        assert r.ids == greedy.ids != wild
        assert r.run("Hello") == 0
        assert r.ids == wild, "and the next run has its own again"

    def test_penalties_look_at_the_prompt(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        """a is followed by b, unless b stands in the prompt already and is punished for it."""
        path = tiny_model.build(tmp_path, tiny_model.chain_spec({ord("a"): ord("b"), ord("b"): ord("a")}))
        r = rig(path)
        punish = r.sampling(presence_penalty=20.0)
        assert r.run("a", r.infer(sampling_params=punish, max_new_tokens=1)) == 0
        assert r.text == b"b"
        assert r.run("ba", r.infer(sampling_params=punish, max_new_tokens=1)) == 0
        assert r.text != b"b"

    def test_penalties_look_at_the_history(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        path = tiny_model.build(tmp_path, tiny_model.chain_spec({ord("a"): ord("b"), ord("b"): ord("a")}))
        r = rig(path)
        keep = {"keep_history": 1, "max_new_tokens": 1}
        assert r.run("xb", r.infer(sampling_params=r.sampling(), **keep)) == 0
        assert r.run("a", r.infer(sampling_params=r.sampling(presence_penalty=20.0), **keep)) == 0
        assert r.text != b"b"

    def test_defaults_of_the_vendor(self, rig: Callable[..., Rig]) -> None:
        for release in ("1.1.4", "1.2.3", "1.3.0"):
            param = rig(None, release).f.rkllm_createDefaultParam()
            assert (param.top_k, param.mirostat) == (40, 0)
            floats = [param.top_p, param.temperature, param.repeat_penalty, param.mirostat_tau, param.mirostat_eta]
            np.testing.assert_allclose(floats, [0.9, 0.8, 1.1, 5.0, 0.1], rtol=1e-6)
            assert (param.frequency_penalty, param.presence_penalty, param.extend_param.base_domain_id) == (0, 0, 0)
            if release != "1.1.4":
                assert (param.n_keep, param.extend_param.enabled_cpus_num) == (-1, 4)
                assert param.extend_param.enabled_cpus_mask == 0xF0

    def test_logits_do_not_depend_on_the_sampling(self, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model, seed=1, **self.WILD)
        greedy = rig(random_model)
        for one in (r, greedy):
            assert one.run("abc", one.infer(InferMode.GET_LOGITS)) == 0
        np.testing.assert_array_equal(r.events[0].array, greedy.events[0].array)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_with_a_tau_that_no_token_reaches(version: int) -> None:
    """Its state then grows with every token, beyond any power of two."""
    sampler = Sampler(params(mirostat=version, mirostat_tau=100.0, mirostat_eta=1.0, repeat_penalty=2.5), seed=1)
    logits = np.random.default_rng(0).normal(0, 6, 300).astype(np.float32)
    assert len({sampler.pick(logits) for _ in range(200)}) > 1
