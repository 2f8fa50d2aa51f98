"""Small decoders in the Hugging Face ONNX layout, made with numpy and `onnx.helper`: real attention, real KV cache.

Two kinds of weights. Random ones, in which every token attends to every earlier one, so that a lost or doubled row of
the cache changes the logits. And a chain: whatever the context, token t is followed by `successors[t]`, so that a test
can say what the answer is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIALS = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<image_pad>")
BYTES = 256
VOCAB = BYTES + len(SPECIALS)
IM_START, IM_END, IMG, IMG_END, PAD = range(BYTES, VOCAB)


@dataclass(frozen=True)
class Spec:
    """What a tiny decoder looks like from outside; the defaults are those of the demo model's export."""

    width: int = 32
    layers: int = 2
    heads: int = 2
    positions: str | None = "2d"  # position_ids: (b, s), or "3d": (3, b, s), or None: counted inside
    attention_mask: bool = True
    use_cache_branch: bool = False
    num_logits_to_keep: bool = False
    takes_ids: bool = False
    hidden_output: bool = False
    fp16: bool = False
    limit: int = 256
    successors: dict[int, int] | None = None
    seed: int = 0
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


def bytes_to_chars() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself if it prints, else one above 255."""
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(b) if b in prints else chr(next(others)) for b in range(BYTES)]


def byte_tokenizer(specials: Sequence[str] = SPECIALS) -> Tokenizer:
    """One token per byte (its id is the byte), and `specials`, as many as SPECIALS, after them."""
    vocab = {char: i for i, char in enumerate(bytes_to_chars())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return tokenizer


class _Graph:
    """Collects nodes and constants; each op method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def size(self, tensor: str, axis: int) -> str:
        return self.op("Slice", self.op("Shape", tensor), self.const([axis]), self.const([axis + 1]))

    def scalar(self, vector: str) -> str:
        return self.op("Squeeze", vector, self.const([0]))


def weights(spec: Spec) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(spec.seed)
    width = spec.width

    def random(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    made = {"embed": random(VOCAB, width) * 4, "head": random(width, VOCAB) * 4}
    for axis in range(3):
        made[f"pos{axis}"] = random(spec.limit * 2, width) * 4
    for layer in range(spec.layers):
        for name in "qkvo":
            made[f"{name}{layer}"] = random(width, width)
    if spec.successors is not None:
        assert width >= VOCAB, "a chain wants one dimension per token"
        made["embed"] = np.eye(VOCAB, width, dtype=np.float32)
        made["head"] = np.zeros((width, VOCAB), np.float32)
        for token in range(VOCAB):
            made["head"][token, spec.successors.get(token, IM_END)] = 10
        for name, matrix in made.items():
            if name.startswith(("pos", "o")):
                matrix[...] = 0
    return made


def chain_spec(successors: dict[int, int], **changes: Any) -> Spec:
    """A decoder that says `successors[t]` after t, and <|im_end|> after a token that has none."""
    return replace(Spec(width=264, successors=successors), **changes)


def say(text: str | bytes, after: int, end: int = IM_END) -> dict[int, int]:
    """Successors that say `text` after the token `after`; no byte may come twice."""
    data = text.encode() if isinstance(text, str) else text
    assert len(set(data)) == len(data)
    return dict(zip([after, *data], [*data, end], strict=True))


def build(directory: Path, spec: Spec = Spec(), *, decoder: str = "decoder_model_merged.onnx") -> Path:
    """Write a model directory: config.json, tokenizer.json, embed_tokens.onnx and the decoder."""
    directory.mkdir(parents=True, exist_ok=True)
    made = weights(spec)
    (directory / decoder).parent.mkdir(exist_ok=True)
    _save(directory / decoder, _decoder(spec, made), fp16=spec.fp16)
    if not spec.takes_ids:
        name = decoder.replace("decoder_model_merged", "embed_tokens").replace("decoder_model", "embed_tokens")
        _save(directory / name, _embedder(spec, made), fp16=spec.fp16)
    config = {
        "model_type": "llama",
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.heads,
        "vocab_size": VOCAB,
        "max_position_embeddings": spec.limit,
        "eos_token_id": IM_END,
        **spec.config,
    }
    (directory / "config.json").write_text(json.dumps(config))
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def _save(path: Path, model: Any, *, fp16: bool) -> None:
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _model(graph: _Graph, inputs: list[Any], outputs: list[Any]) -> Any:
    made = helper.make_graph(graph.nodes, "tiny", inputs, outputs, graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _embedder(spec: Spec, made: dict[str, NDArray[np.float32]]) -> Any:
    g = _Graph()
    float_type = TensorProto.FLOAT16 if spec.fp16 else TensorProto.FLOAT
    rows = g.op("Gather", g.const(made["embed"], np.float32), "input_ids")
    g.op("Cast", rows, out="inputs_embeds", to=float_type)
    return _model(
        g,
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])],
        [helper.make_tensor_value_info("inputs_embeds", float_type, ["b", "s", spec.width])],
    )


