"""The C interface of librkllmrt.so, release by release, as ctypes types. No logic, and nothing is loaded here.

One description of each struct and function follows, with what each release added or dropped beside the line; the
classes are built from it. Facts: the vendor's public header `rkllm.h` of each release from 1.1.4 to 1.3.0, whose sizes
and offsets (the same on x86-64 and aarch64) are recorded in tests/rkllm/layouts.json.

Contract of the boundary, in words:

- Strings are UTF-8, ended by a NUL. Strings and arrays handed in belong to the caller, and must live until the call
  that got them returns (for `rkllm_run`, until the run returns). Nothing handed out may be freed by us.
- The result callback may come from any thread. The result it points to is valid only during the callback.
- Every function that returns int says 0 for success. `rkllm_init` may say 0 and leave the handle NULL.
- A callback that returns int says 0 to go on, 1 to pause, 2 (1.3.0) to release the output buffer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from vlm.errors import UnknownReleaseError

RELEASES: tuple[str, ...] = ("1.1.4", "1.2.0", "1.2.1b1", "1.2.1", "1.2.2", "1.2.3", "1.3.0")
"""The releases whose layouts are known, oldest first. What comes between them is not guessed."""


class CallState(IntEnum):
    """What a call of the result callback means (LLMCallState)."""

    NORMAL = 0
    WAITING = 1  # the text so far ends inside a UTF-8 character
    FINISH = 2
    ERROR = 3
    LAST_HIDDEN_LAYER = 4  # 1.1.4 only; later releases hand it over with NORMAL


class CallbackReturn(IntEnum):
    """What a result callback that returns int may say."""

    GO_ON = 0
    PAUSE = 1
    RELEASE = 2  # from 1.3.0: the array just handed over may be freed


class InputType(IntEnum):
    """Which member of the union in RKLLMInput is set (RKLLMInputType)."""

    PROMPT = 0
    TOKEN = 1
    EMBED = 2
    MULTIMODAL = 3


class InferMode(IntEnum):
    """What a run gives (RKLLMInferMode)."""

    GENERATE = 0
    GET_LAST_HIDDEN_LAYER = 1
    GET_LOGITS = 2  # from 1.2.0


class Field(NamedTuple):
    """A member of a struct: its C type by name, and the first and last release that have it."""

    name: str
    type: str
    since: str = RELEASES[0]
    until: str = RELEASES[-1]


class Function(NamedTuple):
    """A function of the library: C types by name, and the first and last release that have it in this form."""

    name: str
    args: tuple[str, ...]
    since: str = RELEASES[0]
    until: str = RELEASES[-1]
    returns: str = "int"


STRUCTS: Mapping[str, tuple[Field, ...]] = {
    "RKLLMExtendParam": (
        Field("base_domain_id", "int32_t"),
        Field("embed_flash", "int8_t", "1.2.0"),
        Field("enabled_cpus_num", "int8_t", "1.2.0"),
        Field("enabled_cpus_mask", "uint32_t", "1.2.0"),
        Field("n_batch", "uint8_t", "1.2.1"),
        Field("use_cross_attn", "int8_t", "1.2.1"),
        Field("reserved", "uint8_t[112]", until="1.1.4"),
        Field("reserved", "uint8_t[106]", "1.2.0", "1.2.1b1"),
        Field("reserved", "uint8_t[104]", "1.2.1"),
    ),
    "RKLLMParam": (
        Field("model_path", "char*"),
        Field("max_context_len", "int32_t"),
        Field("max_new_tokens", "int32_t"),
        Field("top_k", "int32_t"),
        Field("n_keep", "int32_t", "1.2.0"),
        Field("top_p", "float"),
        Field("temperature", "float"),
        Field("repeat_penalty", "float"),
        Field("frequency_penalty", "float"),
        Field("presence_penalty", "float"),
        Field("mirostat", "int32_t"),
        Field("mirostat_tau", "float"),
        Field("mirostat_eta", "float"),
        Field("skip_special_token", "bool"),
        Field("ignore_eos_token", "bool", "1.3.0"),
        Field("is_async", "bool"),
        Field("img_start", "char*", until="1.2.3"),
        Field("img_end", "char*", until="1.2.3"),
        Field("img_content", "char*", until="1.2.3"),
        Field("extend_param", "RKLLMExtendParam"),
    ),
    "RKLLMLoraAdapter": (
        Field("lora_adapter_path", "char*"),
        Field("lora_adapter_name", "char*"),
        Field("scale", "float"),
    ),
    "RKLLMEmbedInput": (Field("embed", "float*"), Field("n_tokens", "size_t")),
    "RKLLMTokenInput": (Field("input_ids", "int32_t*"), Field("n_tokens", "size_t")),
    # The header has no names for these two; they are members of the 1.3.0 multimodal input.
    "RKLLMImageInput": (
        Field("image_embed", "float*", "1.3.0"),
        Field("n_image_tokens", "size_t", "1.3.0"),
        Field("n_image", "size_t", "1.3.0"),
        Field("image_start", "char*", "1.3.0"),
        Field("image_end", "char*", "1.3.0"),
        Field("image_content", "char*", "1.3.0"),
        Field("image_width", "size_t", "1.3.0"),
        Field("image_height", "size_t", "1.3.0"),
    ),
    "RKLLMVideoInput": (
        Field("video_embed", "float*", "1.3.0"),
        Field("n_frame_tokens", "size_t", "1.3.0"),
        Field("n_frame_per_video", "size_t", "1.3.0"),
        Field("n_video", "size_t", "1.3.0"),
        Field("video_start", "char*", "1.3.0"),
        Field("video_end", "char*", "1.3.0"),
        Field("video_content", "char*", "1.3.0"),
        Field("frame_width", "size_t", "1.3.0"),
        Field("frame_height", "size_t", "1.3.0"),
    ),
    # Spelt RKLLMMultiModelInput before 1.2.3. n_image_tokens is the tokens of one image.
    "RKLLMMultiModalInput": (
        Field("prompt", "char*"),
        Field("image_embed", "float*", until="1.2.3"),
        Field("n_image_tokens", "size_t", until="1.2.3"),
        Field("n_image", "size_t", "1.2.1b1", "1.2.3"),
        Field("image_width", "size_t", "1.2.1b1", "1.2.3"),
        Field("image_height", "size_t", "1.2.1b1", "1.2.3"),
        Field("image", "RKLLMImageInput", "1.3.0"),
        Field("video", "RKLLMVideoInput", "1.3.0"),
    ),
    "RKLLMInputUnion": (
        Field("prompt_input", "char*"),
        Field("embed_input", "RKLLMEmbedInput"),
        Field("token_input", "RKLLMTokenInput"),
        Field("multimodal_input", "RKLLMMultiModalInput"),
    ),
    "RKLLMInput": (
        Field("role", "char*", "1.2.1"),
        Field("enable_thinking", "bool", "1.2.1"),
        Field("input_type", "enum"),
        Field("union", "RKLLMInputUnion"),
    ),
    "RKLLMLoraParam": (Field("lora_adapter_name", "char*"),),
    "RKLLMPromptCacheParam": (Field("save_prompt_cache", "int"), Field("prompt_cache_path", "char*")),
    "RKLLMCrossAttnParam": (
        Field("encoder_k_cache", "float*", "1.2.1"),
        Field("encoder_v_cache", "float*", "1.2.1"),
        Field("encoder_mask", "float*", "1.2.1"),
        Field("encoder_pos", "int32_t*", "1.2.1"),
        Field("num_tokens", "int", "1.2.1"),
    ),
    "RKLLMSamplingParam": (
        Field("top_k", "int32_t", "1.3.0"),
        Field("top_p", "float", "1.3.0"),
        Field("temperature", "float", "1.3.0"),
        Field("repeat_penalty", "float", "1.3.0"),
        Field("frequency_penalty", "float", "1.3.0"),
        Field("presence_penalty", "float", "1.3.0"),
        Field("mirostat", "int32_t", "1.3.0"),
        Field("mirostat_tau", "float", "1.3.0"),
        Field("mirostat_eta", "float", "1.3.0"),
    ),
    "RKLLMInferParam": (
        Field("mode", "enum"),
        Field("lora_params", "RKLLMLoraParam*"),
        Field("prompt_cache_params", "RKLLMPromptCacheParam*"),
        Field("sampling_params", "RKLLMSamplingParam*", "1.3.0"),
        Field("keep_history", "int", "1.2.0"),
        Field("max_new_tokens", "int32_t", "1.3.0"),
    ),
    "RKLLMResultLastHiddenLayer": (
        Field("hidden_states", "float*"),
        Field("embd_size", "int"),
        Field("num_tokens", "int"),
    ),
    "RKLLMResultLogits": (
        Field("logits", "float*", "1.2.0"),
        Field("vocab_size", "int", "1.2.0"),
        Field("num_tokens", "int", "1.2.0"),
    ),
    "RKLLMPerfStat": (
        Field("prefill_time_ms", "float", "1.2.1"),
        Field("prefill_tokens", "int", "1.2.1"),
        Field("generate_time_ms", "float", "1.2.1"),
        Field("generate_tokens", "int", "1.2.1"),
        Field("memory_usage_mb", "float", "1.2.1"),
    ),
    "RKLLMResult": (
        Field("text", "char*"),
        Field("token_id", "int32_t"),
        Field("last_hidden_layer", "RKLLMResultLastHiddenLayer"),
        Field("logits", "RKLLMResultLogits", "1.2.0"),
        Field("perf", "RKLLMPerfStat", "1.2.1"),
    ),
    "RKLLMCallback": (
        Field("result_callback", "LLMResultCallback", "1.3.0"),
        Field("result_userdata", "void*", "1.3.0"),
        Field("tokenizer_callback", "LLMTokenizerCallback", "1.3.0"),
        Field("tokenizer_userdata", "void*", "1.3.0"),
        Field("embed_callback", "LLMGetEmbedCallback", "1.3.0"),
        Field("embed_userdata", "void*", "1.3.0"),
    ),
}
"""Every struct, in an order in which each stands after what it is made of."""

CALLBACKS: tuple[Function, ...] = (
    Function("LLMResultCallback", ("RKLLMResult*", "void*", "enum"), until="1.2.1b1", returns="void"),
    Function("LLMResultCallback", ("RKLLMResult*", "void*", "enum"), "1.2.1"),
    # userdata, text, its length, token buffer, its size -> tokens written
    Function("LLMTokenizerCallback", ("void*", "char*", "int32_t", "int32_t*", "int32_t"), "1.3.0"),
    # userdata, tokens, how many, embedding buffer, its size
    Function("LLMGetEmbedCallback", ("void*", "int32_t*", "uint64_t", "void*", "uint64_t"), "1.3.0"),
)

_RUN = ("void*", "RKLLMInput*", "RKLLMInferParam*", "void*")

FUNCTIONS: tuple[Function, ...] = (
    Function("rkllm_createDefaultParam", (), returns="RKLLMParam"),
    Function("rkllm_init", ("void**", "RKLLMParam*", "LLMResultCallback"), until="1.2.3"),
    Function("rkllm_init", ("void**", "RKLLMParam*", "RKLLMCallback*"), "1.3.0"),
    Function("rkllm_load_lora", ("void*", "RKLLMLoraAdapter*")),
    Function("rkllm_load_prompt_cache", ("void*", "char*")),
    Function("rkllm_release_prompt_cache", ("void*",)),
    Function("rkllm_destroy", ("void*",)),
    Function("rkllm_run", _RUN),
    Function("rkllm_run_async", _RUN),
    Function("rkllm_abort", ("void*",)),
    Function("rkllm_is_running", ("void*",)),
    # handle, keep_system_prompt, and from 1.2.1 the ranges to clear: start and end positions, NULL for everything
    Function("rkllm_clear_kv_cache", ("void*", "int"), "1.2.0", "1.2.1b1"),
    Function("rkllm_clear_kv_cache", ("void*", "int", "int*", "int*"), "1.2.1"),
    Function("rkllm_get_kv_cache_size", ("void*", "int*"), "1.2.1"),
    Function("rkllm_set_chat_template", ("void*", "char*", "char*", "char*"), "1.2.0"),
    Function("rkllm_set_function_tools", ("void*", "char*", "char*", "char*"), "1.2.1"),
    Function("rkllm_set_cross_attn_params", ("void*", "RKLLMCrossAttnParam*"), "1.2.1"),
)

_SIMPLE: Mapping[str, Any] = {
    "void": None,
    "void*": ctypes.c_void_p,
    "bool": ctypes.c_bool,
    "int": ctypes.c_int,
    "enum": ctypes.c_int,
    "int8_t": ctypes.c_int8,
    "uint8_t": ctypes.c_uint8,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "char*": ctypes.c_char_p,
}


class Signature(NamedTuple):
    """The ctypes types of a function: what it returns (None is void) and what it takes."""

    restype: Any
    argtypes: tuple[Any, ...]


@dataclass(frozen=True)
class Abi:
    """One release's structs (by names that do not change between releases), callback types and signatures.

    A struct that the release lacks is None. `RKLLMInput`'s union is anonymous: its members are the struct's own.
    """

    release: str
    structs: Mapping[str, type[Any]]
    callbacks: Mapping[str, type[Any]]
    signatures: Mapping[str, Signature]
    callback_returns_int: bool

    def __getattr__(self, name: str) -> Any:
        if name in STRUCTS:
            return self.structs.get(name)
        raise AttributeError(name)

    @property
    def frees_arrays(self) -> bool:
        """Whether the result callback may have an array's buffer released at once, by returning RELEASE (1.3.0)."""
        return self.RKLLMCallback is not None

    @property
    def running_is_one(self) -> bool:
        """How `rkllm_is_running` says yes: 1 (1.3.0), or 0 as the headers before it document."""
        return self.RKLLMCallback is not None

    @property
    def ResultCallback(self) -> Any:
        """The CFUNCTYPE of the result callback: (POINTER(RKLLMResult), userdata: int | None, state: int)."""
        return self.callbacks["LLMResultCallback"]

    def has(self, struct: str, field: str) -> bool:
        """Whether this release's `struct` exists and has a member called `field` (of its anonymous union too)."""
        return field in vars(self.structs.get(struct, object))


