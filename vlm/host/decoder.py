"""A decoder and its embedder on ONNX Runtime, and one conversation's KV cache.

Contract with the .onnx files (the Hugging Face exports):
  embed_tokens   input_ids int64 (1, n)                        -> one output, embeddings (1, n, width)
  decoder        inputs_embeds (1, n, width), or input_ids int64 (1, n)
                 attention_mask int64 (1, past + n)            if it has that input
                 position_ids int64 (1, n), or (3, 1, n)       if it has that input
                 use_cache_branch bool (1,)                    if it has that input (older merged exports)
                 num_logits_to_keep int64 ()                   if it has that input
                 deepstack_features_N (1, n, width)            if it has those inputs (Qwen3-VL): what is added to the
                                                               output of layer N, zero but at an image's tokens
                 past_key_values.N.key and .value (1, heads, past, head_dim)
                 -> logits (1, n or fewer, vocabulary), present.N.key and .value, hidden_states (1, n, width) if given
Float tensors are float32 or float16.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vlm.errors import ModelLoadError, OptionError, RunError
from vlm.host.files import ModelConfig, ModelFiles

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_DEEPSTACK = re.compile(r"deepstack_features_(\d+)")
_HIDDEN = ("hidden_states", "last_hidden_state")
_PLAIN = ("attention_mask", "position_ids", "use_cache_branch", "num_logits_to_keep")

_SMALL = 64 << 20
"""Bytes of weights below which a decoder is run by one thread."""

_ROWS_KEPT = 4096
"""How many tokens' embeddings a decoder keeps: 32 MB at a width of 2048."""


@dataclass(frozen=True)
class Output:
    """What a prefill gives: float32 logits (tokens kept, vocabulary) and, if asked for, hidden states (n, width)."""

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32] | None


