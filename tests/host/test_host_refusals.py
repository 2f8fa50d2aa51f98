"""Runs and calls that are refused: -1 and a message, no callback, and the handle as good as before."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
from rig import Rig

from vlm.errors import NotSupportedByRuntime
from vlm.rkllm.abi import RELEASES, InferMode


@pytest.mark.parametrize("release", RELEASES)
def test_context_too_long(release: str, alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, release, max_context_len=20, max_new_tokens=12)
    assert r.run("x" * 8) == 0
    assert r.run("x" * 9) == -1
    assert "21 are more than max_context_len 20" in r.said()
    assert r.events == []


def test_context_counts_the_history(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, max_context_len=20, max_new_tokens=6)
    keep = r.infer(keep_history=1)
    assert r.run("ab", keep) == 0
    assert r.run("ab", keep) == 0
    held = r.cache_size()
    assert held == 2 + 6 + 2 + 5
    assert r.run("ab", keep) == -1
    assert "the KV cache holds 15" in r.said()
    assert r.cache_size() == held
    assert r.run("ab") == 0, "keep_history 0 begins anew"


@pytest.mark.parametrize(
    ("infer", "words"),
    [
        ({"mode": 9}, "mode is 9, expected one of 0 (GENERATE)"),
        ({"lora_params": "lora"}, "LoRA"),
        ({"sampling_params": "top_p"}, "top_p is 2"),
    ],
)
def test_infer_params(infer: dict[str, object], words: str, alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model)
    made = r.infer()
    values = {"lora": ctypes.pointer(r.abi.RKLLMLoraParam(lora_adapter_name=b"x")), "top_p": r.sampling(top_p=2.0)}
    for name, value in infer.items():
        setattr(made, name, values.get(str(value), value))
    assert r.run("a", made) == -1
    assert words in r.said()
    assert r.events == []


def test_inputs(random_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(random_model)
    null = r.prompt("x")
    null.prompt_input = None
    no_tokens = r.tokens([1])
    no_tokens.token_input.n_tokens = 0
    no_array = r.tokens([1])
    no_array.token_input.input_ids = None
    no_kind = r.prompt("x")
    no_kind.input_type = 17
    for given, words in (
        (null, "prompt_input is NULL"),
        (r.prompt(""), "The prompt is empty"),
        (r.prompt(b"\xff\xfe"), "not UTF-8"),
        (no_tokens, "n_tokens is 0"),
        (no_array, "input_ids is NULL"),
        (no_kind, "input_type is 17"),
        (r.tokens([-1]), "-1 is negative"),
        (r.tokens([99999]), "cannot be embedded"),
    ):
        assert r.run(given) == -1
        assert words in r.said()
        assert r.events == []
    assert r.f.rkllm_run(r.handle, None, ctypes.byref(r.infer()), None) == -1
    assert r.f.rkllm_run(r.handle, ctypes.byref(r.prompt("x")), None, None) == -1
    assert r.said().count("NULL") == 2
    assert r.run("x") == 0


def test_handles(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model)
    good = r.handle.value
    assert good is not None
    for bad in (None, 1, good & 0xFFFFFFFF):
        assert r.f.rkllm_run(bad, ctypes.byref(r.prompt("x")), ctypes.byref(r.infer()), None) == -1
        assert r.f.rkllm_abort(bad) == -1
        assert r.f.rkllm_destroy(bad) == -1
        assert r.f.rkllm_clear_kv_cache(bad, 0, None, None) == -1
        assert r.f.rkllm_is_running(bad) == -1
    assert r.run("x") == 0


def test_what_the_host_does_not_do(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model)
    for name in ("rkllm_load_lora", "rkllm_set_function_tools", "rkllm_set_cross_attn_params"):
        with pytest.raises(NotSupportedByRuntime, match=rf"{name}.*\(host\)"):
            getattr(r.f, name)


def test_a_late_failure_leaves_no_history(random_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(random_model)
    assert r.run("abc", r.infer(InferMode.GET_LOGITS, keep_history=1)) == 0
    assert r.cache_size() == 3
    assert r.run(r.tokens([99999]), r.infer(keep_history=1)) == -1
    assert r.cache_size() == 3, "refused before it began: nothing has changed"
