"""Pixels to an encoder's input: named fit policies, antialiased, to uint8 NHWC RGB.

    pad      the whole picture, its shape kept, centred on the background
    stretch  the whole picture, its shape changed to the input's
    crop     the middle of the picture, its shape kept, filling the input

Normalisation is not here: a .rknn encoder has it baked in, and the ONNX encoder does it by itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.base import VisionSpec
from encoders.errors import ImageError
from encoders.images import Picture

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def fit_image(picture: Picture | NDArray[np.uint8], spec: VisionSpec) -> NDArray[np.uint8]:
    """Bring a picture to the encoder's input size by the spec's fit policy.

    Give the Picture itself rather than its pixels: a JPEG decoded at reduced scale can end inside a pixel, and the
    Picture knows where. Resized with the spec's filter, antialiased, first and padded with spec.background then, so
    that the filter does not mix the two. A picture that has the size already is passed on without a copy.

    Returns uint8 RGB of shape (1, height, width, 3), C-contiguous. Raises ImageError for an array that is not uint8 of
    shape (height, width, 3).
    """
    if isinstance(picture, Picture):
        pixels, size, box = picture.pixels, picture.size, picture.box
    else:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise ImageError(f"Pixels must be uint8 of shape (height, width, 3); got {picture.dtype} {picture.shape}.")
        pixels, size = np.ascontiguousarray(picture), (picture.shape[0], picture.shape[1])
        box = (0.0, 0.0, size[1], size[0])
    if spec.fit == "crop":
        box = _middle(box, size, spec)
    top, left, height, width = picture_area(size, spec)
    resized = _resize(pixels, (height, width), box, _FILTERS[spec.filter])
    if (height, width) == (spec.height, spec.width_px):
        return resized[None]
    out = np.empty((1, spec.height, spec.width_px, 3), np.uint8)
    bottom, right = top + height, left + width
    for padding in (out[0, :top], out[0, bottom:], out[0, top:bottom, :left], out[0, top:bottom, right:]):
        padding[:] = spec.background
    out[0, top:bottom, left:right] = resized
    return out


def picture_area(size: tuple[int, int], spec: VisionSpec) -> tuple[int, int, int, int]:
    """Where a picture of `size` (height, width) comes to lie in the encoder's input: (top, left, height, width)."""
    if spec.fit != "pad":
        return 0, 0, spec.height, spec.width_px
    scale = min(spec.height / size[0], spec.width_px / size[1])
    height = min(spec.height, max(1, int(size[0] * scale + 0.5)))
    width = min(spec.width_px, max(1, int(size[1] * scale + 0.5)))
    return (spec.height - height) // 2, (spec.width_px - width) // 2, height, width


def _middle(
    box: tuple[float, float, float, float], size: tuple[int, int], spec: VisionSpec
) -> tuple[float, float, float, float]:
    """The middle part of the box that has the shape of the encoder's input."""
    scale = max(spec.height / size[0], spec.width_px / size[1])
    left, top, right, bottom = box
    cut_x = (right - left) * max(0.0, 1 - spec.width_px / (size[1] * scale)) / 2
    cut_y = (bottom - top) * max(0.0, 1 - spec.height / (size[0] * scale)) / 2
    return left + cut_x, top + cut_y, right - cut_x, bottom - cut_y


def _resize(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    resample: Image.Resampling,
) -> NDArray[np.uint8]:
    """The box of the pixels, brought to `size` (height, width)."""
    if pixels.shape[:2] == size and box == (0, 0, size[1], size[0]):
        return pixels
    # When shrinking, Pillow widens the filter by the factor, which is what keeps fine detail from aliasing.
    picture = Image.fromarray(pixels).resize((size[1], size[0]), resample, box=box)
    return np.asarray(picture)
