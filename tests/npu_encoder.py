"""A stand-in for the encoder on the NPU: it takes its time, and writes down how it was opened and when it ran."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from encoders.base import ImageEmbedding, VisionSpec
from encoders.errors import EncoderError


@dataclass
class NpuEncoder:
    """Takes the place of `encoders.rknn.RKNNEncoder`. A black picture fails."""

    path: Path
    spec: VisionSpec
    core_mask: int | None = None
    soc: str | None = None
    capture: Any = None
    npu: bool = True
    identity: str = "stand-in"
    runs: list[tuple[float, float]] = field(default_factory=list)
    closed: bool = False

    opened: ClassVar[list[NpuEncoder]] = []
    encode_s: ClassVar[float] = 0.05

    def __post_init__(self) -> None:
        self.opened.append(self)

    def encode(self, pixels: NDArray[np.uint8], content_hash: str) -> ImageEmbedding:
        began = time.monotonic()
        time.sleep(self.encode_s)
        self.runs.append((began * 1e3, time.monotonic() * 1e3))
        if not pixels.any():
            raise EncoderError("The stand-in sees nothing.")
        shape = (1, self.spec.tokens, self.spec.width * self.spec.outputs)
        return ImageEmbedding(np.full(shape, pixels.mean(), np.float32), (content_hash,))

    def close(self) -> None:
        self.closed = True