class Decoder:
    """The opened files of one model. Holds no conversation: that is a `Context`. Not for two threads at once.

    takes_ids: it embeds token ids itself and can take no embeddings; width is 0 then, else floats per embedding.
    grid_positions: it wants three positions per token. gives_hidden: its last hidden layer is an output.
    deepstack_names: its inputs for an encoder's further outputs, in their order. image_width: floats in one row of an
    image's embedding, [output][width].

    Raises ModelLoadError when a file cannot be opened, or is not a decoder of the shape above.
    """

    def __init__(self, files: ModelFiles, config: ModelConfig, *, threads: int | None = None) -> None:
        self.session = _open(files.decoder, threads or _threads_for(files.decoder))
        self.limit = config.limit
        inputs = {i.name: i for i in self.session.get_inputs()}
        outputs = [o.name for o in self.session.get_outputs()]
        past = sorted((int(m[1]), m[2]) for m in map(_PAST.fullmatch, inputs) if m)
        self.past_names = [f"past_key_values.{n}.{kind}" for n, kind in past]
        self.present_names = [f"present.{n}.{kind}" for n, kind in past]
        self.deepstack_names = sorted(filter(_DEEPSTACK.fullmatch, inputs), key=lambda name: int(name.split("_")[-1]))
        self.takes_ids = "inputs_embeds" not in inputs
        self.feed_name = "input_ids" if self.takes_ids else "inputs_embeds"
        self.hidden_name = next((name for name in _HIDDEN if name in outputs), None)
        self._check_names(files.decoder, set(inputs), set(outputs))
        self.feed_dtype = _dtype(inputs[self.feed_name])
        self.plain_dtypes = {name: _dtype(inputs[name]) for name in _PLAIN if name in inputs}
        self.grid_positions = "position_ids" in inputs and len(inputs["position_ids"].shape) == 3
        first = inputs[self.past_names[0]]
        self.cache_dtype = _dtype(first)
        self.cache_shape = self._cache_shape(files.decoder, first.shape, config)
        self.embedder: Any = None
        self._rows: dict[int, NDArray[Any]] = {}
        if not self.takes_ids:
            if files.embedder is None:
                raise ModelLoadError(
                    f"{files.decoder.name} takes embeddings, but there is no embed_tokens.onnx in {files.directory} or "
                    "onnx/ below it."
                )
            self.embedder = _open(files.embedder, 1)  # a table look-up: more threads only wake each other
            self.embedder_names = self.embedder.get_inputs()[0].name, self.embedder.get_outputs()[0].name
        self.width = 0 if self.takes_ids else _last_dimension(inputs["inputs_embeds"].shape, config.hidden)
        self.image_width = self.width * (1 + len(self.deepstack_names))

    @property
    def gives_hidden(self) -> bool:
        """Whether a prefill gives hidden states."""
        return self.hidden_name is not None

    @property
    def dtype_name(self) -> str:
        """The cache's type, in the vendor's words."""
        return "FP16" if self.cache_dtype == np.float16 else "FP32"

    def embed(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        """The embeddings of token ids, in the decoder's type. ids: int64 (n,). Returns (n, width).

        Raises OptionError for an id outside the vocabulary.
        """
        taken, given = self.embedder_names
        try:
            rows = self.embedder.run([given], {taken: ids[np.newaxis]})[0][0]
        except Exception as exc:
            raise OptionError(f"These token ids cannot be embedded (largest {int(ids.max())}): {exc}") from exc
        return cast("NDArray[Any]", rows.astype(self.feed_dtype, copy=False))

    def row(self, token: int) -> NDArray[Any]:
        """One token's embedding, (1, 1, width). A text has few different tokens, so that most are here already."""
        found = self._rows.get(token)
        if found is None:
            found = self.embed(np.array([token], np.int64))[np.newaxis]
            if len(self._rows) < _ROWS_KEPT:
                self._rows[token] = found
        return found

    def _check_names(self, path: Path, inputs: set[str], outputs: set[str]) -> None:
        known = {self.feed_name, *self.past_names, *self.deepstack_names, *_PLAIN}
        missing = ({self.feed_name} - inputs) | ({"logits", *self.present_names} - outputs)
        if not self.past_names:
            missing.add("past_key_values.0.key")
        if missing or inputs - known:
            wrong = [f"lacks {', '.join(sorted(missing))}"] if missing else []
            wrong += [f"wants {', '.join(sorted(inputs - known))}, not known here"] if inputs - known else []
            raise ModelLoadError(
                f"{path} is not a decoder with a KV cache as Hugging Face exports it: it {' and '.join(wrong)}."
            )

    @staticmethod
    def _cache_shape(path: Path, shape: list[Any], config: ModelConfig) -> tuple[int, int]:
        heads = shape[1] if isinstance(shape[1], int) else config.kv_heads
        head_dim = shape[3] if isinstance(shape[3], int) else config.head_dim
        if heads is None or head_dim is None:
            raise ModelLoadError(f"{path} leaves its cache's shape open, and config.json does not say it: {shape}.")
        return heads, head_dim


class Context:
    """One conversation: the KV cache of a decoder, which ONNX Runtime keeps and hands from step to step.

    length: positions in the cache. next_position: the position id of the token after them.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.length = 0
        self.next_position = 0
        heads, head_dim = decoder.cache_shape
        empty = np.empty((1, heads, 0, head_dim), decoder.cache_dtype)
        self._past = [onnxruntime.OrtValue.ortvalue_from_numpy(empty) for _ in decoder.past_names]
        self._binding = decoder.session.io_binding()
        self._bound: dict[str, NDArray[Any]] = {}  # what the binding points to; it keeps no reference of its own
        plain = decoder.plain_dtypes
        self._mask = np.ones((1, decoder.limit), plain["attention_mask"]) if "attention_mask" in plain else None
        positions = (3, 1, 1) if decoder.grid_positions else (1, 1)
        self._position = np.zeros(positions, plain["position_ids"]) if "position_ids" in plain else None
        self._token = np.zeros((1, 1), np.int64)
        self._no_image = np.zeros((1, 1, decoder.width), decoder.feed_dtype)

    def prefill(
        self,
        feed: NDArray[Any],
        *,
        deepstack: NDArray[Any] | None = None,
        positions: NDArray[np.int64] | None = None,
        next_position: int | None = None,
        all_logits: bool = False,
        hidden: bool = False,
    ) -> Output:
        """Append tokens to the cache. feed: embeddings (n, width), or ids (n,) for a decoder that takes those.

        deepstack: (levels, n, width), for a decoder with such inputs; None is zero, which is right without an image.
        positions: int64 (3, n), for a decoder with grid positions, and then next_position too. all_logits: give the
        logits of every token, not of the last alone. hidden: give the last hidden layer too, of a decoder that has it.
        Raises RunError when the decoder fails; the cache is then as it was.
        """
        d = self._decoder
        n = feed.shape[0]
        self._bind(d.feed_name, np.ascontiguousarray(feed[np.newaxis], d.feed_dtype))
        for level, name in enumerate(d.deepstack_names):
            shape = (1, n, d.width)
            self._bind(name, np.zeros(shape, d.feed_dtype) if deepstack is None else deepstack[level].reshape(shape))
        if self._position is not None:
            if d.grid_positions:
                ids = positions if positions is not None else self._consecutive(n, 3)
                self._bind("position_ids", np.ascontiguousarray(ids[:, np.newaxis], self._position.dtype))
            else:
                self._bind("position_ids", self._consecutive(n, 1).astype(self._position.dtype))
        if "num_logits_to_keep" in d.plain_dtypes:
            self._bind("num_logits_to_keep", np.array(0 if all_logits else 1, d.plain_dtypes["num_logits_to_keep"]))
        if "use_cache_branch" in d.plain_dtypes:
            self._bind("use_cache_branch", np.array([self.length > 0]))
        more = [d.hidden_name] if hidden and d.hidden_name else []
        outputs = self._run(n, more)
        self.next_position = self.next_position + n if next_position is None else next_position
        logits = outputs[0].numpy()[0]
        states = outputs[-1].numpy()[0].astype(np.float32, copy=False) if more else None
        self._ready_step()
        return Output((logits if all_logits else logits[-1:]).astype(np.float32, copy=False), states)

    def step(self, token: int) -> NDArray[np.float32]:
        """Append one token and give the logits after it, float32 (vocabulary,). Raises RunError."""
        d = self._decoder
        self._token[0, 0] = token
        self._bind(d.feed_name, self._token if d.takes_ids else d.row(token))
        if self._position is not None:
            self._position[...] = self.next_position
        logits = self._run(1, [])[0].numpy()[0, -1]
        self.next_position += 1
        return cast("NDArray[np.float32]", logits.astype(np.float32, copy=False))

    def drop(self, start: int, end: int) -> None:
        """Take positions start (inclusive) to end (exclusive) out of the cache.

        What comes after them keeps the position ids it was made with. Raises OptionError for a range outside.
        """
        if not 0 <= start < end <= self.length:
            raise OptionError(f"Range {start} to {end} is not within the {self.length} positions of the KV cache.")
        for i, tensor in enumerate(self.tensors()):
            kept = np.concatenate([tensor[:, :, :start], tensor[:, :, end:]], axis=2)
            self._past[i] = onnxruntime.OrtValue.ortvalue_from_numpy(kept)
        if end == self.length and not self._decoder.grid_positions:
            self.next_position -= end - start
        self.length -= end - start

    def tensors(self) -> list[NDArray[Any]]:
        """Copies of the cache's tensors, (1, heads, length, head_dim) each, in the order of the decoder's inputs."""
        return [value.numpy() for value in self._past]

    def restore(self, tensors: list[NDArray[Any]]) -> None:
        """Put what `tensors` gave into an empty context of the same model. Raises OptionError if it does not fit."""
        d = self._decoder
        length = tensors[0].shape[2] if tensors and tensors[0].ndim == 4 else 0
        expected = (1, d.cache_shape[0], length, d.cache_shape[1])
        if len(tensors) != len(self._past) or any(t.shape != expected or t.dtype != d.cache_dtype for t in tensors):
            raise OptionError("The saved cache was made by another model.")
        self._past = [onnxruntime.OrtValue.ortvalue_from_numpy(t) for t in tensors]
        self.length = self.next_position = length

    def _consecutive(self, n: int, rows: int) -> NDArray[np.int64]:
        ids = np.arange(self.next_position, self.next_position + n, dtype=np.int64)
        return np.broadcast_to(ids, (rows, n))

    def _bind(self, name: str, array: NDArray[Any]) -> None:
        self._bound[name] = array
        self._binding.bind_cpu_input(name, array)

    def _ready_step(self) -> None:
        """Bind what stays the same from step to step."""
        for name in self._decoder.deepstack_names:
            self._bind(name, self._no_image)
        if self._position is not None:
            self._bind("position_ids", self._position)
        for name, value in (("num_logits_to_keep", 1), ("use_cache_branch", [True])):
            if name in self._decoder.plain_dtypes:
                self._bind(name, np.array(value, self._decoder.plain_dtypes[name]))

    def _run(self, n: int, more: list[str]) -> list[Any]:
        """One run over n bound tokens: the logits and the outputs called `more`; the cache is replaced by the new."""
        d, binding = self._decoder, self._binding
        total = self.length + n
        if self._mask is not None:
            binding.bind_cpu_input("attention_mask", self._mask[:, :total])
        for name, value in zip(d.past_names, self._past, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.clear_binding_outputs()
        for name in ("logits", *d.present_names, *more):
            binding.bind_output(name)
        try:
            d.session.run_with_iobinding(binding)
        except Exception as exc:
            raise RunError(f"The decoder failed on {n} tokens after {self.length}: {exc}") from exc
        outputs = binding.get_outputs()
        self._past = outputs[1 : 1 + len(self._past)]
        self.length = total
        return [outputs[0], *outputs[1 + len(self._past) :]]


def _threads_for(path: Path) -> int | None:
    """One thread for a small decoder: sharing half a millisecond's work costs more than it gives. Else all cores."""
    size = path.stat().st_size + sum(part.stat().st_size for part in path.parent.glob(f"{path.name}_data*"))
    return 1 if size < _SMALL else None


def _open(path: Path, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: standard error belongs to the caller
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise ModelLoadError(f"ONNX Runtime cannot open {path} (nor its external data, if it has any): {exc}") from exc


def _dtype(node: Any) -> Any:
    try:
        return _DTYPES[node.type]
    except KeyError:
        raise ModelLoadError(
            f"{node.name} of the decoder has type {node.type}, expected float32, float16 or int64."
        ) from None


def _last_dimension(shape: list[Any], otherwise: int | None) -> int:
    width = shape[-1] if isinstance(shape[-1], int) else otherwise
    if width is None:
        raise ModelLoadError("The decoder leaves the width of its embeddings open, and config.json lacks hidden_size.")
    return width
