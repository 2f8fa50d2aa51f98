"""What the decoder says with its cache is what it says when everything is computed anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from rig import Reference, Rig

from vlm.rkllm.abi import CallState, InferMode

VARIANTS = {
    "demo": tiny_model.Spec(),
    "positions inside": tiny_model.Spec(positions=None),
    "three positions": tiny_model.Spec(positions="3d"),
    "no mask": tiny_model.Spec(attention_mask=False),
    "nothing but embeddings": tiny_model.Spec(attention_mask=False, positions=None),
    "merged": tiny_model.Spec(use_cache_branch=True),
    "logits to keep": tiny_model.Spec(num_logits_to_keep=True),
    "takes ids": tiny_model.Spec(takes_ids=True),
    "float16": tiny_model.Spec(fp16=True),
    "everything": tiny_model.Spec(
        positions="3d", use_cache_branch=True, num_logits_to_keep=True, hidden_output=True, fp16=True
    ),
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, tiny_model.Spec]:
    spec = VARIANTS[request.param]
    return tiny_model.build(tmp_path / "model", spec), spec


def test_greedy_answer_equals_full_recompute(variant: tuple[Path, tiny_model.Spec], rig: Callable[..., Rig]) -> None:
    path, spec = variant
    ids = [72, 101, 108, 108, 111]
    expected = Reference(path, spec).greedy(Reference(path, spec).rows(ids), 40)
    r = rig(path, max_new_tokens=40)
    assert r.run("Hello") == 0
    assert r.ids == [t for t in expected if t != tiny_model.IM_END]
    assert len(set(r.ids)) > 5, "an answer that repeats itself would not notice a cache that is wrong"
    assert r.run(r.tokens(ids)) == 0
    assert r.ids == [t for t in expected if t != tiny_model.IM_END]


def test_logits_of_every_token(variant: tuple[Path, tiny_model.Spec], rig: Callable[..., Rig]) -> None:
    path, spec = variant
    r = rig(path)
    ids = [1, 200, 30, 30, 5]
    assert r.run(r.tokens(ids), r.infer(InferMode.GET_LOGITS)) == 0
    assert r.states == [CallState.NORMAL, CallState.FINISH]
    reference = Reference(path, spec)
    np.testing.assert_allclose(r.events[0].array, reference.logits(reference.rows(ids)), rtol=1e-3, atol=1e-3)
    assert r.events[0].text is None


def test_history_goes_on_where_it_was(variant: tuple[Path, tiny_model.Spec], rig: Callable[..., Rig]) -> None:
    """Three runs with keep_history give the logits of one long sequence."""
    path, spec = variant
    r = rig(path)
    ids = list(range(40, 60))
    keep = {"keep_history": 1}
    assert r.run(r.tokens(ids[:7]), r.infer(InferMode.GET_LOGITS, **keep)) == 0
    assert r.run(r.tokens(ids[7:8]), r.infer(InferMode.GET_LOGITS, **keep)) == 0
    assert r.cache_size() == 8
    assert r.run(r.tokens(ids[8:]), r.infer(InferMode.GET_LOGITS, **keep)) == 0
    reference = Reference(path, spec)
    np.testing.assert_allclose(
        r.events[0].array, reference.logits(reference.rows(ids))[8:], rtol=1e-3, atol=2e-3 if spec.fp16 else 1e-3
    )
    assert r.cache_size() == 20


def test_embedding_input_equals_token_input(random_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(random_model)
    reference = Reference(random_model, tiny_model.Spec())
    assert r.run(r.tokens([10, 20, 30])) == 0
    by_tokens = r.ids
    rows = reference.rows([10, 20, 30])
    assert r.run(r.embedding(rows)) == 0
    assert r.ids == by_tokens
    assert len(by_tokens) == 8


def test_hidden_layer(tmp_path: Path, rig: Callable[..., Rig]) -> None:
    spec = tiny_model.Spec(hidden_output=True)
    path = tiny_model.build(tmp_path, spec)
    r = rig(path)
    ids = [9, 8, 7]
    assert r.run(r.tokens(ids), r.infer(InferMode.GET_LAST_HIDDEN_LAYER)) == 0
    assert r.states == [CallState.NORMAL, CallState.FINISH]
    hidden = r.events[0].array
    assert hidden is not None
    assert hidden.shape == (3, spec.width)
    reference = Reference(path, spec)
    logits = hidden @ tiny_model.weights(spec)["head"]
    np.testing.assert_allclose(logits, reference.logits(reference.rows(ids)), rtol=1e-4, atol=1e-4)


def test_hidden_layer_has_a_state_of_its_own_in_1_1_4(tmp_path: Path, rig: Callable[..., Rig]) -> None:
    r = rig(tiny_model.build(tmp_path, tiny_model.Spec(hidden_output=True)), "1.1.4")
    assert r.run("abc", r.infer(InferMode.GET_LAST_HIDDEN_LAYER)) == 0
    assert r.states == [CallState.LAST_HIDDEN_LAYER, CallState.FINISH]
    assert r.events[0].array is not None
    assert r.events[0].array.shape == (3, 32)
    assert r.run("abc", r.infer(InferMode.GET_LOGITS)) == -1
    assert "no logits mode" in r.said()


def test_an_export_without_hidden_layer_says_so(random_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(random_model)
    assert r.run("abc", r.infer(InferMode.GET_LAST_HIDDEN_LAYER)) == -1
    assert "hidden_states" in r.said()
    assert r.events == []


def test_a_range_taken_out_of_the_cache_is_not_seen(random_model: Path, rig: Callable[..., Rig]) -> None:
    """Cutting the end off and saying something else there is as if the first had never been."""
    keep = {"keep_history": 1}
    r = rig(random_model)
    assert r.run(r.tokens([65, 66, 67, 68]), r.infer(InferMode.GET_LOGITS, **keep)) == 0
    assert r.clear(span=(2, 4)) == 0
    assert r.cache_size() == 2
    assert r.run(r.tokens([90, 91]), r.infer(InferMode.GET_LOGITS, **keep)) == 0
    cut = r.events[0].array
    other = rig(random_model)
    assert other.run(other.tokens([65, 66, 90, 91]), other.infer(InferMode.GET_LOGITS)) == 0
    np.testing.assert_allclose(cut, other.events[0].array[2:], rtol=1e-4, atol=1e-4)


def test_a_range_in_the_middle_leaves_the_rest_where_it_is(tmp_path: Path, rig: Callable[..., Rig]) -> None:
    """With one layer, keys and values do not depend on what else was there, so that only the positions are told."""
    spec = tiny_model.Spec(layers=1)
    r = rig(tiny_model.build(tmp_path, spec))
    keep = {"keep_history": 1}
    assert r.run(r.tokens([1, 2, 3, 4, 5, 6]), r.infer(InferMode.GET_LOGITS, **keep)) == 0
    assert r.clear(span=(1, 3)) == 0
    assert r.run(r.tokens([7]), r.infer(InferMode.GET_LOGITS, **keep)) == 0
    assert r.cache_size() == 5
    reference = Reference(tmp_path, spec)
    positions = np.broadcast_to(np.array([0, 3, 4, 5, 6]), (3, 5))
    expected = reference.logits(reference.rows([1, 4, 5, 6, 7]), positions)[-1:]
    np.testing.assert_allclose(r.events[0].array, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("span", [(3, 3), (4, 9), (-1, 2)])
def test_a_range_outside_the_cache_is_refused(
    span: tuple[int, int], random_model: Path, rig: Callable[..., Rig]
) -> None:
    r = rig(random_model)
    assert r.run("abcde", r.infer(InferMode.GET_LOGITS, keep_history=1)) == 0
    assert r.clear(span=span) == -1
    assert f"Range {span[0]} to {span[1]} is not within the 5 positions" in r.said()
    assert r.cache_size() == 5
