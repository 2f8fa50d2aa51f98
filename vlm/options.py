"""The options of a run, declared once: the command line, the settings and the Python calls all draw on these models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vlm.errors import OptionError

M = TypeVar("M", bound=BaseModel)

DEFAULT_PROMPT = "Describe the picture."


def checked(model: type[M], given: Mapping[str, Any]) -> M:
    """The options in `given`, checked. Raises OptionError that names the one that is wrong."""
    try:
        return model(**given)
    except ValidationError as exc:
        first = exc.errors()[0]
        known = ", ".join(model.model_fields)
        raise OptionError(f"Option {first['loc'][0]}: {first['msg']}; got {first['input']!r}. Known: {known}.") from exc


DEFAULT_PROMPT = "Describe the picture."
"""The question, where only a picture is given."""


class Sampling(BaseModel):
    """How the next token is chosen. The defaults are greedy: the most likely token, always.

    The names are those of the vendor's RKLLMParam; on releases before 1.3.0 they are fixed when the model is opened.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(default=1, ge=0, description="Choose among the K most likely tokens; 1 is greedy, 0 is all.")
    top_p: float = Field(
        default=1.0, ge=0.0001, le=1, description="Choose among the likeliest tokens that add up to this."
    )
    temperature: float = Field(default=1.0, ge=0.01, le=10, description="Flatter above 1, sharper below.")
    repeat_penalty: float = Field(
        default=1.0, ge=0.01, le=10, description="Above 1, tokens already seen become less likely."
    )
    frequency_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="Taken off a token's score each time it was said."
    )
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, description="Taken off a token's score once it was said.")
    mirostat: int = Field(default=0, ge=0, le=2, description="Mirostat version, 0 is off; replaces top-k and top-p.")
    mirostat_tau: float = Field(default=5.0, ge=0.01, le=100, description="Mirostat's target surprise.")
    mirostat_eta: float = Field(default=0.1, ge=0.0001, le=1, description="Mirostat's learning rate.")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA adapter to load. name: what a question calls it. scale: how strongly it counts; 1 is as trained."""

    name: str
    file: Path
    scale: float = 1.0


def adapter_file(text: str) -> AdapterFile:
    """Read `[NAME=]FILE[@SCALE]`; without a name, it is the file's without its ending. Raises OptionError."""
    name, equals, rest = text.partition("=")
    rest = rest if equals else text
    file, at, scale = rest.rpartition("@")
    try:
        number = float(scale) if at else 1.0
    except ValueError:
        file, number = rest, 1.0  # an @ of the path's own
    path = Path(file if at and file else rest).expanduser()
    name = name if equals else path.stem
    if not _NAME.fullmatch(name) or not path.name:
        raise OptionError(
            f"A LoRA adapter is given as [NAME=]FILE[@SCALE], NAME of letters, digits, ., - and _; got {text!r}."
        )
    return AdapterFile(name, path, number)


class RunOptions(Sampling):
    """Everything a single question may set."""

    model_config = ConfigDict(title="Answering")

    max_new_tokens: int = Field(default=256, ge=1, le=16384, description="Stop after this many tokens.")
    stop: tuple[str, ...] = Field(default=(), description="End the answer before this text; may be repeated.")
    seed: int | None = Field(default=None, ge=0, lt=2**32, description="Seed of the sampling; the host runtime only.")
    thinking: bool = Field(default=False, description="Have the model think before it answers, where it can.")
    adapter: str | None = Field(default=None, description="LoRA adapter to answer with, by its name; see lora.")


Pooling = Literal["mean", "last"]
"""How the last hidden layer becomes one embedding: its mean over the tokens, or its last token's."""


def _listed(value: Any) -> Any:
    """A list of cores, or one, as the text that names it: [0, 1] is "0,1"."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    if all(isinstance(item, (int, str)) and not isinstance(item, bool) for item in items):
        return ",".join(sorted(str(item).strip() for item in items))
    return value


CoreList = Annotated[Literal["auto", "0", "1", "2", "0,1", "0,1,2"], BeforeValidator(_listed)]
"""Cores of the NPU that the encoder may use: the sets that rknn-toolkit-lite2 has a mask for, as text or as a list."""


class CoreOptions(BaseModel):
    """Which NPU cores the two parts of a model use; None is not said. `vlm.npu` makes a plan of it.

    The words are the same in a call, on the command line, in the settings and in a profile.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", title="NPU")

    encoder_cores: CoreList | None = Field(
        default=None,
        description="NPU cores of the encoder, `2` or `0,1`; `auto` is all the SoC has, and what is not said.",
    )
    llm_cores: int | None = Field(
        default=None,
        ge=1,
        le=3,
        description="How many NPU cores the .rkllm was converted for; the runtime says it too, and must agree.",
    )
    overlap: bool | None = Field(
        default=None,
        description="Run encoder and language model side by side, on cores that are not shared; else one at a time.",
    )


class NpuOptions(CoreOptions):
    """Everything about the NPU that is said when a model is opened."""

    no_wait: bool | None = Field(
        default=None, description="Where another process holds the NPU, say which one instead of waiting for it."
    )
