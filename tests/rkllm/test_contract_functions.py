"""What holds for the rest of rkllm.h over every runtime: each function does its work, or is refused in words."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from backends import Backend

from vlm.errors import ModelClosedError, ModelLoadError, NotSupportedByRuntime, OptionError
from vlm.rkllm.abi import RELEASES
from vlm.rkllm.model import CrossAttention, Model, ModelSettings, Placement


def since(backend: Backend, release: str) -> bool:
    return RELEASES.index(backend.library.release) >= RELEASES.index(release)


def adapter(folder: Path, name: str) -> Path:
    path = folder / f"{name}.rkllm"
    path.touch()
    return path


def attention(tokens: int = 5) -> CrossAttention:
    def floats(*shape: int) -> np.ndarray:
        return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 0.25

    positions = np.arange(tokens, dtype=np.int32)
    return CrossAttention(floats(2, tokens, 3, 4), floats(2, 3, 4, tokens), floats(tokens), positions)


# --- LoRA -------------------------------------------------------------------------------------------------------------


def test_an_adapter_counts_for_the_run_that_names_it_alone(backend: Backend, tmp_path: Path) -> None:
    model = backend.open()
    if backend.standin is None:
        with pytest.raises(NotSupportedByRuntime, match=r"rkllm_load_lora.*\(host\); it needs librkllmrt\.so 1\.1\.4"):
            model.load_lora(adapter(tmp_path, "calm"), "calm")
        return
    for number, name in enumerate(("calm", "loud")):
        model.load_lora(adapter(tmp_path, name), name, scale=0.5 + number)
    assert model.loras == ("calm", "loud")
    answers = {name: model.generate(backend.request(lora=name)).text() for name in (None, "calm", "loud")}
    assert len(set(answers.values())) == 3
    for name in (None, "loud", None, "calm", "calm", None):
        assert model.generate(backend.request(lora=name)).text() == answers[name]


def test_an_adapter_that_is_not_loaded(backend: Backend) -> None:
    model = backend.open()
    with pytest.raises(OptionError, match="No LoRA adapter 'calm' is loaded; loaded: none"):
        model.generate(backend.request(lora="calm"))
    assert model.generate(backend.request()).text()


# --- prompt cache -----------------------------------------------------------------------------------------------------


def test_a_prompt_cache_by_name(backend: Backend, tmp_path: Path) -> None:
    model = backend.open(settings=ModelSettings(prompt_cache_dir=tmp_path / "caches"))
    prompt = backend.question(0)
    plain = model.generate(backend.request()).text()
    file = model.save_prompt_cache(prompt, "manner")
    assert file == tmp_path / "caches" / "manner"
    assert [path.name for path in file.parent.iterdir()] == ["manner"]
    model.load_prompt_cache("manner")
    assert model.generate(backend.request()).text() == plain
    model.load_prompt_cache(file)  # in place of the one before
    model.release_prompt_cache()
    model.release_prompt_cache()
    assert model.generate(backend.request()).text() == plain
    if backend.standin is not None:
        kept = len(prompt)
        assert [run["reused"] for run in backend.standin.seen("run")] == [0, 0, kept, 0]


def test_a_prompt_cache_does_not_go_with_images(backend: Backend, tmp_path: Path) -> None:
    model = backend.open()
    with pytest.raises(OptionError, match="two pictures have the same ones"):
        model.generate(backend.request(1, save_cache=tmp_path / "cache"))
    model.save_prompt_cache(backend.question(0), tmp_path / "cache")
    model.load_prompt_cache(tmp_path / "cache")
    with pytest.raises(OptionError, match="Release the cache, or leave the images out"):
        model.generate(backend.request(1))
    model.release_prompt_cache()
    assert model.generate(backend.request(1)).text()


def test_prompt_caches_that_are_none(backend: Backend, tmp_path: Path) -> None:
    model = backend.open(settings=ModelSettings(prompt_cache_dir=tmp_path))
    for name, said in (("nobody", "There is no prompt cache"), ("..", "letters, digits")):
        with pytest.raises(OptionError, match=said):
            model.load_prompt_cache(name)
    unnamed = backend.open()
    with pytest.raises(OptionError, match="prompt_cache_dir"):
        unnamed.load_prompt_cache("manner")


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [0, 1])
def test_the_last_hidden_layer(backend: Backend, images: int) -> None:
    model = backend.open()
    states = model.hidden_states(backend.request(images))
    assert (states.dtype, states.ndim, states.flags.owndata) == (np.float32, 2, True)
    kept = states.copy()
    np.testing.assert_array_equal(model.hidden_states(backend.request(images)), kept)
    np.testing.assert_array_equal(states, kept)  # ours, not the runtime's
    if backend.standin is None:
        assert states.shape[1] == backend.image_shape[1]
        assert (states.shape[0] > backend.image_shape[0]) == bool(images)


def test_the_last_hidden_layer_is_what_the_logits_are_made_of(backend: Backend) -> None:
    if backend.standin is not None or not since(backend, "1.2.0"):
        pytest.skip("the stand-in makes its arrays up; 1.1.4 has no logits")
    model = backend.open()
    states, logits = model.hidden_states(backend.request()), model.logits(backend.request())
    table = onnxruntime.InferenceSession(backend.path / "embed_tokens.onnx")
    ids = np.arange(logits.shape[1], dtype=np.int64)[np.newaxis]
    (head,) = table.run(None, {"input_ids": ids})  # the demo's output layer is its token embedding
    np.testing.assert_allclose(states @ head[0].T, logits, atol=1e-3)


# --- asynchronous runs ------------------------------------------------------------------------------------------------


def test_an_asynchronous_run_answers_as_another(backend: Backend) -> None:
    whole = list(backend.open().generate(backend.request()))
    model = backend.open(settings=ModelSettings(run_async=True))
    for _ in range(3):
        assert list(model.generate(backend.request())) == whole
    generation = model.generate(backend.request())
    head = [next(generation), next(generation)]
    generation.close()
    assert head == whole[:2]
    assert model.hidden_states(backend.request()).size
    assert list(model.generate(backend.request())) == whole
    if backend.standin is not None:
        assert len(backend.standin.seen("run")) == 1
        assert len(backend.standin.seen("run_async")) == 6


@pytest.mark.parametrize("asynchronous", [False, True])
def test_is_running_is_read_as_the_release_means_it(backend: Backend, asynchronous: bool) -> None:
    model = backend.open(settings=ModelSettings(run_async=asynchronous))
    assert not model.is_running()
    prompt = {"prompt": "[tokens=12][pace=60]"} if backend.standin is not None else {}
    generation = model.generate(backend.request(**prompt))
    next(generation)
    if backend.standin is not None:  # the host is through with it by then
        assert model.is_running()
    generation.close()
    assert not model.is_running()
    model.close()
    with pytest.raises(ModelClosedError):
        model.is_running()


# --- what a release, or a PC, does not have ------------------------------------------------------------------------


def test_function_tools(backend: Backend) -> None:
    model = backend.open()
    tools = '[{"type": "function", "function": {"name": "weather"}}]'
    if since(backend, "1.2.1") and backend.standin is not None:
        model.set_function_tools("You are kind.", tools, "<tool_response>")
        model.generate(backend.request(role="tool")).text()
        (told,) = backend.standin.seen("set_function_tools")
        assert (told["system"], told["tools"], told["response"]) == ("You are kind.", tools, "<tool_response>")
        assert backend.standin.seen("run")[0]["role"] == "tool"
        return
    with pytest.raises(NotSupportedByRuntime, match=r"rkllm_set_function_tools.*1\.2\.1"):
        model.set_function_tools("", tools, "")
    if not since(backend, "1.2.1"):
        with pytest.raises(NotSupportedByRuntime, match=r"role.*1\.2\.1"):
            model.generate(backend.request(role="tool"))


def test_cross_attention(backend: Backend) -> None:
    placement = Placement(cross_attention=True)
    if not since(backend, "1.2.1"):
        with pytest.raises(NotSupportedByRuntime, match=r"cross attention.*1\.2\.1"):
            backend.open(placement=placement)
        with pytest.raises(NotSupportedByRuntime, match=r"rkllm_set_cross_attn_params.*1\.2\.1"):
            backend.open().set_cross_attention(attention())
        return
    if backend.standin is None:
        with pytest.raises(ModelLoadError, match=r"Cross attention .* is not supported on the host"):
            backend.open(placement=placement)
        with pytest.raises(NotSupportedByRuntime, match=r"rkllm_set_cross_attn_params.*\(host\)"):
            backend.open().set_cross_attention(attention())
        return
    with pytest.raises(OptionError, match="opened without cross attention"):
        backend.open().set_cross_attention(attention())
    model = backend.open(placement=placement)
    given = attention()
    keys = weakref.ref(given.keys)
    model.set_cross_attention(given)
    del given
    gc.collect()
    assert keys() is not None  # nobody but the model keeps it
    model.generate(backend.request()).text()
    model.set_cross_attention(attention(3))
    gc.collect()
    assert keys() is None
    model.generate(backend.request()).text()
    seen = [run["attention"] for run in backend.standin.seen("run")]
    assert seen == [[0.25, 0.25, 11.25, 4], [0.25, 0.25, 3.75, 2]]


def test_a_tokenizer_and_embeddings_of_ones_own(backend: Backend) -> None:
    asked: list[str] = []

    def tokenize(text: str) -> list[int]:
        asked.append(text)
        return [5, 6, 7]

    settings = ModelSettings(tokenizer=tokenize, embedder=lambda ids: np.outer(ids, np.ones(8)))
    if not since(backend, "1.3.0"):
        with pytest.raises(NotSupportedByRuntime, match=r"a tokenizer of one's own.*1\.3\.0"):
            backend.open(settings=settings)
        return
    if backend.standin is None:
        with pytest.raises(ModelLoadError, match="not supported on the host"):
            backend.open(settings=settings)
        return
    model = backend.open(settings=settings)
    assert model.generate(backend.request()).text() == Model.generate(model, backend.request()).text()
    model.generate(backend.request(prompt="[half]")).text()
    assert asked == [backend.question(0)] * 2 + ["[half]"]
    seen = backend.standin.seen("run")
    assert [(run["ids"], run["ids_sum"]) for run in seen] == [(3, 18)] * 3
    assert (seen[0]["rows_sum"], seen[2]["first_half"]) == (18 * 8, np.float16(5).view(np.uint16))
