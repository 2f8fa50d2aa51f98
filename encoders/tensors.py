"""What goes into an encoder and comes out of it, whatever runs it: compared with the profile, and joined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.base import VisionSpec
from encoders.errors import EncoderError, EncoderMismatchError


class Difference(NamedTuple):
    """Something that the file has and the profile says otherwise, in words."""

    what: str
    wanted: str
    has: str


def check_pixels(pixels: NDArray[np.uint8], spec: VisionSpec) -> None:
    """Refuse pixels that are not uint8 (1, height, width, 3), with an EncoderError."""
    expected = (1, spec.height, spec.width_px, 3)
    if pixels.dtype != np.uint8 or pixels.shape != expected:
        raise EncoderError(f"The encoder takes uint8 {expected}; got {pixels.dtype} {pixels.shape}.")


def blank(spec: VisionSpec) -> NDArray[np.uint8]:
    """A black picture, to ask an encoder what it gives: uint8 (1, height, width, 3)."""
    return np.zeros((1, spec.height, spec.width_px, 3), np.uint8)


def output_differences(shape: Sequence[Any], spec: VisionSpec) -> list[Difference]:
    """What differs between an output's shape and the spec; (tokens, width) may have any number of 1s before it.

    A side may be None or a name where the file does not fix it; of the leading ones that is no difference.
    """
    if len(shape) < 2 or any(isinstance(side, int) and side != 1 for side in shape[:-2]):
        return [Difference("output shape", words([1, spec.tokens, spec.width]), words(shape))]
    pairs = (("tokens", spec.tokens, shape[-2]), ("width", spec.width, shape[-1]))
    return [Difference(what, str(wanted), str(has)) for what, wanted, has in pairs if wanted != has]


def count_difference(names: Sequence[str], spec: VisionSpec) -> list[Difference]:
    """What differs between the number of outputs and the spec."""
    if len(names) == spec.outputs:
        return []
    return [Difference("outputs", str(spec.outputs), f"{len(names)} ({', '.join(map(repr, names))})")]


def refuse_differences(path: Path, differences: Sequence[Difference]) -> None:
    """Raise EncoderMismatchError that names each difference once; nothing happens where there is none."""
    if differences:
        said = "; ".join(
            f"{d.what}: the profile says {d.wanted}, the file has {d.has}" for d in dict.fromkeys(differences)
        )
        raise EncoderMismatchError(
            f"{str(path)!r} does not fit the profile. {said}. Use the profile made for this file."
        )


def joined(path: Path, outputs: Sequence[NDArray[Any]], spec: VisionSpec) -> NDArray[np.float32]:
    """The outputs as one float32 array (1, tokens, width x outputs), [token][output][width].

    One output that is C-contiguous float32 is passed on as it is; everything else is written once into a new array.
    Raises EncoderMismatchError.
    """
    tokens, width = spec.tokens, spec.width
    names = [f"output {index}" for index in range(len(outputs))]
    differences = [difference for output in outputs for difference in output_differences(output.shape, spec)]
    refuse_differences(path, [*count_difference(names, spec), *differences])
    first = outputs[0]
    if len(outputs) == 1 and first.dtype == np.float32 and first.flags.c_contiguous:
        return first if first.ndim == 3 else first.reshape(1, tokens, width)
    array = np.empty((1, tokens, len(outputs), width), np.float32)
    for index, output in enumerate(outputs):
        array[0, :, index, :] = output.reshape(tokens, width)
    return array.reshape(1, tokens, len(outputs) * width)


def words(shape: Sequence[Any]) -> str:
    """A shape for people: 1 x 196 x 1536."""
    return " x ".join("any" if side is None else str(side) for side in shape) or "a single number"
