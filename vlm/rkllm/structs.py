"""Requests and settings into the structs of a release. Every pointer put into a struct is kept alive beside it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm.errors import EmbeddingError, NotSupportedByRuntime, OptionError
from vlm.options import Sampling
from vlm.rkllm.abi import Abi, InferMode, InputType, first_release
from vlm.rkllm.request import ImageTags, ModelSettings, Placement, Request, encode_text

SAMPLING_FIELDS = (
    "top_k",
    "top_p",
    "temperature",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)


@dataclass
class RunInput:
    """What `rkllm_run` is given. `keep` holds all that the structs point to: drop this only after the run returned."""

    input: Any
    infer: Any
    keep: list[object] = field(default_factory=list)


def same_sampling(one: Sampling, other: Sampling) -> bool:
    """Whether two samplings are the same to the runtime."""
    return all(getattr(one, name) == getattr(other, name) for name in SAMPLING_FIELDS)


def fill_param(
    param: Any, abi: Abi, *, path: bytes, tags: ImageTags, placement: Placement, run_async: bool = False
) -> list[object]:
    """Set the model, the image tags (before 1.3.0) and the placement in an RKLLMParam with the runtime's defaults.

    Returns what must live as long as the model. Raises NotSupportedByRuntime for a placement the release cannot take.
    """
    param.model_path = path
    param.is_async = run_async
    keep: list[object] = [path]
    if abi.has("RKLLMParam", "img_start"):
        for name, tag in (("img_start", tags.start), ("img_end", tags.end), ("img_content", tags.content)):
            data = encode_text(tag, "image tag")
            setattr(param, name, data)  # empty, never NULL: these releases read it whatever the input
            keep.append(data)
    extend = param.extend_param
    if placement.base_domain_id is not None:
        extend.base_domain_id = placement.base_domain_id
    if placement.cpu_mask is not None:
        _need(abi, "RKLLMExtendParam", "enabled_cpus_mask", "choosing CPUs")
        if not 0 < placement.cpu_mask < 1 << 32:
            raise OptionError(f"cpu_mask must have between 1 and 32 bits; got {placement.cpu_mask:#x}.")
        extend.enabled_cpus_mask = placement.cpu_mask
        extend.enabled_cpus_num = bin(placement.cpu_mask).count("1")
    if placement.embed_flash is not None:
        _need(abi, "RKLLMExtendParam", "embed_flash", "embed_flash")
        extend.embed_flash = int(placement.embed_flash)
    if placement.cross_attention is not None:
        _need(abi, "RKLLMExtendParam", "use_cross_attn", "cross attention")
        extend.use_cross_attn = int(placement.cross_attention)
    return keep


def fill_generation(
    param: Any, abi: Abi, sampling: Sampling, settings: ModelSettings, *, max_context_len: int | None, max_new: int
) -> None:
    """Set lengths and sampling in an RKLLMParam. Raises NotSupportedByRuntime for n_keep before 1.2.0."""
    for name in SAMPLING_FIELDS:
        setattr(param, name, getattr(sampling, name))
    if max_context_len is not None:
        param.max_context_len = max_context_len
    param.max_new_tokens = max_new
    param.skip_special_token = settings.skip_special_token
    if settings.n_keep is not None:
        _need(abi, "RKLLMParam", "n_keep", "n_keep")
        param.n_keep = settings.n_keep


def make_run_input(
    request: Request, abi: Abi, tags: ImageTags, sampling: Sampling, *, max_new: int, mode: InferMode
) -> RunInput:
    """Build the structs of one run. The request has passed `check_request`."""
    made = RunInput(abi.RKLLMInput(), abi.RKLLMInferParam())
    if abi.has("RKLLMInput", "role"):
        made.input.role = request.role.encode()
        made.input.enable_thinking = request.enable_thinking
    if request.tokens is not None:
        made.input.input_type = InputType.TOKEN
        made.input.token_input.input_ids = _pointer(request.tokens, ctypes.c_int32, made)
        made.input.token_input.n_tokens = len(request.tokens)
    elif request.embedding is not None:
        made.input.input_type = InputType.EMBED
        made.input.embed_input.embed = _pointer(request.embedding, ctypes.c_float, made)
        made.input.embed_input.n_tokens = len(request.embedding)
    else:
        prompt = encode_text(request.prompt or "")
        made.keep.append(prompt)
        if request.images is None:
            made.input.input_type = InputType.PROMPT
            made.input.prompt_input = prompt
        else:
            made.input.input_type = InputType.MULTIMODAL
            made.input.multimodal_input.prompt = prompt
            _fill_images(made, request, request.images, abi, tags)
    made.infer.mode = mode
    if abi.has("RKLLMInferParam", "keep_history"):
        made.infer.keep_history = int(request.keep_history)
    if request.lora is not None:
        lora = abi.RKLLMLoraParam(encode_text(request.lora, "name of the LoRA adapter"))
        made.infer.lora_params = ctypes.pointer(lora)
        made.keep.append(lora)
    if request.save_cache is not None:
        file = encode_text(str(request.save_cache), "path")
        cache = abi.RKLLMPromptCacheParam(save_prompt_cache=1, prompt_cache_path=file)
        made.infer.prompt_cache_params = ctypes.pointer(cache)
        made.keep += [file, cache]
    if abi.RKLLMSamplingParam is not None:
        own = abi.RKLLMSamplingParam(**{name: getattr(sampling, name) for name in SAMPLING_FIELDS})
        made.infer.sampling_params = ctypes.pointer(own)
        made.infer.max_new_tokens = max_new
        made.keep.append(own)
    return made


def make_lora(abi: Abi, file: bytes, name: bytes, scale: float) -> Any:
    """The struct that names an adapter's file; the caller keeps it and its bytes alive for the call."""
    return abi.RKLLMLoraAdapter(lora_adapter_path=file, lora_adapter_name=name, scale=scale)


