"""Make the demo's encoder for the NPU: `python samples/demo/convert.py samples/demo/model`, after `vlm convert setup`.

Builds fp16 for every SoC and compares each build with ONNX Runtime on 20 pictures, the samples and 8 drawn here: the
embeddings, and the demo's answers from them. Does the same with int8, which is printed and not shipped. Writes into the
model card which ONNX file the shipped ones were made from.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from rich.console import Console
from world import draw, random_scene

from vlm.cli.convert import comparison_table
from vlm.convert.environment import open_converter
from vlm.convert.vision import SUFFIXES, Built, VisionJob, convert_vision, refuse_what_was_not_kept

SAMPLES = Path(__file__).parent.parent / "pictures"
QUESTION = "Describe the picture."
MARKS = "<!-- made from: written by samples/demo/convert.py -->", "<!-- /made from -->"


def draw_pictures(folder: Path, count: int, seed: int) -> Path:
    """Pictures of the demo's world in a folder, of combinations that training never showed."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        cv2.imwrite(str(folder / f"drawn-{number:02}.png"), draw(random_scene(rng, held_out=True), rng)[..., ::-1])
    return folder


def sample_pictures(work: Path) -> Path:
    """A folder of 20 pictures: the samples, and 8 drawn ones."""
    folder = draw_pictures(work / "pictures", 8, seed=20)
    for file in SAMPLES.iterdir():
        if file.suffix in SUFFIXES:
            shutil.copy(file, folder)
    return folder


def build(job: VisionJob) -> list[Built]:
    """Build, and print how the builds compare."""
    builds = list(convert_vision(job, open_converter()))
    Console().print(comparison_table(builds))
    return builds


def write_card(folder: Path, builds: list[Built]) -> None:
    """Write the hashes of the encoder's files into the model card, so that a test notices when they part."""
    files = [folder / "vision_encoder.onnx", *(built.file for built in builds)]
    rows = [f"| `{file.name}` | `{hashlib.sha256(file.read_bytes()).hexdigest()}` |" for file in files]
    table = "\n".join(["| File | SHA-256 |", "| --- | --- |", *rows])
    card = folder / "README.md"
    head, _, rest = card.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, tail = rest.partition(MARKS[1])
    card.write_text(f"{head}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{tail}", encoding="utf-8")


def main() -> None:
    folder = Path(sys.argv[1])
    with TemporaryDirectory() as name:
        work = Path(name)
        pictures, calibration = sample_pictures(work), draw_pictures(work / "calibration", 64, seed=21)
        shipped = build(VisionJob("demo", out=folder, pictures=pictures, ask=QUESTION))
        refuse_what_was_not_kept(shipped)
        write_card(folder, shipped)
        int8 = build(VisionJob("demo", None, ["all"], "int8", calibration, work, pictures, QUESTION))
        refuse_what_was_not_kept(int8)


if __name__ == "__main__":
    main()
