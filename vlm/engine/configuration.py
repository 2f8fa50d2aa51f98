"""Which model an engine opens, and its limits: declared once, for the settings and the command line too."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ModelChoice(BaseModel):
    """The model that an engine opens: the arguments of `vlm.load`. Raises pydantic.ValidationError."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    model: str | None = Field(default=None, description="A profile's name, a profile file, or a model directory.")
    encoder: str | None = Field(default=None, description="Vision encoder of your own: a .onnx or .rknn file.")
    llm: str | None = Field(default=None, description="Language model of your own: a .rkllm file, or a directory.")
    library: str | None = Field(default=None, description="librkllmrt.so, or the directory it lies in.")
    release: str | None = Field(default=None, description="Release of the RKLLM runtime, if it cannot be read.")
    threads: int | None = Field(default=None, ge=1, description="Threads of ONNX Runtime; all cores when not set.")
    pictures: bool = Field(default=True, description="False opens no encoder, for text alone.")
    settings: dict[str, Any] = Field(default={}, description="Fields of Settings, in place of those that are set.")
    options: dict[str, Any] = Field(default={}, description="Fields of RunOptions in place of the profile's.")

    def arguments(self) -> dict[str, Any]:
        """What to call `vlm.load` with."""
        return {**self.model_dump(exclude={"options"}), **self.options}


class EngineLimits(BaseModel):
    """How much an engine takes on, and how long it waits. Times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: int = Field(default=64, ge=0, description="Questions that may wait; more are refused.")
    queue_bytes: int = Field(default=256 << 20, ge=1, description="Bytes of the questions that may wait, pictures too.")
    in_flight: int = Field(
        default=2, ge=1, le=16, description="Questions in the model's process at once: one answered, others prepared."
    )
    deadline_s: float = Field(default=300, gt=0, description="Longest time from a question to the end of its answer.")
    abort_s: float = Field(
        default=10,
        gt=0,
        description="Time that a run has to end when asked, before the model's process is killed. More than a prefill "
        "takes, which cannot be broken off.",
    )
    start_s: float = Field(default=600, gt=0, description="Time that opening the model may take.")
    kill_s: float = Field(default=5, gt=0, description="Time that the model's process has to go when told to.")
    rss_bytes: int = Field(
        default=0, ge=0, description="Restart the model's process, between answers, over this much memory; 0 is never."
    )
    starts: int = Field(
        default=5, ge=1, description="Attempts in a row to start the model's process before questions are refused."
    )
    restart_s: float = Field(default=0.5, ge=0, description="Wait before a second restart in a row; doubled for each.")
    restart_max_s: float = Field(default=30, ge=0, description="Longest wait before a restart.")

    def pause_s(self, restarts: int) -> float:
        """How long to wait before the last of so many restarts in a row; the first comes at once."""
        return min(self.restart_max_s, self.restart_s * 2.0 ** min(restarts - 2, 20)) if restarts > 1 else 0.0
