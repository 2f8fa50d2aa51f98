"""Writes .rknn files for the stand-ins: the vendor's frame, and no network in it."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path


def write_rknn(
    path: Path,
    outputs: Sequence[Sequence[int]] = ((1, 49, 160),),
    *,
    size: tuple[int, int] = (112, 112),
    target: str = "rk3588",
    words: str = "",
    megabytes: int = 0,
) -> Path:
    """outputs: their shapes. size: height and width of the picture. words: what the stand-in is told, in brackets.
    megabytes: of network, none of which is zero pages.
    """
    tensors = [[1, 3, *size], *(list(shape) for shape in outputs)]
    text = {
        "name": words,
        "norm_tensor": [
            {"size": shape, "tensor_id": number, "url": f"tensor_{number}"} for number, shape in enumerate(tensors)
        ],
        "target_platform": [target],
    }
    told = json.dumps(text, separators=(",", ":")).encode()
    block = bytes(range(256)) * 4096
    with path.open("wb") as file:
        file.write(b"RKNN" + bytes(4) + struct.pack("<QQ", 6, megabytes << 20) + bytes(40))
        for _ in range(megabytes):
            file.write(block)
        file.write(struct.pack("<Q", len(told)) + told)
    return path
