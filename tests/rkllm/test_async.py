"""Asynchronous runs of the stand-in: how their end is noticed, whatever it says; and the callbacks of 1.3.0."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from backends import Backend
from test_contract_functions import attention, since

from vlm.errors import EmbeddingError, RunError
from vlm.rkllm.model import ModelSettings, Placement, Request

ASYNC = ModelSettings(run_async=True, stop_timeout_s=20)


@pytest.mark.parametrize("words", ["", "[finish=none]", "[finish=null]", "[finish=later]", "[thread]", "[finish=late]"])
def test_the_end_of_an_asynchronous_run(standin: Backend, words: str) -> None:
    model = standin.open(settings=ASYNC)
    for _ in range(1 if "none" in words else 2):
        prompt = f"[tokens=4]{words}"
        images = np.zeros((1, 4, 8), np.float32)
        generation = model.generate(Request(prompt=f"<image>{prompt}", images=images, image_size=(8, 8)))
        del images
        gc.collect()
        assert generation.text() == "t:0 t:1 t:2 t:3 "
    assert standin.standin.seen("run") == []


@pytest.mark.parametrize("answer", ["finish", "error", "none"])
def test_an_asynchronous_run_is_aborted(standin: Backend, answer: str) -> None:
    model = standin.open(settings=ASYNC)
    with model.generate(Request(prompt=f"[tokens=200][pace=5][abort={answer}]")) as generation:
        next(generation)
    assert generation.finish_reason == "abort"
    assert model.generate(Request(prompt="[tokens=1]")).text() == "t:0 "


def test_a_runtime_that_says_nothing_runs(standin: Backend, tmp_path) -> None:
    standin.path = tmp_path / "model[mute].rkllm"
    standin.path.touch()
    model = standin.open(settings=ASYNC)
    # Longer than whatever is waited for where a runtime says that it is through.
    slow = "[prefill=1000]" if standin.library.release in ("1.2.3", "1.3.0") else ""
    generation = model.generate(Request(prompt=f"[tokens=4][pace=30]{slow}"))
    assert not model.is_running()
    assert generation.text() == "t:0 t:1 t:2 t:3 "


def test_an_asynchronous_run_that_fails(standin: Backend) -> None:
    model = standin.open(settings=ASYNC)
    with pytest.raises(RunError, match="the runtime reported an error"):
        model.generate(Request(prompt="[error=2]")).text()
    assert model.generate(Request(prompt="[tokens=1]")).text() == "t:0 "


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (lambda text: [1] * 100, "gave 100 ids; the runtime has room for 64"),
        (lambda text: [[1]], "A tokenizer gives a sequence of ids"),
        (lambda text: text.nothing, "AttributeError"),
    ],
)
def test_a_tokenizer_that_fails(standin: Backend, tokenizer, said: str) -> None:
    if not since(standin, "1.3.0"):
        pytest.skip("its callback came with 1.3.0")
    model = standin.open(settings=ModelSettings(tokenizer=tokenizer))
    with pytest.raises(RunError, match=said):
        model.generate(Request(prompt="a")).text()


@pytest.mark.parametrize(("width", "said"), [(5, "neither float32 nor float16"), (0, "an array of shape")])
def test_embeddings_that_do_not_fit(standin: Backend, width: int, said: str) -> None:
    if not since(standin, "1.3.0"):
        pytest.skip("its callback came with 1.3.0")
    settings = ModelSettings(tokenizer=lambda text: [1, 2], embedder=lambda ids: np.zeros((len(ids), width)))
    with pytest.raises(RunError, match=said):
        standin.open(settings=settings).generate(Request(prompt="a")).text()


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("keys", np.zeros((2, 5, 3, 4)), "keys must be C-contiguous float32 with 4 axes"),
        ("values", np.zeros((2, 5, 3, 4), np.float32), r"values must be of shape \(2, 3, 4, 5\)"),
        ("mask", np.zeros(4, np.float32), r"mask must be of shape \(5,\)"),
        ("positions", [0, 1], "positions must be .* got list"),
    ],
)
def test_cross_attention_that_does_not_fit(standin: Backend, name: str, wrong, said: str) -> None:
    if not since(standin, "1.2.1"):
        pytest.skip("cross attention came with 1.2.1")
    model = standin.open(placement=Placement(cross_attention=True))
    given = {**vars(attention()), name: wrong}
    with pytest.raises(EmbeddingError, match=said):
        model.set_cross_attention(type(attention())(**given))
    assert standin.standin.seen("set_cross_attn_params") == []