def _present(entries: tuple[Any, ...], release: str) -> list[Any]:
    at = RELEASES.index(release)
    return [e for e in entries if RELEASES.index(e.since) <= at <= RELEASES.index(e.until)]


def first_release(name: str, field: str | None = None) -> str | None:
    """The first release that has a function, a struct, or a struct's field; None when none has."""
    entries: list[Field | Function]
    if field is not None:
        entries = [f for f in STRUCTS.get(name, ()) if f.name == field]
    else:
        entries = [*STRUCTS.get(name, ()), *(f for f in (*FUNCTIONS, *CALLBACKS) if f.name == name)]
    return min((e.since for e in entries), key=RELEASES.index, default=None)


def _resolve(name: str, types: Mapping[str, Any]) -> Any:
    if name in types:
        return types[name]
    if name.endswith("*"):
        return ctypes.POINTER(_resolve(name[:-1], types))
    element, _, count = name.rstrip("]").partition("[")
    return types[element] * int(count)


def _build_struct(name: str, fields: list[Field], types: Mapping[str, Any]) -> type[Any]:
    base: type[Any] = ctypes.Union if name.endswith("Union") else ctypes.Structure
    body: dict[str, Any] = {"__doc__": f"{name} of rkllm.h."}
    if any(f.name == "union" for f in fields):
        body["_anonymous_"] = ("union",)
    body["_fields_"] = [(f.name, _resolve(f.type, types)) for f in fields]
    return type(name, (base,), body)


