"""Write a trained checkpoint as the files that ship: `python samples/demo/export.py WORK samples/demo/model`.

The layout is that of Hugging Face ONNX exports: config.json, tokenizer.json, vision_encoder.onnx, embed_tokens.onnx and
decoder_model_merged.onnx. Weights are stored as fp16 and cast back when a session opens, so that arithmetic is fp32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from lessons import IM_END, SIDE, make_tokenizer
from net import TOKENS, Config, Demo, Words
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

SMALL = 256  # elements; biases and scales stay fp32


class Step(nn.Module):
    """The decoder with a cache, in the inputs and outputs of a Hugging Face export."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        self.words = words

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, *cache: Tensor
    ) -> tuple[Tensor, ...]:
        past = list(zip(cache[0::2], cache[1::2], strict=True))
        before, now = past[0][0].shape[2], inputs_embeds.shape[1]
        columns = torch.arange(before + now)
        rows = torch.arange(now) + before
        seen = (columns[None] <= rows[:, None])[None] & (attention_mask[:, None] > 0)
        mask = torch.where(seen, 0.0, -1e9)[:, None]
        hidden, grown = self.words(inputs_embeds, position_ids, mask, past)
        return (self.words.logits(hidden), *(tensor for pair in grown for tensor in pair), hidden)


def halve(path: Path) -> None:
    """Store the weights of an ONNX file as fp16, each followed by a cast to fp32."""
    model = onnx.load(path)
    graph = model.graph
    kept, casts = [], []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            kept.append(tensor)
            continue
        small = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name + ".fp16")
        kept.append(small)
        casts.append(helper.make_node("Cast", [small.name], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def export_all(model: Demo, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config, tokenizer = model.config, make_tokenizer()
    model.eval()
    options: dict[str, object] = {"dynamo": False, "opset_version": 17}
    picture = torch.zeros(1, 3, SIDE, SIDE)
    names = {"input_names": ["pixel_values"], "output_names": ["image_features"]}
    torch.onnx.export(model.eyes, (picture,), folder / "vision_encoder.onnx", **names, **options)
    torch.onnx.export(
        model.words.embed, (torch.zeros(1, 3, dtype=torch.int64),), folder / "embed_tokens.onnx",
        input_names=["input_ids"], output_names=["inputs_embeds"],
        dynamic_axes={"input_ids": {0: "batch", 1: "tokens"}, "inputs_embeds": {0: "batch", 1: "tokens"}}, **options,
    )  # fmt: skip
    export_decoder(model.words, folder / "decoder_model_merged.onnx", options)
    for name in ("vision_encoder", "embed_tokens", "decoder_model_merged"):
        halve(folder / f"{name}.onnx")
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id(IM_END)
    about = {
        "model_type": "llama", "hidden_size": config.width, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.heads, "head_dim": config.head_width,
        "intermediate_size": config.inner, "vocab_size": config.vocab, "rope_theta": config.theta,
        "max_position_embeddings": config.context, "bos_token_id": None,
        "eos_token_id": end, "tie_word_embeddings": True, "image_seq_length": TOKENS,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")


def export_decoder(words: Words, path: Path, options: dict[str, object]) -> None:
    config = words.config
    cache = [torch.zeros(1, config.heads, 5, config.head_width) for _ in range(2 * config.layers)]
    past = [f"past_key_values.{n}.{part}" for n in range(config.layers) for part in ("key", "value")]
    present = [name.replace("past_key_values", "present") for name in past]
    axes = {"inputs_embeds": {0: "batch", 1: "tokens"}, "attention_mask": {0: "batch", 1: "total"}}
    axes |= {"position_ids": {0: "batch", 1: "tokens"}, "logits": {0: "batch", 1: "tokens"}}
    axes |= {"hidden_states": {0: "batch", 1: "tokens"}}
    axes |= {name: {0: "batch", 2: "past"} for name in past} | {name: {0: "batch", 2: "total"} for name in present}
    inputs = (torch.zeros(1, 3, config.width), torch.ones(1, 8, dtype=torch.int64), torch.arange(5, 8)[None], *cache)
    names = ["inputs_embeds", "attention_mask", "position_ids", *past]
    outputs = ["logits", *present, "hidden_states"]
    torch.onnx.export(Step(words), inputs, path, input_names=names, output_names=outputs, dynamic_axes=axes, **options)


def main() -> None:
    work, folder = Path(sys.argv[1]), Path(sys.argv[2])
    saved = torch.load(work / "checkpoint.pt", weights_only=True)
    model = Demo(Config(vocab=make_tokenizer().get_vocab_size()))
    model.load_state_dict(saved["average"])
    export_all(model, folder)
    print(
        f"step {saved['step']}:", *(f"{f.name} {f.stat().st_size / 1e6:.2f} MB" for f in sorted(folder.glob("*.onnx")))
    )


if __name__ == "__main__":
    main()
