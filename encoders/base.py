"""The contract between pictures and language models: what an encoder is, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.errors import EmbeddingError

Fit = Literal["pad", "stretch", "crop"]


@dataclass(frozen=True)
class VisionSpec:
    """What a vision encoder takes and gives, as its model's profile says it.

    height, width_px: the input's size in pixels. fit: how a picture of another shape is brought to it (see
    `encoders.preprocess`). background: RGB 0 to 255, for transparent pixels and for padding. tokens: embeddings per
    image. width: the language model's hidden size. outputs: tensors the encoder gives (1, or 1 + deepstack levels).
    mean, std: normalisation of pixels in 0 to 1, used by the ONNX encoder only; a .rknn has them baked in.
    """

    height: int
    width_px: int
    tokens: int
    width: int
    outputs: int = 1
    fit: Fit = "pad"
    background: tuple[int, int, int] = (127, 127, 127)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """What an encoder made of one or more images, validated when made.

    data: float32, C-contiguous, read-only, shape (images, tokens, width x outputs); several outputs are interleaved
    per token, [token][output][width]. hashes: the content hash of each image, in order.

    Raises EmbeddingError when the array is not that.
    """

    data: NDArray[np.float32]
    hashes: tuple[str, ...]

    def __post_init__(self) -> None:
        data = self.data
        if data.dtype != np.float32 or data.ndim != 3 or not data.flags.c_contiguous:
            raise EmbeddingError(
                "An embedding must be C-contiguous float32 of shape (images, tokens, width x outputs); "
                f"got {data.dtype} of shape {data.shape}{'' if data.flags.c_contiguous else ', not C-contiguous'}."
            )
        if len(self.hashes) != data.shape[0]:
            raise EmbeddingError(
                f"An embedding of {data.shape[0]} images needs as many hashes; got {len(self.hashes)}."
            )
        if not np.isfinite(data).all():
            raise EmbeddingError("The encoder gave NaN or infinity; check its quantisation, or the file itself.")
        data.flags.writeable = False

    @property
    def images(self) -> int:
        """How many images the embedding holds."""
        return int(self.data.shape[0])

    @property
    def tokens(self) -> int:
        """Embeddings per image."""
        return int(self.data.shape[1])


def join_embeddings(parts: Sequence[ImageEmbedding]) -> ImageEmbedding:
    """The embeddings of several pictures in one buffer, in order; one alone is passed on as it is, without a copy.

    Raises EmbeddingError where there is none, and where tokens or width differ.
    """
    if len(parts) == 1:
        return parts[0]
    shapes = {part.data.shape[1:] for part in parts}
    if len(shapes) != 1:
        what = " and ".join(f"{tokens} x {width}" for tokens, width in sorted(shapes)) or "no embedding at all"
        raise EmbeddingError(f"Only embeddings with the same tokens x width can be joined; got {what}.")
    hashes = tuple(content_hash for part in parts for content_hash in part.hashes)
    return ImageEmbedding(np.concatenate([part.data for part in parts]), hashes)


class Encoder(Protocol):
    """An open vision encoder. Stays open between requests; not safe for use by two threads at once.

    spec: what it was opened with, and has been compared with. identity: the same for the same encoder file and no
    other, for `encoders.cache`. npu: whether it runs on the NPU, so that others must not meanwhile.
    """

    spec: VisionSpec
    identity: str
    npu: bool

    def encode(self, pixels: NDArray[np.uint8], content_hash: str) -> ImageEmbedding:
        """Embed one image.

        pixels: uint8 RGB, shape (1, height, width, 3), as `encoders.preprocess.fit_image` makes it. Returns an
        embedding of shape (1, tokens, width x outputs) that no later call overwrites. Raises EncoderError.
        """
        ...

    def close(self) -> None:
        """Give back what the encoder holds; may be called twice."""
        ...
