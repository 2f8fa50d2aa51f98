"""What a model file is by its content, whatever it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vlm.rkllm.diagnosis import toolkit_of

Kind = Literal["rknn", "encrypted", "rkllm", "onnx", "onnx directory", "lfs", "page", "gguf", "directory", "unknown"]

WORDS: dict[Kind, str] = {
    "rknn": "a .rknn, an encoder for the NPU",
    "encrypted": "an encrypted .rknn",
    "rkllm": "a .rkllm, a language model for the NPU",
    "onnx": "an ONNX file",
    "onnx directory": "a directory of ONNX files, a language model for the CPU",
    "lfs": "a git-lfs pointer: the name of a file, and not the file",
    "page": "a web page: a download that went wrong",
    "gguf": "a GGUF, which is llama.cpp's",
    "directory": "a directory without a model",
    "unknown": "of no kind that is known here",
}
_BEGINNINGS: tuple[tuple[bytes, Kind], ...] = (
    (b"RKNN", "rknn"),
    (b"RKCE", "encrypted"),
    (b"version https://git-lfs", "lfs"),
    (b"<!DOCTYPE", "page"),
    (b"<html", "page"),
    (b"GGUF", "gguf"),
)
_LAST_ONNX_VERSION = 32


def kind_of(path: Path) -> Kind:
    """What a file or directory holds. Raises OSError where it cannot be read."""
    if path.is_dir():
        return "onnx directory" if (path / "config.json").is_file() else "directory"
    with path.open("rb") as file:
        head = file.read(64)
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if toolkit_of(path):
        return "rkllm"
    # An ONNX file is a protobuf message whose first field, in every writer's file, is the version of its format.
    return "onnx" if head[:1] == b"\x08" and 0 < head[1] < _LAST_ONNX_VERSION else "unknown"
