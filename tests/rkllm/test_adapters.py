"""LoRA adapters and prompt caches of the stand-in: what it is given, and what must not go from one run to the next."""

from __future__ import annotations

from pathlib import Path

import pytest
from backends import Backend
from test_contract_functions import adapter, since

from vlm.errors import ModelLoadError, OptionError, RunError
from vlm.rkllm.model import Request


def test_an_adapter_arrives_as_it_was_given(standin: Backend, tmp_path: Path) -> None:
    model = standin.open()
    file = adapter(tmp_path, "tone")
    model.load_lora(file, "tone", 0.5)
    (loaded,) = standin.standin.seen("load_lora")
    assert (loaded["path"], loaded["name"], loaded["scale"]) == (str(file), "tone", 0.5)
    with pytest.raises(OptionError, match="a name of its own; got 'tone'"):
        model.load_lora(file, "tone")
    with pytest.raises(OptionError, match="must be a number; got nan"):
        model.load_lora(file, "other", float("nan"))
    with pytest.raises(ModelLoadError, match="There is no LoRA adapter at"):
        model.load_lora(tmp_path / "none.rkllm", "other")
    model.generate(Request(prompt="[tokens=1]")).text()
    model.generate(Request(prompt="[tokens=1]", lora="tone")).text()
    assert [run["lora"] for run in standin.standin.seen("run")] == [None, "tone"]


def test_two_adapters_by_turns_200_times(standin: Backend, tmp_path: Path) -> None:
    model = standin.open()
    for name in ("calm", "loud"):
        model.load_lora(adapter(tmp_path, name), name)
    for number in range(200):
        name = ("calm", "loud")[number % 2]
        generation = model.generate(Request(prompt=f"[id={number}][tokens=3]", lora=name))
        assert generation.text() == "".join(f"{number}@{name}:{i} " for i in range(3))
        assert set(generation.token_ids) < set(range(1100 + 1000 * (number % 2), 1200 + 1000 * (number % 2)))
    assert model.generate(Request(prompt="[id=z][tokens=1]")).text() == "z:0 "


def test_what_one_adapter_made_is_cleared_before_another_runs(standin: Backend, tmp_path: Path) -> None:
    """A runtime that goes on from its KV cache with the adapter that made it."""
    if not since(standin, "1.2.0"):
        pytest.skip("1.1.4 cannot clear its KV cache")
    standin.path = tmp_path / "model[sticky].rkllm"
    standin.path.touch()
    model = standin.open()
    for name in ("calm", "loud"):
        model.load_lora(adapter(tmp_path, name), name)
    for name in ("calm", "loud", None, None, "loud", None):
        expected = f"t@{name}:0 " if name else "t:0 "
        assert model.generate(Request(prompt="[tokens=1]", lora=name)).text() == expected


def test_history_does_not_change_its_adapter(standin: Backend, tmp_path: Path) -> None:
    if not since(standin, "1.2.0"):
        pytest.skip("1.1.4 has no history")
    model = standin.open()
    model.load_lora(adapter(tmp_path, "calm"), "calm")
    model.generate(Request(prompt="[tokens=1]", lora="calm", keep_history=True)).text()
    model.generate(Request(prompt="[tokens=1]", lora="calm", keep_history=True)).text()
    with pytest.raises(OptionError, match="made with LoRA adapter 'calm', and this run has no LoRA adapter"):
        model.generate(Request(prompt="[tokens=1]", keep_history=True))
    model.clear_kv_cache()
    model.generate(Request(prompt="[tokens=1]", keep_history=True)).text()


def test_a_prompt_cache_and_an_adapter(standin: Backend, tmp_path: Path) -> None:
    model = standin.open()
    model.load_lora(adapter(tmp_path, "calm"), "calm")
    with pytest.raises(OptionError, match="made without a LoRA adapter"):
        model.generate(Request(prompt="a", lora="calm", save_cache=tmp_path / "cache"))
    model.save_prompt_cache("[tokens=1]", tmp_path / "cache")
    model.load_prompt_cache(tmp_path / "cache")
    with pytest.raises(OptionError, match="adapter 'calm' cannot go on from it"):
        model.generate(Request(prompt="a", lora="calm"))


def test_a_prompt_cache_that_was_not_saved(standin: Backend, tmp_path: Path) -> None:
    model = standin.open()
    model.save_prompt_cache("[tokens=1]", tmp_path / "cache")
    before = (tmp_path / "cache").read_text()
    with pytest.raises(RunError, match="wrote no prompt cache"):
        model.save_prompt_cache("[unsaved]", tmp_path / "cache")
    with pytest.raises(RunError, match="rkllm_run returned -1"):
        model.save_prompt_cache("[fail]", tmp_path / "cache")
    assert [(path.name, path.read_text()) for path in tmp_path.glob("cache*")] == [("cache", before)]


def test_a_file_that_is_no_prompt_cache(standin: Backend, tmp_path: Path) -> None:
    model = standin.open()
    (tmp_path / "cache").write_text("of another kind")
    with pytest.raises(RunError, match="rkllm_load_prompt_cache returned -1"):
        model.load_prompt_cache(tmp_path / "cache")
    model.release_prompt_cache()  # none is loaded, and the runtime is not asked
    assert standin.standin.seen("release_prompt_cache") == []
