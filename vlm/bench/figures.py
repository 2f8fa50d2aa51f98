"""How fast the stages of a model are, as measured by somebody somewhere: read from files, or measured here."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from statistics import median

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import vlm
from vlm.errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PC = "pc"
"""The name of a machine without an NPU among the SoCs; it counts as one core."""


class Figures(BaseModel):
    """What was measured of a model on an SoC with so many NPU cores at work; None is not known."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    model: str
    soc: str
    cores: int = Field(ge=1, le=3)
    encode_ms: float | None = Field(default=None, gt=0)
    prefill_ms: float | None = Field(default=None, gt=0)
    prefill_tokens: int | None = Field(default=None, gt=0)
    tokens_per_second: float | None = Field(default=None, gt=0)
    source: str


def recorded() -> list[Figures]:
    """The figures that come with rkvlm, and where each is from."""
    return _parsed(resources.files("vlm.bench").joinpath("figures.toml").read_text("utf-8"), "figures.toml")


def read_figures(path: Path) -> list[Figures]:
    """Figures of one's own. Raises OptionError that says what is wrong with the file."""
    try:
        return _parsed(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise OptionError(f"The figures {str(path)!r} cannot be read: {exc}.") from exc


def _parsed(text: str, name: str) -> list[Figures]:
    try:
        entries = tomllib.loads(text).get("figures", [])
        return [Figures(**entry) for entry in entries]
    except (tomllib.TOMLDecodeError, TypeError) as exc:
        raise OptionError(f"{name} has no figures as `vlm bench model` writes them: {exc}.") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise OptionError(f"{name}, {where}: {first['msg']}; got {first['input']!r}.") from exc


def measure(model: str, tokens: int, rounds: int) -> list[Figures]:
    """Measure an opened model here: medians of `rounds` pictures, each new to it, and answers of up to `tokens`.

    Encoder and language model may use different numbers of cores, so each has an entry of its own. Raises RkvlmError.
    """
    rng = np.random.default_rng(0)
    encode_ms, prefill_ms, rates, prompt_tokens = list[float](), list[float](), list[float](), 0
    with vlm.load(model, max_new_tokens=tokens) as opened:
        spec, plan = opened.profile.vision, opened.plan
        for turn in range(rounds + 1):  # the first one warms up
            picture = rng.integers(0, 256, (spec.height, spec.width_px, 3), np.uint8)
            began = time.perf_counter()
            embedding = opened.encode(picture)
            encoded = time.perf_counter()
            answer = opened.describe(embedding)
            told_s = time.perf_counter() - encoded - (answer.ttft_ms or 0) / 1000
            if turn:
                encode_ms.append((encoded - began) * 1000)
                prefill_ms.append(answer.ttft_ms or 0.0)
                rates.append(answer.tokens_per_second or (answer.tokens or 1) / told_s)
            prompt_tokens = answer.prompt_tokens or prompt_tokens
        name = opened.profile.name
    soc = plan.soc.name if plan else PC
    source = f"vlm bench model, {time.strftime('%Y-%m-%d')}"
    encoder = len(plan.encoder) if plan and plan.encoder else 1
    llm = len(plan.llm) if plan and plan.llm else 1
    return [
        Figures(model=name, soc=soc, cores=encoder, encode_ms=round(median(encode_ms), 1), source=source),
        Figures(
            model=name, soc=soc, cores=llm, prefill_ms=round(median(prefill_ms), 1),
            prefill_tokens=prompt_tokens or None, tokens_per_second=round(median(rates), 2), source=source,
        ),
    ]  # fmt: skip


def as_toml(figures: Sequence[Figures]) -> str:
    """The figures as a file for `read_figures`."""
    entries = []
    for entry in figures:
        known = {name: value for name, value in entry.model_dump().items() if value is not None}
        lines = [f"{name} = {json.dumps(value)}" for name, value in known.items()]  # TOML's texts and numbers too
        entries.append("\n".join(["[[figures]]", *lines]))
    return "\n\n".join(entries) + "\n"
