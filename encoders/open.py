"""Opens an encoder file with what runs files of its kind."""

from __future__ import annotations

import importlib
import os
from typing import Any, cast

from encoders.base import Encoder, VisionSpec
from encoders.errors import EncoderFileError

# File suffix: module and class. A module is imported when a file of its kind is opened, and not before.
ENCODERS = {
    ".onnx": "encoders.onnx:OnnxEncoder",
    ".rknn": "encoders.rknn:RKNNEncoder",
}


def open_encoder(path: str | os.PathLike[str], spec: VisionSpec, **options: Any) -> Encoder:
    """Open the encoder in `path`, told by its suffix, and compare it with `spec`.

    options: those of the encoder's class. Raises EncoderFileError (missing, of no known kind, damaged),
    EncoderMismatchError (not what the spec says), EncoderUnavailableError (what runs it is not on this machine).
    """
    suffix = os.path.splitext(path)[1].lower()
    target = ENCODERS.get(suffix)
    if target is None:
        known = " or ".join(ENCODERS)
        raise EncoderFileError(f"{os.fspath(path)!r}: the name of an encoder file ends in {known}, not in {suffix!r}.")
    module, _, name = target.partition(":")
    opened = importlib.import_module(module)
    return cast("Encoder", getattr(opened, name)(path, spec, **options))
