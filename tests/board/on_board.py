"""What the rehearsal runs on the emulated board: `python on_board.py NAME JSON` prints JSON.

The wheel found first on PYTHONPATH is the vendor's own; librknnrt.so and librkllmrt.so are stand-ins.
"""

from __future__ import annotations

import ctypes
import json
import logging
import re
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from encoders.base import VisionSpec
from encoders.errors import RkvlmError
from encoders.rknn import RKNNEncoder
from vlm.rkllm.messages import captured


class Report:
    """What a stand-in in this process has seen."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        self.library.standin_report.restype = ctypes.c_char_p

    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.library.standin_report().decode().splitlines()]

    def picture(self) -> bytes:
        self.library.standin_input.restype = ctypes.c_void_p
        size = ctypes.c_size_t()
        address = self.library.standin_input(ctypes.byref(size))
        return ctypes.string_at(address, size.value)


def expected(pixels: np.ndarray, output: int, tokens: int, width: int) -> np.ndarray:
    """What the stand-in makes of a picture, see librknnrt.c."""
    flat = pixels.reshape(-1).astype(np.float32)
    return (flat[(np.arange(tokens * width) + 31 * output) % flat.size].reshape(tokens, width) - 128) / 64


def hand_off(picture: str, encoder: str, llm: str, library: str) -> dict[str, Any]:
    """A picture through the whole pipeline: what both stand-ins were given, beside what was meant for them."""
    import vlm
    from encoders.images import load_image
    from encoders.preprocess import fit_image

    with vlm.load("demo", encoder=encoder, llm=llm, library=library) as model:
        spec = model.profile.vision
        pixels = fit_image(load_image(picture, needed=spec), spec)
        embedding = model.encode(picture)
        answer = model.describe(embedding, "[say=There is a star.][piece=4]")
        rknn, rkllm = Report("/usr/lib/librknnrt.so"), Report(library)
        same = rknn.picture() == pixels.tobytes()
    return {
        "wheel": version("rknn-toolkit-lite2"),
        "answer": answer.text,
        "the same picture": same,
        "the same numbers": bool((embedding.data[0] == expected(pixels, 0, spec.tokens, spec.width)).all()),
        "address": embedding.data.ctypes.data,
        "rknn": rknn.seen(),
        "rkllm": rkllm.seen(),
    }


def open_each(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Open and use an encoder for each: the error's class, exit code and text, or the shape of what it gives."""
    told: list[dict[str, Any]] = []
    pixels = np.arange(112 * 112 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 112, 112, 3)
    for case in cases:
        spec = VisionSpec(112, 112, case.get("tokens", 49), 160, outputs=case.get("outputs", 1))
        options = {name: case[name] for name in ("core_mask", "soc") if name in case}
        try:
            with RKNNEncoder(case["path"], spec, capture=captured, **options) as encoder:
                data = encoder.encode(pixels, "hash").data
        except RkvlmError as exc:
            told.append({"error": type(exc).__name__, "exit": exc.exit_code, "text": str(exc)})
            continue
        levels = data.reshape(spec.tokens, spec.outputs, spec.width)
        right = all((levels[:, k] == expected(pixels, k, spec.tokens, spec.width)).all() for k in range(spec.outputs))
        told.append({"shape": data.shape, "right": right})
    return told


def memory(path: str) -> dict[str, float]:
    """RSS in bytes before opening a large encoder, after, and at its peak."""
    page = resource.getpagesize()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    before = resident()
    with RKNNEncoder(path, VisionSpec(112, 112, 49, 160), capture=captured):
        after = resident()
    told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # getrusage has its parent's too
    assert told is not None
    peak = int(told[1]) * 1024
    return {"file": Path(path).stat().st_size, "before": before, "after": after, "peak": peak}


def runs(path: str, count: int) -> dict[str, Any]:
    """RSS in the first and the last third of many inferences, and whether embeddings kept all the while changed."""
    spec = VisionSpec(112, 112, 49, 160)
    pixels = np.zeros((1, 112, 112, 3), np.uint8)
    kept, resident = [], []
    with RKNNEncoder(path, spec, capture=captured) as encoder:
        for number in range(count):
            pixels[:] = number % 256
            embedding = encoder.encode(pixels, str(number))
            kept += [(number, embedding)] if number % (count // 20) == 0 else []
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    unchanged = all((one.data == (number % 256 - 128) / 64).all() for number, one in kept)
    third = count // 3
    return {"early": max(resident[third : 2 * third]), "late": max(resident[-third:]), "unchanged": unchanged}


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    function = {"hand_off": hand_off, "open_each": open_each, "memory": memory, "runs": runs}[sys.argv[1]]
    print(json.dumps(function(**json.loads(sys.argv[2]))))
