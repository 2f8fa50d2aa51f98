"""Draw the sample pictures: `python samples/demo/pictures.py samples/pictures`; truth.json says what is in each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from questions import DECLINE, full
from world import STRIP_ASPECT, Pixels, Scene, Thing, draw, draw_outside

# name, background, aspect, long side in pixels, and the things in reading order: size colour shape row column
PICTURES = """
blue-star.jpg        white  1.0  400  large blue star 1 1
two-hearts.png       pink   1.3  300  large red heart 1 0, small purple heart 1 2
traffic-light.jpg    black  0.5  400  large red circle 0 1, large yellow circle 1 1, large green circle 2 1
wide-row.webp        brown  2.4  480  small orange square 1 0, large green triangle 1 1, small white star 1 2
corners.bmp          cyan   1.0  240  small black heart 0 0, small red star 0 2, small white circle 2 0, large blue square 2 2
photo-sized.jpg      grey   1.4 1600  large yellow star 0 1, small orange triangle 2 0
thumbnail.png        white  1.0  120  large green square 0 0, large purple circle 2 2
five-shapes.png      cyan   0.8  320  small red square 0 0, large white heart 0 2, small blue star 1 1, large orange circle 2 0, small black triangle 2 2
tower.jpg            pink   0.4  500  small black square 0 1, large white star 1 1, small blue triangle 2 1
three-triangles.png  brown  1.0  260  large yellow triangle 0 0, large yellow triangle 1 1, small red triangle 2 2
night.jpg            black  1.2  360  small white star 0 1, large yellow circle 1 2, small white star 2 0
"""  # noqa: E501


def parse(line: str) -> tuple[str, int, Scene]:
    """One line of PICTURES: file name, long side, scene."""
    name, background, aspect, side, things = line.split(maxsplit=4)
    made = []
    for thing in things.split(", "):
        size, colour, shape, row, column = thing.split()
        made.append(Thing(shape, colour, size, int(row), int(column)))
    assert float(aspect) <= STRIP_ASPECT or all(thing.row == 1 for thing in made)
    return name, int(side), Scene(tuple(made), background, float(aspect))


def write(path: Path, pixels: Pixels) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if path.suffix == ".jpg" else []
    cv2.imwrite(str(path), pixels[..., ::-1], options)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2026)
    truth = {}
    for line in PICTURES.strip().splitlines():
        name, side, scene = parse(line)
        write(folder / name, draw(scene, rng, side))
        truth[name] = full(scene)
    write(folder / "not-a-shape.jpg", draw_outside(np.random.default_rng(8)))
    truth["not-a-shape.jpg"] = DECLINE
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")


if __name__ == "__main__":
    main()
