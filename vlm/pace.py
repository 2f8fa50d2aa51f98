"""A board's speed, as settings: what makes a run on a PC take the time that it would take there.

Only time is added, by sleeping: what a PC computes more slowly than the board stays as slow as it is.
"""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict, Field


class Pace(BaseModel):
    """The least time that each stage takes; None is unknown, and that stage is not held back.

    A board has two sets of figures, with all of its NPU cores at work and with one; neither says anything about the
    other, so that what was measured with all of them never stands in for one. `HostRuntime` keeps to the first set;
    hand it `one_core()` for the second. `encoders.PacedEncoder` takes the encoder's figure.

    Raises pydantic.ValidationError for unknown names and for values out of range or of another type.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    encode_ms: float | None = Field(default=None, gt=0, le=600_000, description="One image, milliseconds.")
    prefill_ms_per_token: float | None = Field(default=None, gt=0, le=10_000, description="Images' tokens count too.")
    tokens_per_second: float | None = Field(default=None, ge=0.01, le=100_000, description="Decode rate.")
    encode_ms_one_core: float | None = Field(default=None, gt=0, le=600_000)
    prefill_ms_per_token_one_core: float | None = Field(default=None, gt=0, le=10_000)
    tokens_per_second_one_core: float | None = Field(default=None, ge=0.01, le=100_000)

    def one_core(self) -> Pace:
        """The pace with one core at work: its own figures in the first places, None where they are not known."""
        figures = ("encode_ms", "prefill_ms_per_token", "tokens_per_second")
        return self.model_copy(update={name: getattr(self, f"{name}_one_core") for name in figures})

    @property
    def paces_encoder(self) -> bool:
        """Whether it has a figure for the encoder."""
        return self.encode_ms is not None or self.encode_ms_one_core is not None

    @property
    def paces_llm(self) -> bool:
        """Whether it has a figure for the language model."""
        return bool(self.model_fields_set - {"encode_ms", "encode_ms_one_core"})

    def on_cores(self, number: int, of: int) -> Pace:
        """The pace with so many of an SoC's NPU cores at work; of a number that is neither all nor one, nothing is
        known.
        """
        return self if number == of else self.one_core() if number == 1 else Pace()

    def prefill_s(self, tokens: int) -> float:
        """The least time in seconds that the prefill of so many tokens takes; 0 where it is not known."""
        return tokens * (self.prefill_ms_per_token or 0.0) / 1000

    @property
    def token_s(self) -> float:
        """The least time in seconds that one token of the answer takes; 0 where it is not known."""
        return 1 / self.tokens_per_second if self.tokens_per_second else 0.0


class Beat:
    """Holds a loop back: called at the end of each turn, it returns `seconds` after the turn began, or at once if that
    is past. The first turn begins when this is made. A turn that took too long is not made up for by the next.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.perf_counter()

    def __call__(self) -> None:
        """Sleep out what is left of this turn."""
        if self._seconds:
            time.sleep(max(0.0, self._began + self._seconds - time.perf_counter()))
            self._began = time.perf_counter()
