"""The language model with its KV cache, its embedding table, tokenizer and configuration: what `vlm.host` runs.

The layout is that of Hugging Face ONNX exports; vlm/host/decoder.py describes the tensors.
"""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from checks import compare
from families import Family, Refused, let_go
from storage import store
from torch import Tensor, nn
from transformers import DynamicCache

OPSET = 17
COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
# Seen by the tracer once; any other lengths serve as well.
PAST, NOW = 5, 3


class Step(nn.Module):
    """Some tokens after those in the cache: their logits, the cache with them in it, and the last hidden layer."""

    def __init__(self, language: Any, head: Any, levels: int) -> None:
        super().__init__()
        self.language, self.head, self.levels = language, head, levels
        # Renamed in transformers 5; the older name goes away in time.
        named = inspect.signature(language.forward).parameters
        self.cache_name = "cache" if "cache" in named else "past_key_values"
        if levels:
            # A whole row is added, zero where there is no image: no positions have to be picked out.
            language._deepstack_process = lambda hidden, _, features: hidden + features

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        deepstack, past = rest[: self.levels], rest[self.levels :]
        cache = DynamicCache(list(zip(past[0::2], past[1::2], strict=True)))
        before, now = past[0].shape[2], inputs_embeds.shape[1]
        columns, rows = torch.arange(before + now), torch.arange(now) + before
        seen = (columns[None] <= rows[:, None])[None] & (attention_mask[:, None] > 0)
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None]
        more: dict[str, Any] = {self.cache_name: cache}
        if self.levels:
            more |= {"deepstack_visual_embeds": list(deepstack), "visual_pos_masks": None}
        more |= {"attention_mask": mask, "position_ids": position_ids, "use_cache": True, "return_dict": True}
        out = self.language(inputs_embeds=inputs_embeds, **more)
        grown = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return (self.head(out.last_hidden_state), *grown, out.last_hidden_state)


def export_words(
    family: Family, model: Any, source: Path, out: Path, weights: str, external_bytes: int
) -> dict[str, Any]:
    """Write decoder, embedding table and the files that go with them; compare the decoder with PyTorch.

    The comparison is made before the weights are stored smaller. Raises Refused.
    """
    language, head = getattr(model.model, family.language), model.lm_head
    if not (source / "tokenizer.json").is_file():
        raise Refused(f"{source} has no tokenizer.json; save the tokenizer there with transformers (save_pretrained).")
    let_go(model.model, (name for name, part in model.model.named_children() if part is not language))
    levels = len(model.config.vision_config.deepstack_visual_indexes) if family.deepstack else 0
    step = Step(language, head, levels).eval()
    names, grid = Names(language.config, levels), family.tower == "grid"
    with torch.no_grad(), TemporaryDirectory(dir=out) as folder:
        raw, table = (
            Path(folder) / "decoder" / "decoder_model_merged.onnx",
            Path(folder) / "table" / "embed_tokens.onnx",
        )
        raw.parent.mkdir()
        table.parent.mkdir()
        torch.onnx.export(
            step,
            tuple(_example(language.config, levels, grid, NOW, PAST).values()),
            str(raw),
            input_names=names.inputs,
            output_names=names.outputs,
            dynamic_axes=names.axes(grid),
            dynamo=False,
            opset_version=OPSET,
        )
        feed = _example(language.config, levels, grid, 7, 4)
        found = compare(raw, feed, dict(zip(names.outputs, step(*feed.values()), strict=True)))
        torch.onnx.export(
            model.get_input_embeddings(),
            (torch.zeros(1, NOW, dtype=torch.int64),),
            str(table),
            input_names=["input_ids"],
            output_names=["inputs_embeds"],
            dynamic_axes={"input_ids": {1: "tokens"}, "inputs_embeds": {1: "tokens"}},
            dynamo=False,
            opset_version=OPSET,
        )
        model.to("meta")  # its weights are in the files now, and are loaded from there to be stored
        files = [store(raw, out, weights, external_bytes)]
        files.append(store(table, out, "fp32" if weights == "fp32" else "fp16", external_bytes))
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
            files.append(name)
    return {"files": files, **found}


class Names:
    """The names of a decoder's inputs and outputs, in their order."""

    def __init__(self, config: Any, levels: int) -> None:
        parts = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
        self.deepstack = [f"deepstack_features_{level}" for level in range(levels)]
        self.past = [f"past_key_values.{part}" for part in parts]
        self.present = [f"present.{part}" for part in parts]
        self.inputs = ["inputs_embeds", "attention_mask", "position_ids", *self.deepstack, *self.past]
        self.outputs = ["logits", *self.present, "hidden_states"]

    def axes(self, grid: bool) -> dict[str, dict[int, str]]:
        """What may be of any length."""
        tokens = ["inputs_embeds", "logits", "hidden_states", *self.deepstack]
        named = {name: {1: "tokens"} for name in tokens} | {"attention_mask": {1: "total"}}
        named |= {"position_ids": {2 if grid else 1: "tokens"}}
        return named | {name: {2: "past"} for name in self.past} | {name: {2: "total"} for name in self.present}


def _example(config: Any, levels: int, grid: bool, now: int, past: int) -> dict[str, Tensor]:
    """Inputs of a decoder: `now` tokens after `past` ones."""
    generator = torch.Generator().manual_seed(now)
    heads = config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows = torch.randn(1 + levels, 1, now, config.hidden_size, generator=generator)
    cache = torch.randn(2 * config.num_hidden_layers, 1, heads, past, head_dim, generator=generator)
    positions = torch.arange(past, past + now)[None]
    names = Names(config, levels)
    plain = [rows[0], torch.ones(1, past + now, dtype=torch.int64), positions.expand(3, 1, now) if grid else positions]
    return dict(zip(names.inputs, [*plain, *rows[1:], *cache], strict=True))
