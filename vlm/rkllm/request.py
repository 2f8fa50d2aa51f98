"""What is asked of a model, and how a model is opened: plain data, checked before any of it reaches C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlm.errors import ContextTooLongError, EmbeddingError, NotSupportedByRuntime, OptionError, PromptError
from vlm.options import Sampling
from vlm.rkllm.abi import Abi, first_release

IMAGE_TAG = "<image>"
"""What stands for one image in a prompt, whatever the model family (the vendor's convention)."""


CACHE_AND_IMAGES = (
    "A prompt cache does not go with images: it is found again by its tokens, and two pictures have the same ones, so "
    "that an answer could be about another picture. Release the cache, or leave the images out."
)


class SamplingFixedWarning(UserWarning):
    """Sampling was asked for a single run, and this release fixes it when the model is opened."""


@dataclass(frozen=True)
class ImageTags:
    """The tokens that the runtime puts around and in place of an image; empty where the family has none."""

    start: str = ""
    end: str = ""
    content: str = ""


@dataclass(frozen=True)
class Placement:
    """Where the model runs; None leaves the runtime's own default.

    base_domain_id: the NPU's IOMMU domain (4 GB each; 1 on RK3588 and RK3576 leaves 0 to the encoder). cpu_mask: the
    CPUs that help, bit by bit (0xF0 is 4 to 7), from 1.2.0. embed_flash: read the token embeddings from storage instead
    of keeping them in memory, from 1.2.0. cross_attention: the model attends to an encoder's output, which
    `set_cross_attention` gives, from 1.2.1.

    The header's n_batch is not among them: it stays 1. It makes several inputs run at once, where a model here has one
    question at a time, and 8 or 16 of it crash release 1.2.3.
    """

    base_domain_id: int | None = None
    cpu_mask: int | None = None
    embed_flash: bool | None = None
    cross_attention: bool | None = None


@dataclass(frozen=True)
class ModelSettings:
    """How a model object behaves.

    sampling_per_run: what to do when a run asks for other sampling than the model was opened with and the release
    cannot (before 1.3.0): "warn" (SamplingFixedWarning, and go on) or "refuse" (NotSupportedByRuntime).
    stop_timeout_s: how long to wait for a run to return after it was asked to stop; an abort takes effect between
    tokens only, never in the prefill, so this must exceed the longest prefill. n_keep: tokens at the start of the
    context that stay when it overflows, from 1.2.0. image_shape: (tokens, width x outputs) that every image must have.
    skip_special_token: leave the model's control tokens out of the text. run_async: have the runtime run in a thread of
    its own (`rkllm_run_async`) in place of ours; nothing else changes. prompt_cache_dir: where prompt caches lie that
    are called by a name. tokenizer, embedder: in place of the model's own, from 1.3.0; text to ids, and ids int32 (n,)
    to embeddings (n, width). They are called from the runtime's threads, also while the model is being opened.
    """

    sampling_per_run: Literal["warn", "refuse"] = "warn"
    stop_timeout_s: float = 60.0
    n_keep: int | None = None
    image_shape: tuple[int, int] | None = None
    skip_special_token: bool = True
    run_async: bool = False
    prompt_cache_dir: Path | None = None
    tokenizer: Callable[[str], Sequence[int]] | None = None
    embedder: Callable[[NDArray[np.int32]], NDArray[np.floating]] | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """One run. Exactly one of `prompt`, `tokens` and `embedding` is given.

    prompt: text, with one `<image>` for each image. tokens: int32, shape (n,). embedding: float32, C-contiguous, shape
    (tokens, width), in place of text. images: float32, C-contiguous, shape (images, tokens, width x outputs); handed to
    the runtime where it lies, and kept alive until the run has returned. image_size: (height, width) in pixels of the
    encoder's input. sampling, max_new_tokens: None for what the model was opened with. stop: strings that end the
    answer and are not part of it. keep_history: go on from the runs before (1.2.0; text only). enable_thinking: the
    runtime's own switch (1.2.1). seed: of the sampling, where the runtime has one. lora: the name of a loaded adapter.
    role: whose turn the runtime's own template makes of it; "tool" is the answer of a function (1.2.1). save_cache: the
    file that what the model made of this prompt is saved in, for `load_prompt_cache`.
    """

    prompt: str | None = None
    tokens: NDArray[np.int32] | None = None
    embedding: NDArray[np.float32] | None = None
    images: NDArray[np.float32] | None = None
    image_size: tuple[int, int] | None = None
    sampling: Sampling | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = field(default=())
    keep_history: bool = False
    enable_thinking: bool = False
    seed: int | None = None
    lora: str | None = None
    role: Literal["user", "tool"] = "user"
    save_cache: Path | None = None


def encode_text(text: str, what: str = "prompt") -> bytes:
    """UTF-8 for C. Raises PromptError for a NUL, which would end the text there, and for lone surrogates."""
    if "\0" in text:
        raise PromptError(f"The {what} holds a NUL character at position {text.index(chr(0))}; remove it.")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise PromptError(f"The {what} is not valid Unicode text at position {exc.start}: {exc.reason}.") from exc


def check_request(request: Request, abi: Abi, settings: ModelSettings) -> None:
    """Raise unless this release can take the request as it is.

    PromptError (no or several inputs, tags and images that do not match), EmbeddingError (an array that is not as
    described in Request, or not of `settings.image_shape`), OptionError, NotSupportedByRuntime.
    """
    given = [n for n in ("prompt", "tokens", "embedding") if getattr(request, n) is not None]
    if len(given) != 1:
        raise PromptError(f"A run takes one of prompt, tokens and embedding; got {' and '.join(given) or 'none'}.")
    if request.tokens is not None:
        _check_array(request.tokens, np.int32, ("tokens",), "tokens")
    if request.embedding is not None:
        _check_array(request.embedding, np.float32, ("tokens", "width"), "embedding")
    if request.images is not None:
        _check_images(request, request.images, abi, settings.image_shape)
    if request.max_new_tokens is not None and request.max_new_tokens < 1:
        raise OptionError(f"max_new_tokens must be at least 1; got {request.max_new_tokens}.")
    if not all(request.stop):
        raise OptionError("A stop string must not be empty.")
    for asked, struct, field_name in (
        (request.keep_history, "RKLLMInferParam", "keep_history"),
        (request.enable_thinking, "RKLLMInput", "enable_thinking"),
        (request.role != "user", "RKLLMInput", "role"),
    ):
        if asked and not abi.has(struct, field_name):
            raise NotSupportedByRuntime(field_name, abi.release, first_release(struct, field_name))
    if request.save_cache is not None:
        _check_saved(request)


def _check_saved(request: Request) -> None:
    """A prompt cache is found again by its tokens, which must say all that it was made of."""
    if request.images is not None:
        raise OptionError(CACHE_AND_IMAGES)
    if request.embedding is not None:
        raise OptionError(
            "A prompt cache is found again by its tokens, and an embedding has none; save text or tokens."
        )
    if request.lora is not None:
        raise OptionError("A prompt cache is made without a LoRA adapter: it does not say which one made it.")


def check_context(request: Request, max_new_tokens: int, max_context_len: int | None) -> None:
    """Raise ContextTooLongError when what can be counted here (all but text) leaves no room for the answer."""
    parts = [a.shape[0] for a in (request.tokens, request.embedding) if a is not None]
    if request.images is not None:
        parts.append(request.images.shape[0] * request.images.shape[1])
    used = sum(parts)
    if max_context_len is not None and used + max_new_tokens >= max_context_len:
        given = f"{used} tokens of input and " if used else "Text and "  # whose tokens the runtime alone can count
        raise ContextTooLongError(
            f"{given}{max_new_tokens} new tokens do not fit a context of {max_context_len}. "
            "Ask for fewer new tokens or images, or open the model with a longer context."
        )


def _check_images(request: Request, images: NDArray[np.float32], abi: Abi, shape: tuple[int, int] | None) -> None:
    if request.prompt is None:
        raise PromptError("Images go with a prompt that holds an <image> for each; got no prompt.")
    _check_array(images, np.float32, ("images", "tokens", "width x outputs"), "images")
    count = images.shape[0]
    tags = request.prompt.count(IMAGE_TAG)
    if tags != count:
        raise PromptError(f"The prompt holds {tags} {IMAGE_TAG} and there are {count} images; they must match.")
    if shape is not None and images.shape[1:] != shape:
        raise EmbeddingError(
            f"The model takes {shape[0]} tokens x {shape[1]} for an image; the embedding has {images.shape[1]} x "
            f"{images.shape[2]}. The encoder or the profile belongs to another model."
        )
    several = abi.has("RKLLMMultiModalInput", "n_image") or abi.has("RKLLMImageInput", "n_image")
    if count > 1 and not several:
        first = first_release("RKLLMMultiModalInput", "n_image")
        raise NotSupportedByRuntime("more than one image in a prompt", abi.release, first)
    if several and (request.image_size is None or min(request.image_size) < 1):
        raise OptionError(f"image_size must be the encoder's (height, width) in pixels; got {request.image_size}.")
    if request.keep_history:
        raise OptionError(
            "keep_history does not go with images: known releases then answer about the first image. "
            "Send the whole conversation in each prompt instead."
        )


def _check_array(array: object, dtype: type[np.generic], axes: tuple[str, ...], what: str) -> None:
    wanted = f"C-contiguous {np.dtype(dtype)} of shape ({', '.join(axes)})"
    if not isinstance(array, np.ndarray):
        raise EmbeddingError(f"{what} must be an array, {wanted}; got {type(array).__name__}.")
    if array.dtype != dtype or array.ndim != len(axes) or not array.flags.c_contiguous or array.size == 0:
        layout = "" if array.flags.c_contiguous else ", not C-contiguous"
        raise EmbeddingError(f"{what} must be {wanted}, not empty; got {array.dtype} of shape {array.shape}{layout}.")
