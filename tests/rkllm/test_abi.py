"""Every struct, field and signature of every release equals what was recorded of the vendor's headers."""

from __future__ import annotations

import ctypes

import pytest
from standin import layout

from vlm.errors import UnknownReleaseError
from vlm.rkllm.abi import RELEASES, STRUCTS, Abi, abi, first_release

ARGUMENTS = {
    "rkllm_createDefaultParam": 0,
    "rkllm_init": 3,
    "rkllm_load_lora": 2,
    "rkllm_load_prompt_cache": 2,
    "rkllm_release_prompt_cache": 1,
    "rkllm_destroy": 1,
    "rkllm_run": 4,
    "rkllm_run_async": 4,
    "rkllm_abort": 1,
    "rkllm_is_running": 1,
}
FROM_120 = {"rkllm_clear_kv_cache": 2, "rkllm_set_chat_template": 4}
FROM_121 = {
    "rkllm_clear_kv_cache": 4,
    "rkllm_get_kv_cache_size": 2,
    "rkllm_set_function_tools": 4,
    "rkllm_set_cross_attn_params": 2,
}


def place(struct: type[ctypes.Structure], dotted: str) -> tuple[int, int]:
    offset = size = 0
    for name in dotted.split("."):
        member = getattr(struct, name)
        offset, size = offset + member.offset, member.size
        struct = {f[0]: f[1] for f in struct._fields_}.get(name, struct)
    return offset, size


@pytest.mark.parametrize("release", RELEASES)
def test_structs_equal_the_recorded_layout(release: str) -> None:
    recorded = layout(release)
    for name, (size, fields) in recorded.items():
        struct = getattr(abi(release), name)
        assert ctypes.sizeof(struct) == size, name
        assert {f: place(struct, f) for f in fields} == fields, name
    # Our own names for the parts that the header leaves nameless; everything else must be in the table.
    own = {"RKLLMInputUnion", "RKLLMImageInput", "RKLLMVideoInput"}
    assert {n for n in STRUCTS if getattr(abi(release), n) is not None} - own == set(recorded)


@pytest.mark.parametrize("release", RELEASES)
def test_no_field_beyond_the_recorded_ones(release: str) -> None:
    made = abi(release)
    for name, (_, fields) in layout(release).items():
        tops = {f.split(".")[0] for f in fields}
        members = {f[0] for f in getattr(made, name)._fields_} - {"union"}
        if name == "RKLLMInput":
            members |= {f[0] for f in made.RKLLMInputUnion._fields_}
        assert members == tops, name


@pytest.mark.parametrize("release", RELEASES)
def test_functions_and_callback_of_each_release(release: str) -> None:
    made, at = abi(release), RELEASES.index(release)
    wanted = dict(ARGUMENTS)
    if at >= RELEASES.index("1.2.0"):
        wanted |= FROM_120
    if at >= RELEASES.index("1.2.1"):
        wanted |= FROM_121
    assert {n: len(s.argtypes) for n, s in made.signatures.items()} == wanted
    assert made.callback_returns_int == (at >= RELEASES.index("1.2.1"))
    assert made.ResultCallback._restype_ is (ctypes.c_int if made.callback_returns_int else None)
    third = made.signatures["rkllm_init"].argtypes[2]
    assert third is (made.ResultCallback if release != "1.3.0" else ctypes.POINTER(made.RKLLMCallback))
    # A handle without a pointer type would be cut to 32 bits.
    assert all(s.argtypes[0] is ctypes.c_void_p for n, s in made.signatures.items() if n not in UNHANDLED)


UNHANDLED = ("rkllm_createDefaultParam", "rkllm_init")


def test_has_and_first_release_tell_what_came_when() -> None:
    old, new = abi("1.1.4"), abi("1.3.0")
    assert not old.has("RKLLMInferParam", "keep_history")
    assert new.has("RKLLMInferParam", "keep_history")
    assert new.has("RKLLMInput", "multimodal_input")
    assert not old.has("RKLLMPerfStat", "prefill_tokens")
    assert first_release("rkllm_clear_kv_cache") == "1.2.0"
    assert first_release("RKLLMPerfStat") == "1.2.1"
    assert first_release("RKLLMMultiModalInput", "n_image") == "1.2.1b1"
    assert first_release("rkllm_tokenize") is None


def test_an_unknown_release_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownReleaseError, match=r"'1\.2\.4'.*1\.1\.4, 1\.2\.0, 1\.2\.1b1"):
        abi("1.2.4")


def test_the_same_release_is_the_same_object() -> None:
    assert abi("1.2.3") is abi("1.2.3")
    assert isinstance(abi("1.2.3"), Abi)
    with pytest.raises(AttributeError):
        _ = abi("1.2.3").RKLLMNothing
