"""The model families that can be exported, by the `model_type` of their config.json, and where their parts lie."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


class Refused(Exception):
    """What cannot be exported, in words."""


@dataclass(frozen=True)
class Family:
    """How transformers builds a family.

    tower: how its vision tower is called, see `towers`. language: the name of the language model within `model.model`.
    deepstack: its tower gives further outputs, for the first layers of the language model.
    """

    tower: Literal["grid", "patches", "features"]
    language: str = "language_model"
    deepstack: bool = False


def let_go(parent: Any, names: Iterable[str]) -> None:
    """Free the parts of a model that are not exported: with them, one of 2B would fill a PC's memory."""
    from torch import nn

    for name in list(names):
        setattr(parent, name, nn.Identity())


FAMILIES = {
    "qwen2_vl": Family("grid"),
    "qwen2_5_vl": Family("grid"),
    "qwen3_vl": Family("grid", deepstack=True),
    "internvl": Family("features"),
    "janus": Family("features"),
    "idefics3": Family("patches", language="text_model"),
    "smolvlm": Family("patches", language="text_model"),
}


def load(directory: Path) -> tuple[Family, Any]:
    """The family and the model in a directory, in fp32. Raises Refused for a directory that holds no known model."""
    import torch
    from transformers import AutoModelForImageTextToText

    try:
        kind = json.loads((directory / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise Refused(f"{directory} has no config.json that names its model_type: {exc}") from exc
    if kind not in FAMILIES:
        advice = " Models with code of their own have to be converted for transformers first (names ending in -hf)."
        raise Refused(f"model_type {kind!r} is not one of {', '.join(FAMILIES)}.{advice}")
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return FAMILIES[kind], model.eval()