def _decoder(spec: Spec, made: dict[str, NDArray[np.float32]]) -> Any:
    g = _Graph()
    real = TensorProto.FLOAT16 if spec.fp16 else TensorProto.FLOAT
    info = helper.make_tensor_value_info
    cache_shape = ["b", spec.heads, "past", spec.head_dim]
    inputs, outputs = _signature(spec, real)

    if spec.takes_ids:
        x = g.op("Gather", g.const(made["embed"], np.float32), "input_ids")
    else:
        x = g.op("Cast", "inputs_embeds", to=TensorProto.FLOAT)
    new = g.size(x, 1)
    past = g.size("past_key_values.0.key", 2)
    if spec.use_cache_branch:  # a merged export does not look at the cache in its first run
        past = g.op("Mul", past, g.op("Cast", "use_cache_branch", to=TensorProto.INT64))
    total = g.op("Add", past, new)
    rows = g.op("Range", g.scalar(past), g.scalar(total), g.const(1))
    columns = g.op("Range", g.const(0), g.scalar(total), g.const(1))
    seen = g.op("LessOrEqual", columns, g.op("Unsqueeze", rows, g.const([1])))
    if spec.attention_mask:
        wanted = g.op("Cast", "attention_mask", to=TensorProto.BOOL)
        seen = g.op("And", seen, g.op("Unsqueeze", wanted, g.const([1])))
    x = g.op("Add", x, _positions(g, spec, made, rows))

    mask = g.op("Where", seen, g.const(0, np.float32), g.const(-1e9, np.float32))
    for layer in range(spec.layers):
        x = _attention(g, spec, made, x, mask, past, layer)
        for kind in ("key", "value"):
            inputs.append(info(f"past_key_values.{layer}.{kind}", real, cache_shape))
            outputs.append(info(f"present.{layer}.{kind}", real, ["b", spec.heads, "total", spec.head_dim]))
    if spec.hidden_output:
        g.op("Cast", x, out="hidden_states", to=real)
        outputs.append(info("hidden_states", real, ["b", "s", spec.width]))
    if spec.num_logits_to_keep:  # 0 keeps all
        first = g.op("Neg", g.op("Unsqueeze", "num_logits_to_keep", g.const([0])))
        x = g.op("Slice", x, first, g.const([2**31]), g.const([1]))
    g.op("Cast", g.op("MatMul", x, g.const(made["head"], np.float32)), out="logits", to=real)
    return _model(g, inputs, outputs)


def _signature(spec: Spec, real: int) -> tuple[list[Any], list[Any]]:
    info, int64 = helper.make_tensor_value_info, TensorProto.INT64
    inputs = [
        info("input_ids", int64, ["b", "s"]) if spec.takes_ids else info("inputs_embeds", real, ["b", "s", spec.width])
    ]
    if spec.attention_mask:
        inputs.append(info("attention_mask", int64, ["b", "total"]))
    if spec.positions:
        inputs.append(info("position_ids", int64, ["b", "s"] if spec.positions == "2d" else [3, "b", "s"]))
    if spec.use_cache_branch:
        inputs.append(info("use_cache_branch", TensorProto.BOOL, [1]))
    if spec.num_logits_to_keep:
        inputs.append(info("num_logits_to_keep", int64, []))
    return inputs, [info("logits", real, ["b", "s_kept", VOCAB])]


def _positions(g: _Graph, spec: Spec, made: dict[str, NDArray[np.float32]], rows: str) -> str:
    tables = [g.const(made[f"pos{axis}"], np.float32) for axis in range(3 if spec.positions == "3d" else 1)]
    if spec.positions is None:
        return g.op("Gather", tables[0], rows)
    if spec.positions == "2d":
        return g.op("Gather", tables[0], "position_ids")
    parts = [g.op("Gather", t, g.op("Gather", "position_ids", g.const(a))) for a, t in enumerate(tables)]
    return g.op("Sum", *parts)


def _attention(
    g: _Graph, spec: Spec, made: dict[str, NDArray[np.float32]], x: str, mask: str, past: str, layer: int
) -> str:
    """x + softmax(q k / sqrt(d) + mask) v o, with the cache's keys and values in front."""
    split = g.const([0, 0, spec.heads, spec.head_dim])
    heads = {}
    for name in "qkv":
        flat = g.op("MatMul", x, g.const(made[f"{name}{layer}"], np.float32))
        heads[name] = g.op("Transpose", g.op("Reshape", flat, split), perm=[0, 2, 1, 3])
    real = TensorProto.FLOAT16 if spec.fp16 else TensorProto.FLOAT
    for name, kind in (("k", "key"), ("v", "value")):
        earlier = g.op("Cast", f"past_key_values.{layer}.{kind}", to=TensorProto.FLOAT)
        earlier = g.op("Slice", earlier, g.const([0]), past, g.const([2]))
        heads[name] = g.op("Concat", earlier, heads[name], axis=2)
        g.op("Cast", heads[name], out=f"present.{layer}.{kind}", to=real)
    scores = g.op("MatMul", heads["q"], g.op("Transpose", heads["k"], perm=[0, 1, 3, 2]))
    scores = g.op("Add", g.op("Mul", scores, g.const(spec.head_dim**-0.5, np.float32)), mask)
    mixed = g.op("Transpose", g.op("MatMul", g.op("Softmax", scores, axis=-1), heads["v"]), perm=[0, 2, 1, 3])
    flat = g.op("Reshape", mixed, g.const([0, 0, spec.width]))
    return g.op("Add", x, g.op("MatMul", flat, g.const(made[f"o{layer}"], np.float32)))
