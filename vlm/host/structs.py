"""Reads the RKLLM structs, whatever the release, into plain Python; checks what can be checked without the model.

A field that a release lacks takes the value that the release implies: one image, sampling as set at init, no history.
Nothing read here keeps a pointer, but for the arrays in `Task.rows` and `Images.rows`: views of the caller's memory,
which must be used up before the call that brought them returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm.errors import OptionError, PromptError
from vlm.host.sampling import SamplingParams
from vlm.host.template import Turn
from vlm.rkllm.abi import Abi, InferMode, InputType

IMAGE_TAG = "<image>"
"""What stands for one image in a prompt."""

_SAMPLING = tuple(SamplingParams.__dataclass_fields__)


@dataclass(frozen=True)
class InitParams:
    """RKLLMParam as the host uses it. tags: image start, end and content, on releases that fix them at init."""

    model_path: Path
    max_context_len: int
    max_new_tokens: int
    sampling: SamplingParams
    skip_special: bool
    ignore_eos: bool
    tags: tuple[str, str, str] | None


@dataclass(frozen=True)
class Images:
    """The pictures of a multimodal input. rows: float32 (count x tokens, width x outputs). height, width_px: 0 if not
    said."""

    rows: NDArray[np.float32]
    count: int
    tokens: int
    height: int
    width_px: int
    tags: tuple[str, str, str]


@dataclass(frozen=True)
class Task:
    """What one run is asked to do. Exactly one of turn, ids and rows is set; images go with a turn."""

    mode: InferMode
    sampling: SamplingParams
    max_new_tokens: int
    keep_history: bool
    turn: Turn | None = None
    ids: list[int] | None = None
    rows: NDArray[np.float32] | None = None
    images: Images | None = None
    save_cache: Path | None = None


def default_param(abi: Abi) -> Any:
    """RKLLMParam with the vendor's defaults (facts: its createDefaultParam).

    What the facts do not give is the host's own: max_context_len 0 is the model's longest, max_new_tokens -1 is as many
    as fit, special tokens are skipped.
    """
    param = abi.RKLLMParam()
    values: dict[str, Any] = {
        "max_context_len": 0,
        "max_new_tokens": -1,
        "top_k": 40,
        "top_p": 0.9,
        "temperature": 0.8,
        "repeat_penalty": 1.1,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
        "n_keep": -1,
        "skip_special_token": True,
        "img_start": b"",
        "img_end": b"",
        "img_content": b"",
    }
    for name, value in values.items():
        if abi.has("RKLLMParam", name):
            setattr(param, name, value)
    for name, value in {"enabled_cpus_num": 4, "enabled_cpus_mask": 0xF0, "n_batch": 1}.items():
        if abi.has("RKLLMExtendParam", name):
            setattr(param.extend_param, name, value)
    return param


def read_param(abi: Abi, pointer: Any) -> InitParams:
    """Read RKLLMParam. Raises OptionError for NULL strings, sampling out of range, and what only the board can do."""
    if not pointer:
        raise OptionError("rkllm_init was given no RKLLMParam (NULL).")
    p = pointer.contents
    if not p.model_path:
        raise OptionError("RKLLMParam.model_path is NULL or empty; give the model's directory.")
    tags = None
    if abi.has("RKLLMParam", "img_start"):
        tags = _read_tags(p, ("img_start", "img_end", "img_content"), "RKLLMParam")
    extend = p.extend_param
    if getattr(extend, "n_batch", 1) > 1:
        raise OptionError(f"n_batch is {extend.n_batch}; the host runs one input at a time, leave it at 1.")
    if getattr(extend, "use_cross_attn", 0):
        raise OptionError("Cross attention (use_cross_attn) is not supported on the host.")
    sampling = _read_sampling(p)
    return InitParams(
        model_path=Path(_decode(p.model_path, "RKLLMParam.model_path")),
        max_context_len=p.max_context_len,
        max_new_tokens=p.max_new_tokens,
        sampling=sampling,
        skip_special=p.skip_special_token,
        ignore_eos=getattr(p, "ignore_eos_token", False),
        tags=tags,
    )


def read_task(
    abi: Abi, params: InitParams, widths: tuple[int, int] | None, input_pointer: Any, infer_pointer: Any
) -> Task:
    """Read RKLLMInput and RKLLMInferParam.

    widths: floats per embedding row, and per row of an image; None for a model that takes ids only.

    Raises OptionError or PromptError for NULL pointers, wrong counts, and what the host does not do.
    """
    if not input_pointer or not infer_pointer:
        raise OptionError("A run needs an RKLLMInput and an RKLLMInferParam; one of them is NULL.")
    given, infer = input_pointer.contents, infer_pointer.contents
    mode = _enum(InferMode, infer.mode, "RKLLMInferParam.mode")
    if infer.lora_params:
        raise OptionError("LoRA adapters are not supported on the host; leave lora_params NULL.")
    sampling, max_new_tokens = params.sampling, params.max_new_tokens
    if abi.has("RKLLMInferParam", "sampling_params") and infer.sampling_params:
        sampling = _read_sampling(infer.sampling_params.contents)
    if getattr(infer, "max_new_tokens", 0) > 0:
        max_new_tokens = infer.max_new_tokens
    rest: dict[str, Any] = {}
    kind = _enum(InputType, given.input_type, "RKLLMInput.input_type")
    if kind is InputType.PROMPT:
        rest["turn"] = _turn(given, given.prompt_input, "prompt_input")
    elif kind is InputType.TOKEN:
        tokens = given.token_input
        rest["ids"] = _array(tokens.input_ids, (_count(tokens.n_tokens, "token_input.n_tokens"),), "input_ids").tolist()
    elif kind is InputType.EMBED:
        embed = given.embed_input
        rest["rows"] = _array(embed.embed, (_count(embed.n_tokens, "embed_input.n_tokens"), _need(widths)[0]), "embed")
    else:
        multimodal = given.multimodal_input
        rest["turn"] = _turn(given, multimodal.prompt, "multimodal_input.prompt")
        rest["images"] = _read_images(multimodal, params, _need(widths)[1], rest["turn"].prompt)
    return Task(
        mode=mode,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        keep_history=bool(getattr(infer, "keep_history", 0)),
        save_cache=_cache_path(infer, images="images" in rest),
        **rest,
    )


def _read_images(multimodal: Any, params: InitParams, width: int, prompt: str) -> Images:
    nested = hasattr(multimodal, "image")  # 1.3.0
    source = multimodal.image if nested else multimodal
    if nested and multimodal.video.video_embed:
        raise OptionError("Video input is not supported on the host; leave video.video_embed NULL.")
    count = _count(getattr(source, "n_image", 1), "n_image")
    tokens = _count(source.n_image_tokens, "n_image_tokens")
    tagged = prompt.count(IMAGE_TAG)
    if tagged == 0:
        raise PromptError(f"The prompt of a multimodal input has no {IMAGE_TAG}; write one for each image.")
    if tagged != count:
        raise PromptError(f"The prompt has {tagged} {IMAGE_TAG}, but the input has {count} image(s).")
    tags = params.tags or _read_tags(source, ("image_start", "image_end", "image_content"), "multimodal_input.image")
    return Images(
        rows=_array(source.image_embed, (count * tokens, width), "image_embed"),
        count=count,
        tokens=tokens,
        height=getattr(source, "image_height", 0),
        width_px=getattr(source, "image_width", 0),
        tags=tags,
    )


def _read_tags(struct: Any, names: tuple[str, str, str], where: str) -> tuple[str, str, str]:
    # The vendor's runtime crashes on NULL here; saying so on the PC saves the board from it.
    missing = [name for name in names if getattr(struct, name) is None]
    if missing:
        raise OptionError(f"{where}.{missing[0]} is NULL; pass an empty string where the model has no such tag.")
    start, end, content = (_decode(getattr(struct, name), f"{where}.{name}") for name in names)
    return start, end, content


def _read_sampling(struct: Any) -> SamplingParams:
    sampling = SamplingParams(**{name: getattr(struct, name) for name in _SAMPLING})
    sampling.check()
    return sampling


def _turn(given: Any, prompt: bytes | None, name: str) -> Turn:
    if prompt is None:
        raise OptionError(f"RKLLMInput.{name} is NULL.")
    role = getattr(given, "role", None) or b"user"
    return Turn(
        _decode(prompt, f"RKLLMInput.{name}"),
        role=_decode(role, "RKLLMInput.role"),
        thinking=bool(getattr(given, "enable_thinking", False)),
    )


def _cache_path(infer: Any, *, images: bool) -> Path | None:
    if not infer.prompt_cache_params:
        return None
    cache = infer.prompt_cache_params.contents
    if not cache.save_prompt_cache:
        return None
    if not cache.prompt_cache_path:
        raise OptionError("RKLLMPromptCacheParam.prompt_cache_path is NULL or empty; give the file to save to.")
    if images:
        raise OptionError("A prompt cache knows tokens, not pictures: a run with images cannot be saved as one.")
    return Path(_decode(cache.prompt_cache_path, "RKLLMPromptCacheParam.prompt_cache_path"))


def _decode(value: bytes, where: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise PromptError(f"{where} is not UTF-8: {exc.reason} at byte {exc.start}.") from exc


def _array(pointer: Any, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    if not pointer:
        raise OptionError(f"{name} is NULL, expected an array of shape {shape}.")
    return np.ctypeslib.as_array(pointer, shape=shape)


def _count(value: int, name: str) -> int:
    if not 0 < value < 2**31:
        raise OptionError(f"{name} is {value}, expected at least 1.")
    return value


def _need(widths: tuple[int, int] | None) -> tuple[int, int]:
    if widths is None:
        raise OptionError("This model takes token ids itself; it can be given neither embeddings nor images.")
    return widths


def _enum(kind: Any, value: int, name: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"{m.value} ({m.name})" for m in kind)
        raise OptionError(f"{name} is {value}, expected one of {known}.") from None
