"""Vision towers with their projectors: normalised pixels (1, 3, height, width) to embeddings (1, tokens, width).

The size is fixed, as a .rknn wants it, so that whatever depends on it only (the grid, position embeddings, rotary
angles, windows) becomes a constant of the ONNX file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from checks import compare, fold
from families import Family, Refused, let_go
from torch import Tensor, nn

OPSET = 17


class GridTower(nn.Module):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL: patches in the order of the merged grid, and the grid beside them.

    Several outputs where the family has deepstack: the embedding, then one for each level.
    """

    def __init__(self, model: Any, height: int, width: int) -> None:
        super().__init__()
        self.visual = model.model.visual
        vision = model.config.vision_config
        self.patch, self.merge, self.times = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        self.rows, self.columns = (_whole(side, self.patch * self.merge) * self.merge for side in (height, width))
        self.register_buffer("grid", torch.tensor([[1, self.rows, self.columns]]), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        patch, merge = self.patch, self.merge
        cells = pixels.reshape(3, self.rows // merge, merge, patch, self.columns // merge, merge, patch)
        # To (row, column, row in cell, column in cell, channel, time, y, x): a picture is a film of equal frames.
        cells = cells.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5).expand(-1, -1, -1, -1, -1, self.times, -1, -1)
        patches = cells.reshape(self.rows * self.columns, 3 * self.times * patch * patch)
        out = self.visual(patches, grid_thw=self.grid, return_dict=True)
        return tuple(rows[None] for rows in (out.pooler_output, *(getattr(out, "deepstack_features", None) or ())))


class PatchTower(nn.Module):
    """Idefics3 and SmolVLM, one tile: position embeddings are those of the whole picture at this size."""

    def __init__(self, model: Any, height: int, width: int) -> None:
        super().__init__()
        self.vision, self.connector = model.model.vision_model, model.model.connector
        embeddings = self.vision.embeddings
        rows, columns = (_whole(side, embeddings.patch_size) for side in (height, width))
        blank = torch.zeros(1, 3, height, width)
        with torch.no_grad():
            placed = embeddings(blank, torch.ones(1, rows, columns, dtype=torch.bool))
            self.register_buffer("positions", placed - self._patches(blank), persistent=False)

    def _patches(self, pixels: Tensor) -> Tensor:
        patches: Tensor = self.vision.embeddings.patch_embedding(pixels)
        return patches.flatten(2).transpose(1, 2)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        hidden = self._patches(pixels) + self.positions
        hidden = self.vision.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        return (self.connector(self.vision.post_layernorm(hidden)),)


class FeatureTower(nn.Module):
    """InternVL and Janus, one tile: what the model itself calls its image features."""

    def __init__(self, model: Any, height: int, width: int) -> None:
        super().__init__()
        self.model = model.model
        vision = model.config.vision_config
        sides = vision.image_size if isinstance(vision.image_size, (list, tuple)) else [vision.image_size] * 2
        if list(sides) != [height, width]:
            raise Refused(
                f"This model takes pictures of {sides[0]} x {sides[1]} px only; the profile says {height} x {width}."
            )
        keys = ("vision_feature_layer", "vision_feature_select_strategy")
        self.more = {key: getattr(model.config, key) for key in keys if hasattr(model.config, key)}

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.model.get_image_features(pixel_values=pixels, return_dict=True, **self.more).pooler_output,)


TOWERS = {"grid": GridTower, "patches": PatchTower, "features": FeatureTower}


def export_tower(family: Family, model: Any, out: Path, size: list[int], external_bytes: int) -> dict[str, Any]:
    """Write vision_encoder.onnx, and compare it with PyTorch on random pixels. Raises Refused for a wrong size."""
    height, width = size
    let_go(model, ["lm_head"])
    let_go(model.model, [family.language])
    tower = TOWERS[family.tower](model, height, width).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, height, width, generator=generator)
    with torch.no_grad():
        count = len(tower(pixels))
    names = ["image_features", *(f"deepstack_features_{level}" for level in range(count - 1))]
    path = out / "vision_encoder.onnx"
    with torch.no_grad(), fold(path, external_bytes) as raw:
        # The dynamo exporter does not get through these models; the older one traces them at this one size.
        torch.onnx.export(
            tower, (pixels,), raw, input_names=["pixel_values"], output_names=names, dynamo=False, opset_version=OPSET
        )
    other = torch.randn(1, 3, height, width, generator=generator)
    with torch.no_grad():
        wanted = tower(other)
    found = compare(path, {"pixel_values": other}, dict(zip(names, wanted, strict=True)))
    return {"outputs": count, "tokens": wanted[0].shape[1], "width": wanted[0].shape[2], **found}


def _whole(side: int, part: int) -> int:
    if side % part:
        raise Refused(f"{side} px is not a multiple of {part}, which this model's patches need.")
    return side // part
