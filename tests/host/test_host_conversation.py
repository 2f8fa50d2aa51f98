"""What is kept between runs: history, chat templates, the system prompt, prompt caches."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from rig import Reference, Rig
from tiny_model import IM_END, IM_START

from vlm.rkllm.abi import InferMode

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}think\n{% endif %}{% endif %}"
)
WITH_SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML


def templated(directory: Path, template: str, **spec: object) -> Path:
    path = tiny_model.build(directory, tiny_model.Spec(**spec))  # type: ignore[arg-type]
    config = {"chat_template": template, "eos_token": {"content": "<|im_end|>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def fed(text: str) -> list[int]:
    return tiny_model.byte_tokenizer().encode(text).ids


class TestFed:
    """The tokens that a run fed to the decoder, told by their logits being those of the expected text."""

    def expect(self, r: Rig, path: Path, text: str, run: Callable[[], int]) -> None:
        assert run() == 0, r.said()
        reference = Reference(path, tiny_model.Spec())
        expected = reference.logits(reference.rows(fed(text)))
        found = r.events[0].array
        assert found is not None
        np.testing.assert_allclose(found, expected[len(expected) - len(found) :], rtol=1e-3, atol=1e-3)

    def test_no_template(self, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model)
        self.expect(r, random_model, "hello", lambda: r.run("hello", r.infer(InferMode.GET_LOGITS)))

    def test_the_model_s_own(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        path = templated(tmp_path, CHATML)
        r = rig(path)
        logits = r.infer(InferMode.GET_LOGITS)
        text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        self.expect(r, path, text, lambda: r.run("hi", logits))
        self.expect(r, path, text + "think\n", lambda: r.run(r.prompt("hi", thinking=True), logits))
        given = r.prompt("hi")
        given.role = b"tool"
        self.expect(r, path, text.replace("user", "tool"), lambda: r.run(given, logits))

    def test_the_first_release_has_none(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        path = templated(tmp_path, CHATML)
        r = rig(path, "1.1.4", max_new_tokens=1)
        assert r.run("hi") == 0
        reference = Reference(path, tiny_model.Spec())
        assert r.ids == reference.greedy(reference.rows(fed("hi")), 1)

    @pytest.mark.parametrize("release", ["1.2.0", "1.3.0"])
    def test_set_and_switched_off(self, release: str, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        path = templated(tmp_path, CHATML)
        r = rig(path, release)
        logits = r.infer(InferMode.GET_LOGITS)
        assert r.f.rkllm_set_chat_template(r.handle, b"S", b"[", b"]") == 0
        self.expect(r, path, "S[hi]", lambda: r.run("hi", logits))
        assert r.f.rkllm_set_chat_template(r.handle, b"", b"", b"") == 0
        self.expect(r, path, "hi", lambda: r.run("hi", logits))
        assert r.f.rkllm_set_chat_template(r.handle, b"\xff", b"", b"") == -1

    def test_images_go_through_the_template(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        path = templated(tmp_path, CHATML)
        r = rig(path)
        images = np.ones((1, 3, 32), np.float32)
        assert r.run(r.multimodal("<image>?", images), r.infer(InferMode.GET_LOGITS)) == 0
        reference = Reference(path, tiny_model.Spec())
        before, after = fed("<|im_start|>user\n<img>"), fed("</img>?<|im_end|>\n<|im_start|>assistant\n")
        rows = np.concatenate([reference.rows(before), images[0], reference.rows(after)])
        np.testing.assert_allclose(r.events[0].array, reference.logits(rows), rtol=1e-3, atol=1e-3)

    def test_a_second_turn(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        """The text after an answer: the end of the turn once, whether the model said it or was cut off."""
        path = templated(tmp_path, WITH_SYSTEM)
        r = rig(path, max_new_tokens=2)
        keep = {"keep_history": 1}
        assert r.run("hi", r.infer(**keep)) == 0
        said = r.ids
        assert len(said) == 2
        first = WITH_SYSTEM.partition("{%")[0] + "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        more = "<|im_end|>\n<|im_start|>user\nyes<|im_end|>\n<|im_start|>assistant\n"
        assert r.run("yes", r.infer(InferMode.GET_LOGITS, **keep)) == 0
        reference = Reference(path, tiny_model.Spec())
        expected = reference.logits(reference.rows([*fed(first), *said, *fed(more)]))
        found = r.events[0].array
        assert found is not None
        assert len(found) == len(fed(more)) + 1, "the last token of the answer had not been fed yet"
        np.testing.assert_allclose(found, expected[-len(found) :], rtol=1e-3, atol=1e-3)

    def test_a_second_turn_after_the_model_s_own_end(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        path = tiny_model.build(tmp_path, tiny_model.chain_spec(tiny_model.say("yo", after=ord("\n"))))
        (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML, "eos_token": "<|im_end|>"}))
        r = rig(path)
        assert r.run("hi", r.infer(keep_history=1)) == 0
        assert r.text == b"yo"
        held = r.cache_size()
        assert held == len(fed("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")) + 2
        assert r.run("a", r.infer(keep_history=1)) == 0
        assert r.text == b"yo"
        assert (
            r.cache_size() - held == len(fed("<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")) + 2
        )

    def test_without_a_template_the_end_token_is_the_caller_s_to_write(
        self, tmp_path: Path, rig: Callable[..., Rig]
    ) -> None:
        path = tiny_model.build(tmp_path, tiny_model.chain_spec(tiny_model.say("yo", after=ord("?"))))
        r = rig(path)
        keep = r.infer(keep_history=1)
        for given in (r.prompt("a?"), r.tokens([ord("a"), ord("?")])):
            held = r.cache_size()
            assert r.run(given, keep) == 0
            assert r.text == b"yo"
            assert r.cache_size() - held == 2 + 2, "a prompt and an answer of two tokens each, and no end token"

    def test_after_a_pause_the_prompt_is_appended_as_it_is(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        path = templated(tmp_path, CHATML)
        r = rig(path)
        r.answer = lambda event: 1
        assert r.run("hi") == 0
        said = r.ids
        assert len(said) == 1
        r.answer = lambda event: 0
        assert r.run("more", r.infer(InferMode.GET_LOGITS)) == 0
        reference = Reference(path, tiny_model.Spec())
        first = fed("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
        expected = reference.logits(reference.rows([*first, *said, *fed("more")]))[-5:]
        np.testing.assert_allclose(r.events[0].array, expected, rtol=1e-3, atol=1e-3)

    def test_a_template_that_raises(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        r = rig(templated(tmp_path, "{{ raise_exception('roles must alternate') }}"))
        assert r.run("hi") == -1
        assert "roles must alternate" in r.said()
        assert r.f.rkllm_set_chat_template(r.handle, b"", b"", b"") == 0
        assert r.run("hi") == 0

    @pytest.mark.parametrize(
        "template", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% for i in range(10**10) %}{% endfor %}"]
    )
    def test_templates_run_in_a_sandbox(self, template: str, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        r = rig(templated(tmp_path, template))
        assert r.run("hi") == -1
        assert "cannot render" in r.said()

    def test_a_template_that_is_not_jinja(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        r = rig()
        assert r.init(templated(tmp_path, "{% for %}")) == -1
        assert "not valid Jinja" in r.said()


class TestClearing:
    def test_clear_all(self, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model)
        keep = r.infer(keep_history=1)
        assert r.run("abc", keep) == 0
        fresh = r.ids
        assert r.cache_size() == 3 + 7
        assert r.run("abc", keep) == 0
        assert r.ids != fresh
        assert r.clear() == 0
        assert r.cache_size() == 0
        assert r.run("abc", keep) == 0
        assert r.ids == fresh

    @pytest.mark.parametrize("release", ["1.2.0", "1.2.3", "1.3.0"])
    @pytest.mark.parametrize("own", [True, False])
    def test_clear_but_the_system_prompt(
        self, own: bool, release: str, tmp_path: Path, rig: Callable[..., Rig]
    ) -> None:
        path = templated(tmp_path, WITH_SYSTEM)
        system = WITH_SYSTEM.partition("{%")[0]
        r = rig(path, release)
        if not own:
            system = "Be kind."
            assert r.f.rkllm_set_chat_template(r.handle, system.encode(), b"<|im_start|>", b"<|im_end|>") == 0
        keep = r.infer(keep_history=1)
        assert r.run("abc", keep) == 0
        fresh = r.ids
        assert r.run("def", keep) == 0
        assert r.clear(keep=1) == 0
        if release != "1.2.0":
            assert r.cache_size() == len(fed(system))
        assert r.run("abc", keep) == 0
        assert r.ids == fresh
        assert r.clear(keep=1) == 0
        assert r.clear(keep=1) == 0
        assert r.run("abc", keep) == 0
        assert r.ids == fresh
        if release != "1.2.0":
            assert r.events[-1].perf is not None
            assert r.events[-1].perf["prefill_tokens"] < len(fed(system + "abc")) + 8
            assert r.clear(keep=0) == 0
            assert r.cache_size() == 0

    def test_without_history_every_run_is_the_first(self, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model)
        assert r.run("abc") == 0
        first = r.ids
        assert r.cache_size() == 0
        assert r.run("xyz", r.infer(keep_history=1)) == 0
        assert r.cache_size() > 0
        assert r.run("abc") == 0
        assert r.ids == first
        assert r.cache_size() == 0

    def test_only_one_end_of_a_range(self, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model)
        assert r.f.rkllm_clear_kv_cache(r.handle, 0, (ctypes.c_int * 1)(0), None) == -1
        assert "both start_pos and end_pos" in r.said()


class TestPromptCache:
    def save(self, r: Rig, path: Path, text: str) -> None:
        cache = r.abi.RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=str(path).encode())
        assert r.run(text, r.infer(prompt_cache_params=ctypes.pointer(cache))) == 0, r.said()

    def load(self, r: Rig, path: Path) -> int:
        return int(r.f.rkllm_load_prompt_cache(r.handle, str(path).encode()))

    @pytest.mark.parametrize("release", ["1.1.4", "1.3.0"])
    def test_a_saved_prefix_is_not_computed_again(
        self, release: str, random_model: Path, tmp_path: Path, rig: Callable[..., Rig]
    ) -> None:
        file = tmp_path / "cache.npz"
        r = rig(random_model, release)
        self.save(r, file, "You are kind. ")
        other = rig(random_model, release)
        assert other.run("You are kind. Who?") == 0
        expected = other.ids
        assert self.load(other, file) == 0
        for text, left in (("You are kind. Who?", 4), ("You are kind. ", 1), ("You are not.", 12)):
            fresh = rig(random_model, release)
            assert fresh.run(text) == 0
            assert other.run(text) == 0
            assert other.ids == fresh.ids
            if other.events[-1].perf is not None:
                assert other.events[-1].perf["prefill_tokens"] == left
        assert other.f.rkllm_release_prompt_cache(other.handle) == 0
        assert other.run("You are kind. Who?") == 0
        assert other.ids == expected
        if other.events[-1].perf is not None:
            assert other.events[-1].perf["prefill_tokens"] == 18

    def test_files_that_do_not_do(self, random_model: Path, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model)
        file = tmp_path / "cache.npz"
        assert self.load(r, file) == -1
        file.write_bytes(b"something else")
        assert self.load(r, file) == -1
        np.savez(tmp_path / "other.npz", ids=np.arange(3), t0=np.zeros((1, 2, 4, 16)))
        assert self.load(r, tmp_path / "other.npz") == -1
        assert r.said().count("not a prompt cache") == 3
        self.save(r, file, "abc")
        stranger = rig(tiny_model.build(tmp_path / "model", tiny_model.Spec(layers=3)))
        assert self.load(stranger, file) == -1
        assert "made by another model" in stranger.said()
        assert stranger.run("abc") == 0

    def test_pictures_are_not_saved(self, random_model: Path, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model)
        cache = r.abi.RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=str(tmp_path / "c").encode())
        images = np.ones((1, 3, 32), np.float32)
        infer = r.infer(prompt_cache_params=ctypes.pointer(cache))
        assert r.run(r.multimodal("<image>", images), infer) == -1
        assert "not pictures" in r.said()
        cache.prompt_cache_path = str(tmp_path / "nowhere" / "c").encode()
        assert r.run("abc", infer) == -1
        assert "cannot be written" in r.said()
        assert list(tmp_path.iterdir()) == []


def test_specials_are_what_the_tests_take_them_for() -> None:
    assert fed("<|im_start|>a<|im_end|>") == [IM_START, 97, IM_END]
