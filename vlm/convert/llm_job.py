"""What `vlm convert llm` is asked for: rkllm-toolkit's options, declared once, and what each SoC has to offer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from vlm.npu import SOCS

Kind = Literal["model", "gguf", "rkllm"]


@dataclass(frozen=True)
class Target:
    """A SoC as the toolkit knows it. dtypes: what it computes with, the usual one first. cores: of its NPU.

    unproven: why that is not certain, or nothing.
    """

    dtypes: tuple[str, ...]
    cores: int
    unproven: str = ""


_W4A16 = ("w4a16", "w4a16_g32", "w4a16_g64", "w4a16_g128")
# From the vendor's guide to the RKLLM SDK, 1.3.0, the table of build's arguments.
TARGETS: Final = {
    "rk3588": Target(("w8a8", "w8a8_g128", "w8a8_g256", "w8a8_g512"), SOCS["rk3588"].npu_cores),
    "rk3576": Target((*_W4A16, "w8a8"), SOCS["rk3576"].npu_cores),
    "rk3562": Target(("w8a8", *_W4A16[1:], "w4a8_g32"), SOCS["rk3562"].npu_cores),
    "rv1126b": Target(
        (*_W4A16, "w8a8"),
        SOCS["rv1126b"].npu_cores,
        "what it takes is from other people's public conversion scripts, not from the vendor's guide",
    ),
}


class LlmOptions(BaseModel):
    """What rkllm-toolkit is told, under its own names: those of load_huggingface, then those of build."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="For rkllm-toolkit")

    model_lora: Path | None = Field(default=None, description="Directory of a LoRA adapter to convert with the model.")
    device: str = Field(default="cpu", description="Where the toolkit computes: cpu or cuda.")
    dtype: str = Field(default="float32", description="Type to load weights as: float32, float16 or bfloat16.")
    custom_config: Path | None = Field(
        default=None, description="The toolkit's JSON description of an architecture it does not know."
    )
    load_weight: bool = Field(default=True, description="Load the weights; without, they are random, for a trial.")
    target_platform: str = Field(default="rk3588", description=f"SoC to convert for: {', '.join(TARGETS)}.")
    do_quantization: bool = Field(default=True, description="Quantise the weights.")
    optimization_level: int = Field(default=1, description="1 adjusts weights to lose less by quantising; 0 does not.")
    quantized_dtype: str | None = Field(
        default=None, description="Such as w8a8 or w4a16; the first that the SoC knows if not given."
    )
    quantized_algorithm: str = Field(default="normal", description="normal, grq or gdq; the last two need a GPU.")
    num_npu_core: int | None = Field(
        default=None, description="NPU cores that the model will take; all of the SoC's if not given."
    )
    extra_qparams: Path | None = Field(default=None, description="Quantisation parameters kept from a gdq run.")
    dataset: Path | None = Field(
        default=None, description="JSON set to quantise with; `vlm convert dataset` makes one of pictures."
    )
    hybrid_rate: float = Field(
        default=0.0, description="Share of layers quantised the other way, with or without groups; below 1."
    )
    max_context: int = Field(default=4096, description="Longest context in tokens, to 16384, a multiple of 32.")


LOADING: Final = ("model_lora", "device", "dtype", "custom_config", "load_weight")
"""The options of load_huggingface; the others are those of build."""


@dataclass(frozen=True)
class LlmJob:
    """What to convert.

    source: a model's directory as transformers loads it (GPTQ's too), a .gguf file, or a .rkllm file of an older
    release, which is brought up to date and takes no options. out: the .rkllm file. chat: finished prompts to put to
    the quantised model on this PC. text: a file to count its perplexity on.
    """

    source: Path
    out: Path
    options: LlmOptions = field(default_factory=LlmOptions)
    chat: Sequence[str] = ()
    text: Path | None = None


def kind_of(source: Path) -> Kind:
    """What a source is: a directory that transformers loads, a .gguf file, or an older .rkllm file."""
    if source.suffix == ".rkllm":
        return "rkllm"
    return "gguf" if source.suffix == ".gguf" else "model"
