"""An encoder that takes a board's time on a PC."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from encoders.base import Encoder, ImageEmbedding


class PacedEncoder:
    """Another encoder, each image of which takes at least `encode_ms` milliseconds. Nothing else differs.

    What is left of the time is slept, as a thread sleeps that waits for the NPU. The encoder given is this one's from
    here on: closing this closes it. A failure is raised at once. It counts as one that runs on the NPU, for which it
    stands. Raises ValueError for a time that is not positive.
    """

    npu = True

    def __init__(self, encoder: Encoder, encode_ms: float) -> None:
        if not 0 < encode_ms < float("inf"):
            raise ValueError(f"encode_ms must be a number of milliseconds above 0; got {encode_ms}.")
        self.spec = encoder.spec
        self.identity = encoder.identity
        self._encoder = encoder
        self._seconds = encode_ms / 1000

    def encode(self, pixels: NDArray[np.uint8], content_hash: str) -> ImageEmbedding:
        """Embed one image, see `Encoder.encode`."""
        due = time.perf_counter() + self._seconds
        embedding = self._encoder.encode(pixels, content_hash)
        time.sleep(max(0.0, due - time.perf_counter()))
        return embedding

    def close(self) -> None:
        """Close the encoder; may be called twice."""
        self._encoder.close()