@cache
def abi(release: str) -> Abi:
    """The interface of one release; the same object each time. Raises UnknownReleaseError for any other release."""
    if release not in RELEASES:
        raise UnknownReleaseError(
            f"RKLLM runtime release {release!r} is not known here; known: {', '.join(RELEASES)}. "
            "If its rkllm.h equals that of a known release, give that release explicitly."
        )
    types: dict[str, Any] = dict(_SIMPLE)
    structs: dict[str, type[Any]] = {}
    callbacks: dict[str, type[Any]] = {}
    returns_int = False
    for name, all_fields in STRUCTS.items():
        if name == "RKLLMCallback":  # made of the callback types, which are made of the structs above
            for callback in _present(CALLBACKS, release):
                made = ctypes.CFUNCTYPE(types[callback.returns], *(_resolve(a, types) for a in callback.args))
                types[callback.name] = callbacks[callback.name] = made
                if callback.name == "LLMResultCallback":
                    returns_int = callback.returns == "int"
        fields = _present(all_fields, release)
        if fields:
            types[name] = structs[name] = _build_struct(name, fields, types)
    signatures = {
        f.name: Signature(_resolve(f.returns, types), tuple(_resolve(a, types) for a in f.args))
        for f in _present(FUNCTIONS, release)
    }
    return Abi(
        release=release,
        structs=MappingProxyType(structs),
        callbacks=MappingProxyType(callbacks),
        signatures=MappingProxyType(signatures),
        callback_returns_int=returns_int,
    )