@dataclass(frozen=True, eq=False)
class CrossAttention:
    """An encoder's output, for a model opened with `Placement.cross_attention` (1.2.1).

    keys: float32, C-contiguous, (layers, tokens, key-value heads, head width). values: the same, (layers, key-value
    heads, head width, tokens). mask: float32 (tokens,). positions: int32 (tokens,). Layouts: the vendor's header.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    mask: NDArray[np.float32]
    positions: NDArray[np.int32]


def make_cross_attention(abi: Abi, given: CrossAttention) -> Any:
    """The struct over the arrays where they lie; they must live as long as the runtime may use them.

    Raises EmbeddingError for arrays that are not as CrossAttention says, or do not fit one another.
    """
    for array, name, axes, dtype in (
        (given.keys, "keys", 4, np.float32),
        (given.values, "values", 4, np.float32),
        (given.mask, "mask", 1, np.float32),
        (given.positions, "positions", 1, np.int32),
    ):
        good = isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == axes and array.size
        if not good or not array.flags.c_contiguous:
            got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise EmbeddingError(
                f"{name} must be C-contiguous {np.dtype(dtype)} with {axes} axes, not empty; got {got}."
            )
    layers, tokens, heads, width = given.keys.shape
    for array, name, shape in (
        (given.values, "values", (layers, heads, width, tokens)),
        (given.mask, "mask", (tokens,)),
        (given.positions, "positions", (tokens,)),
    ):
        if array.shape != shape:
            raise EmbeddingError(f"{name} must be of shape {shape}, as keys {given.keys.shape} say; got {array.shape}.")
    floats = ctypes.POINTER(ctypes.c_float)
    return abi.RKLLMCrossAttnParam(
        encoder_k_cache=ctypes.cast(given.keys.ctypes.data, floats),
        encoder_v_cache=ctypes.cast(given.values.ctypes.data, floats),
        encoder_mask=ctypes.cast(given.mask.ctypes.data, floats),
        encoder_pos=ctypes.cast(given.positions.ctypes.data, ctypes.POINTER(ctypes.c_int32)),
        num_tokens=tokens,
    )


def _fill_images(made: RunInput, request: Request, images: NDArray[np.float32], abi: Abi, tags: ImageTags) -> None:
    multimodal = made.input.multimodal_input
    target = multimodal.image if abi.has("RKLLMMultiModalInput", "image") else multimodal
    target.image_embed = _pointer(images, ctypes.c_float, made)
    target.n_image_tokens = images.shape[1]
    if target is not multimodal:
        for name, tag in (("image_start", tags.start), ("image_end", tags.end), ("image_content", tags.content)):
            data = encode_text(tag, "image tag")
            setattr(target, name, data)
            made.keep.append(data)
    if abi.has("RKLLMMultiModalInput", "n_image") or target is not multimodal:
        height, width = request.image_size or (0, 0)
        target.n_image, target.image_height, target.image_width = images.shape[0], height, width


def _pointer(array: NDArray[Any], ctype: Any, made: RunInput) -> Any:
    """The array's own address: nothing is copied, so that the array itself is what must be kept."""
    made.keep.append(array)
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctype))


def _need(abi: Abi, struct: str, name: str, what: str) -> None:
    if not abi.has(struct, name):
        raise NotSupportedByRuntime(what, abi.release, first_release(struct, name))
