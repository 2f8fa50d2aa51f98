"""What holds for every runtime: the C stand-in of each release, and the host runtime speaking several of them."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
from backends import Backend, host_backend

from vlm.errors import ModelBusyError, ModelClosedError, ModelLoadError, NotSupportedByRuntime, RunError
from vlm.pace import Pace
from vlm.rkllm.abi import RELEASES
from vlm.rkllm.model import Model


def since(backend: Backend, release: str) -> bool:
    return RELEASES.index(backend.library.release) >= RELEASES.index(release)


def test_an_answer_streams_and_ends(backend: Backend) -> None:
    model = backend.open()
    generation = model.generate(backend.request())
    pieces = list(generation)
    assert pieces
    assert all(p.text for p in pieces)
    assert generation.finish_reason in ("stop", "length")
    assert 0 < len(generation.token_ids) <= 24
    assert pieces[-1].token_id in generation.token_ids
    assert (generation.perf is not None) == since(backend, "1.2.1")
    assert list(generation) == []


@pytest.mark.parametrize("images", [0, 1])
def test_the_same_question_has_the_same_answer(backend: Backend, images: int) -> None:
    model = backend.open()
    answers = [list(model.generate(backend.request(images))) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]


def test_a_then_b_then_a_again(backend: Backend) -> None:
    """What an answer says of one image must not depend on the one before it."""
    model = backend.open()
    first, _, again = (model.generate(backend.request(1, seed=s)).text() for s in (1, 2, 1))
    with backend.open() as fresh:
        assert fresh.generate(backend.request(1, seed=1)).text() == first == again


def test_several_images(backend: Backend) -> None:
    model = backend.open()
    if since(backend, "1.2.1b1"):
        assert model.generate(backend.request(2)).text()
    else:
        with pytest.raises(NotSupportedByRuntime, match="more than one image"):
            model.generate(backend.request(2))


@pytest.mark.parametrize("images", [0, 1])
def test_closed_at_the_third_piece_and_asked_again(backend: Backend, images: int) -> None:
    model = backend.open()
    whole = list(model.generate(backend.request(images)))
    generation = model.generate(backend.request(images))
    head = list(itertools.islice(generation, 3))
    generation.close()
    assert head == whole[:3]
    assert list(generation) == []
    assert len(generation.token_ids) <= len(whole)
    assert list(model.generate(backend.request(images))) == whole


def test_max_new_tokens_cuts_the_answer_short(backend: Backend) -> None:
    model = backend.open()
    whole = model.generate(backend.request())
    text = whole.text()
    short = model.generate(backend.request(max_new_tokens=4))
    assert text.startswith(short.text())
    assert short.token_ids == whole.token_ids[:4]
    assert short.finish_reason == "length"
    assert model.generate(backend.request()).text() == text


def test_a_stop_string_from_the_answer_itself(backend: Backend) -> None:
    model = backend.open()
    whole = model.generate(backend.request()).text()
    at = len(whole) // 2
    stop = whole[at : at + 3]
    generation = model.generate(backend.request(stop=(stop, "\0never")))
    assert generation.text() == whole[: whole.index(stop)]
    assert generation.finish_reason == "stop"
    assert model.generate(backend.request()).text() == whole


def test_the_template_can_be_switched_off(backend: Backend) -> None:
    model = backend.open()
    if since(backend, "1.2.0"):
        model.set_chat_template("", "", "")
        assert model.generate(backend.request()).text()
    else:
        with pytest.raises(NotSupportedByRuntime, match=r"rkllm_set_chat_template.*needs 1\.2\.0"):
            model.set_chat_template("", "", "")


def test_history_fills_the_cache_and_clearing_empties_it(backend: Backend) -> None:
    if not since(backend, "1.2.1"):
        pytest.skip("releases before 1.2.1 do not tell the cache's size")
    model = backend.open()
    model.generate(backend.request(keep_history=True)).text()
    size = model.kv_cache_size()
    assert size > 0
    model.clear_kv_cache()
    assert model.kv_cache_size() == 0
    model.generate(backend.request(1)).text()
    assert model.kv_cache_size() == 0  # image runs leave nothing behind


def test_logits(backend: Backend) -> None:
    model = backend.open()
    if not since(backend, "1.2.0"):
        with pytest.raises(NotSupportedByRuntime, match="logits"):
            model.logits(backend.request())
        return
    scores = model.logits(backend.request())
    assert scores.dtype == np.float32
    assert scores.ndim == 2
    assert scores.flags.owndata
    kept = scores.copy()
    model.generate(backend.request()).text()
    np.testing.assert_array_equal(scores, kept)  # ours, not the runtime's


def test_busy_and_closed(backend: Backend) -> None:
    if backend.standin is None:  # at a pace that leaves it running for as long as the second question takes to come
        backend.library = host_backend(backend.library.release, Pace(tokens_per_second=50)).library
    model = backend.open()
    generation = model.generate(backend.request())
    next(generation)
    try:
        with pytest.raises(ModelBusyError):
            model.generate(backend.request())
    finally:
        generation.close()
    assert model.generate(backend.request()).text()
    model.close()
    model.close()
    with pytest.raises(ModelClosedError):
        model.generate(backend.request())


def test_a_model_dropped_while_its_answer_is_read(backend: Backend) -> None:
    model = Model(backend.path, backend.library, tags=backend.tags, max_new_tokens=24)
    whole = model.generate(backend.request()).text()
    generation = model.generate(backend.request())
    del model
    gc.collect()
    assert generation.text() == whole
    with pytest.warns(ResourceWarning, match="was not closed"):
        del generation
    if backend.standin is not None:
        assert len(backend.standin.seen("destroy")) == 1
        backend.standin.reset()


def test_a_model_that_is_none(backend: Backend, tmp_path) -> None:
    if backend.standin is not None:
        pytest.skip("the stand-in loads anything; what it refuses is tested with its own words")
    bad = tmp_path / "model.rkllm"
    bad.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelLoadError, match=r"rkllm_init returned -1\. The runtime .* said: E rkllm: .*"):
        Model(bad, backend.library)


def test_embeddings_and_tokens_as_input(backend: Backend) -> None:
    model = backend.open()
    width = backend.image_shape[1]
    rows = np.random.default_rng(0).normal(0, 1, (4, width)).astype(np.float32)
    for request in (
        backend.request(prompt=None, tokens=np.arange(5, 9, dtype=np.int32)),
        backend.request(prompt=None, embedding=rows),
    ):
        generation = model.generate(request)
        generation.text()
        assert generation.finish_reason in ("stop", "length")


def test_what_the_runtime_refuses_is_an_error(backend: Backend) -> None:
    model = backend.open()
    too_much = "[fail]" if backend.standin is not None else "circle " * 5000
    with pytest.raises(RunError, match="rkllm_run returned -1") as caught:
        model.generate(backend.request(prompt=too_much)).text()
    if backend.standin is None:
        assert "said: E rkllm: The prompt has" in str(caught.value)
    assert model.generate(backend.request()).text()
