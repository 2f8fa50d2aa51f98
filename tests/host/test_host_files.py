"""Opening a model: what is looked for, which file is taken, and what is said when something is missing or wrong."""

from __future__ import annotations

import ctypes
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_model
from rig import Reference, Rig

from vlm.host import HostRuntime
from vlm.rkllm.abi import RELEASES, CallState, InferMode, abi


def refused(rig: Callable[..., Rig], path: Path | bytes | None, release: str = "1.3.0", **changes: Any) -> str:
    r = rig(None, release)
    r.handle.value = 123
    assert r.init(path, **changes) == -1
    assert not r.handle.value, "a handle that is no handle"
    said = r.said()
    assert said.startswith("E rkllm: ")
    assert len(said.splitlines()) == 1
    return said


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.build(tmp_path / "model")


class TestWhatIsTaken:
    @pytest.mark.parametrize("suffix", ["", "_fp16", "_q4", "_q4f16", "_quantized", "_int8", "_uint8", "_bnb4"])
    @pytest.mark.parametrize("folder", ["", "onnx/"])
    @pytest.mark.parametrize("name", ["decoder_model_merged", "decoder_model"])
    def test_names(self, name: str, folder: str, suffix: str, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        path = tiny_model.build(tmp_path, decoder=f"{folder}{name}{suffix}.onnx")
        r = rig(path)
        assert r.run("hi") == 0

    def test_the_more_exact_first_and_a_named_file_before_it(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        def says(path: Path) -> int:
            r = rig(path, max_new_tokens=1)
            assert r.run("a") == 0
            return r.ids[0]

        for number, name in enumerate(
            ["onnx/decoder_model_merged_q4.onnx", "decoder_model_fp16.onnx", "decoder_model_merged_fp16.onnx"]
        ):
            spec = tiny_model.chain_spec({ord("a"): ord("0") + number})
            tiny_model.build(tmp_path, spec, decoder=name)
            assert says(tmp_path) == ord("0") + number, "each is preferred to those before it"
        assert says(tmp_path / "onnx" / "decoder_model_merged_q4.onnx") == ord("0")

    def test_a_model_that_takes_ids_needs_no_embedder(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        path = tiny_model.build(tmp_path, tiny_model.Spec(takes_ids=True), decoder="onnx/model_q4.onnx")
        assert not list(path.rglob("embed_tokens*"))
        r = rig(path)
        assert r.run("hi") == 0

    def test_external_data_beside_the_file(self, model: Path, rig: Callable[..., Rig]) -> None:
        before = rig(model)
        assert before.run("hi") == 0
        file = model / "decoder_model_merged.onnx"
        loaded = onnx.load(str(file))
        onnx.save(loaded, str(file), save_as_external_data=True, location=f"{file.name}_data", size_threshold=1024)
        assert (model / f"{file.name}_data").exists()
        r = rig(model)
        assert r.run("hi") == 0
        assert r.ids == before.ids
        (model / f"{file.name}_data").unlink()
        assert "external data" in refused(rig, model)

    def test_sizes_of_a_nested_config(self, model: Path, rig: Callable[..., Rig]) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({"model_type": "vlm", "text_config": config}))
        r = rig(model)
        assert "max_context_limit: 256" in r.greeting
        assert r.run("x" * 248) == 0
        assert r.run("x" * 249) == -1

    def test_an_embedder_of_another_type(self, model: Path, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        """A float16 table in front of a float32 decoder, as some exports mix them."""
        half = tiny_model.build(tmp_path / "half", tiny_model.Spec(fp16=True))
        (half / "embed_tokens.onnx").replace(model / "embed_tokens.onnx")
        r = rig(model)
        assert r.run("hi") == 0
        spec = tiny_model.Spec()
        reference = Reference(model, spec)
        reference.table = reference.table.astype(np.float16).astype(np.float32)
        assert r.ids == reference.greedy(reference.rows(b"hi"), 8)


class TestWhatIsMissing:
    def test_nothing_there(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        assert "There is no model at" in refused(rig, tmp_path / "none")
        assert "No decoder in" in refused(rig, tmp_path)
        (tmp_path / "x.rkllm").write_bytes(b"RKLLM")
        assert "runs on a board only" in refused(rig, tmp_path / "x.rkllm")

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "embed_tokens.onnx"])
    def test_a_file(self, name: str, model: Path, rig: Callable[..., Rig]) -> None:
        (model / name).unlink()
        assert name in refused(rig, model)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "decoder_model_merged.onnx"])
    @pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\x00"])
    def test_not_what_it_should_be(self, name: str, content: bytes, model: Path, rig: Callable[..., Rig]) -> None:
        (model / name).write_bytes(content)
        assert name in refused(rig, model)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"max_position_embeddings": None}, "lacks max_position_embeddings"),
            ({"max_position_embeddings": "many"}, "max_position_embeddings in"),
            ({"hidden_size": -3}, "hidden_size in"),
        ],
    )
    def test_numbers(self, changes: dict[str, object], words: str, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        assert words in refused(rig, tiny_model.build(tmp_path, tiny_model.Spec(config=changes)))

    def test_a_decoder_without_cache(self, model: Path, rig: Callable[..., Rig]) -> None:
        (model / "embed_tokens.onnx").replace(model / "decoder_model_merged.onnx")
        said = refused(rig, model)
        assert "lacks" in said
        assert "past_key_values.0.key" in said

    def test_an_input_that_is_not_known(self, model: Path, rig: Callable[..., Rig]) -> None:
        file = model / "decoder_model_merged.onnx"
        loaded = onnx.load(str(file))
        extra = onnx.helper.make_tensor_value_info("encoder_hidden_states", onnx.TensorProto.FLOAT, ["b", "s", 32])
        loaded.graph.input.append(extra)
        onnx.save(loaded, str(file))
        assert "wants encoder_hidden_states" in refused(rig, model)


class TestParams:
    @pytest.mark.parametrize("release", RELEASES)
    def test_out_of_range(self, release: str, model: Path, rig: Callable[..., Rig]) -> None:
        assert "max_context_limit 256" in refused(rig, model, release, max_context_len=257)
        assert "top_p is 0" in refused(rig, model, release, top_p=0.0)
        assert "model_path is NULL" in refused(rig, None, release)
        assert "not UTF-8" in refused(rig, b"\xff", release)

    @pytest.mark.parametrize("release", [r for r in RELEASES if r != "1.3.0"])
    @pytest.mark.parametrize("name", ["img_start", "img_end", "img_content"])
    def test_tags_of_old_releases_may_not_be_null(
        self, name: str, release: str, model: Path, rig: Callable[..., Rig]
    ) -> None:
        assert f"{name} is NULL" in refused(rig, model, release, **{name: None})

    def test_what_only_the_board_does(self, model: Path, rig: Callable[..., Rig]) -> None:
        assert "n_batch is 4" in refused(rig, model, n_batch=4)
        assert "ross attention" in refused(rig, model, use_cross_attn=1)

    def test_null_pointers(self, model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(None)
        param = r.f.rkllm_createDefaultParam()
        param.model_path = str(model).encode()
        table = r.abi.RKLLMCallback(result_callback=r.callback)
        for args in (
            (None, ctypes.byref(param), ctypes.byref(table)),
            (ctypes.byref(r.handle), None, ctypes.byref(table)),
            (ctypes.byref(r.handle), ctypes.byref(param), None),
            (ctypes.byref(r.handle), ctypes.byref(param), ctypes.byref(r.abi.RKLLMCallback())),
        ):
            assert r.f.rkllm_init(*args) == -1
        assert r.said().count("NULL") == 4
        old = rig(None, "1.2.3")
        param = old.f.rkllm_createDefaultParam()
        param.model_path = str(model).encode()
        assert old.f.rkllm_init(ctypes.byref(old.handle), ctypes.byref(param), old.abi.ResultCallback(0)) == -1
        assert "NULL" in old.said()

    def test_callbacks_that_the_host_has_no_use_for(self, model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(None)
        param = r.f.rkllm_createDefaultParam()
        param.model_path = str(model).encode()
        tokenizer = r.abi.callbacks["LLMTokenizerCallback"](lambda *args: 0)
        table = r.abi.RKLLMCallback(result_callback=r.callback, tokenizer_callback=tokenizer)
        assert r.f.rkllm_init(ctypes.byref(r.handle), ctypes.byref(param), ctypes.byref(table)) == -1
        assert "not supported on the host" in r.said()

    def test_the_callback_struct_may_be_gone_after_init(self, model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(None)
        param = r.f.rkllm_createDefaultParam()
        param.model_path = str(model).encode()
        table = r.abi.RKLLMCallback(result_callback=r.callback)
        assert r.f.rkllm_init(ctypes.byref(r.handle), ctypes.byref(param), ctypes.byref(table)) == 0
        ctypes.memset(ctypes.byref(table), 0, ctypes.sizeof(table))
        ctypes.memset(ctypes.byref(param), 0, ctypes.sizeof(param))
        assert r.run("hi") == 0
        assert r.states[-1] is CallState.FINISH


@pytest.mark.parametrize("release", RELEASES)
def test_functions_are_those_of_the_release(release: str) -> None:
    runtime = HostRuntime(abi(release))
    lacking = {"rkllm_load_lora", "rkllm_set_function_tools", "rkllm_set_cross_attn_params"}
    assert set(runtime.functions()) == set(abi(release).signatures) - lacking


@pytest.mark.parametrize("release", RELEASES)
def test_log_lines_like_the_vendor_s(release: str, model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(model, release)
    version, toolkit = r.greeting.splitlines()
    assert version.startswith(f"I rkllm: rkllm-runtime version: {release}, rknpu driver version: none, platform: host")
    assert "max_context_limit: 256, npu_core_num: 0, target_platform: host, model_dtype: FP32" in toolkit


class Interrupting:
    """A pointer that is read in the moment in which Ctrl-C is pressed."""

    def __init__(self, raised: BaseException) -> None:
        self.raised = raised

    @property
    def contents(self) -> object:
        raise self.raised


def test_nothing_is_raised_into_c(model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(model)
    infer = ctypes.pointer(r.infer())
    assert r.runtime.rkllm_run(r.handle.value, Interrupting(MemoryError("full")), infer, None) == -1
    assert r.runtime.rkllm_run(r.handle.value, Interrupting(SystemExit()), infer, None) == -1
    assert "MemoryError: full" in r.said()
    codes = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
    try:
        codes.append(r.runtime.rkllm_run(r.handle.value, Interrupting(KeyboardInterrupt()), infer, None))
        time.sleep(10)
    except KeyboardInterrupt:
        codes.append(130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert codes == [-1, 130], "first C returns, then Python hears of the interrupt"
    assert r.run("hi") == 0, "the handle is free again"
    assert r.run("hi", r.infer(InferMode.GET_LOGITS)) == 0


def test_messages_are_bounded(model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(model)
    for _ in range(1100):
        r.f.rkllm_abort(None)
    assert len(r.runtime.messages) == 1000
    assert len(r.library.drain_messages()) == 1000
    assert r.runtime.messages == []
