"""Tiny models of the real architectures with random weights, and what transformers makes of them.

Runs in the converter's environment: `python authors.py JOB.json`, a job being

    {"make": model_type, "directory": where to}
    {"generate": directory, "asks": [{"ids": [...], "pixels": file.npy}, ...], "mean": [...], "std": [...], "count": 32,
     "answers": where [[ids], ...] go}

The job's "reply" is told that it worked.

pixels: uint8 (images, height, width, 3), as the encoder is given them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
TEXT = {**SIZES, "num_hidden_layers": 4, "vocab_size": 300, "max_position_embeddings": 2048}
TEXT |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
EYES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = 290  # the content tag's id in tests/convert/tiny_words.py


def qwen(kind: str) -> dict[str, Any]:
    eyes: dict[str, Any] = {
        "depth": 4,
        "num_heads": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if kind == "qwen2_vl":
        eyes |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    elif kind == "qwen2_5_vl":
        eyes |= {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "window_size": 56}
        eyes |= {"fullatt_block_indexes": [1, 3]}
    else:
        eyes |= {"patch_size": 16, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64}
        eyes |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1, 2]}
    ropes = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {**TEXT, "rope_parameters": ropes, "tie_word_embeddings": True}
    ids = {"image_token_id": IMAGE, "video_token_id": 291, "vision_start_token_id": 292, "vision_end_token_id": 293}
    return {"vision_config": eyes, "text_config": text, "tie_word_embeddings": True, **ids}


def config(kind: str) -> dict[str, Any]:
    """The settings of a tiny model of this kind."""
    if kind.startswith("qwen"):
        return qwen(kind)
    if kind == "internvl":
        eyes = {**EYES, "image_size": [112, 112], "patch_size": [14, 14]}
        more = {"image_seq_length": 16, "downsample_ratio": 0.5}
        return {"vision_config": eyes, "text_config": {**TEXT, "model_type": "qwen2"}, "image_token_id": IMAGE, **more}
    if kind == "janus":
        eyes = {**EYES, "image_size": 96, "patch_size": 16, "projection_dim": 64, "mlp_ratio": 2.0, "depth": 2}
        eyes |= {"num_image_tokens": 36}
        pictures = {"embed_dim": 8, "num_embeddings": 64, "base_channels": 32, "channel_multiplier": [1, 1]}
        pictures |= {"num_res_blocks": 1, "latent_channels": 32, "projection_dim": 64, "num_patches": 8}
        pictures |= {"image_token_embed_dim": 64}
        text = {**TEXT, "model_type": "llama"}
        return {"vision_config": eyes, "text_config": text, "vq_config": pictures, "image_token_id": IMAGE}
    eyes = {**EYES, "image_size": 128, "patch_size": 16}
    text = {**TEXT, "model_type": "llama", "pad_token_id": 0}
    return {"vision_config": eyes, "text_config": text, "image_token_id": IMAGE, "scale_factor": 2}


def make(kind: str, directory: Path) -> None:
    """A model whose weights are spread enough for its answers not to repeat one token."""
    torch.manual_seed(7)
    settings = transformers.AutoConfig.for_model(kind, **config(kind))
    model = transformers.AutoModelForImageTextToText.from_config(settings)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(10)
    model.save_pretrained(directory)


def inputs(kind: str, pixels: Any, mean: list[float], std: list[float]) -> dict[str, Any]:
    """Pictures as the family's own model takes them. Qwen's patches are cut by its own image processor."""
    if kind.startswith("qwen"):
        patch = 16 if kind == "qwen3_vl" else 14
        cut = transformers.Qwen2VLImageProcessorPil(patch_size=patch, image_mean=mean, image_std=std, do_resize=False)
        return dict(cut(list(pixels), return_tensors="pt"))
    normal = (pixels / 255 - np.array(mean)) / np.array(std)
    values = torch.tensor(normal.transpose(0, 3, 1, 2), dtype=torch.float32)
    return {"pixel_values": values[None] if kind in ("smolvlm", "idefics3") else values}


def generate(job: dict[str, Any]) -> list[list[int]]:
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        job["generate"], dtype=torch.float32, attn_implementation="eager"
    ).eval()
    kind, answers = model.config.model_type, []
    for ask in job["asks"]:
        ids = torch.tensor([ask["ids"]])
        given = inputs(kind, np.load(ask["pixels"]), job["mean"], job["std"])
        if kind.startswith("qwen"):
            given["mm_token_type_ids"] = (ids == IMAGE).int()
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **given, max_new_tokens=job["count"], do_sample=False
        )
        answers.append(made[0, ids.shape[1] :].tolist())
    return answers


def main(job: dict[str, Any]) -> None:
    if "make" in job:
        make(job["make"], Path(job["directory"]))
    else:
        Path(job["answers"]).write_text(json.dumps(generate(job)))
    Path(job["reply"]).write_text("{}")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
