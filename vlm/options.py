"""The options of a run, declared once: the command line, the settings and the Python calls all draw on these models."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_PROMPT = "Describe the picture."
"""The question, where only a picture is given."""


class Sampling(BaseModel):
    """How the next token is chosen. The defaults are greedy: the most likely token, always.

    The names are those of the vendor's RKLLMParam; on releases before 1.3.0 they are fixed when the model is opened.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(default=1, ge=0, description="Choose among the K most likely tokens; 1 is greedy, 0 is all.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Choose among the likeliest tokens that add up to this.")
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


class RunOptions(Sampling):
    """Everything a single question may set."""

    max_new_tokens: int = Field(default=256, ge=1, le=16384, description="Stop after this many tokens.")
    stop: tuple[str, ...] = Field(default=(), description="End the answer before this text; may be repeated.")
    seed: int | None = Field(default=None, ge=0, lt=2**32, description="Seed of the sampling; the host runtime only.")
