"""Two pictures in one question, in the order given."""

from pathlib import Path

import vlm

PICTURES = Path(__file__).parent / "pictures"

with vlm.load("demo") as model:
    pair = [model.encode(PICTURES / name) for name in ("traffic-light.jpg", "night.jpg")]
    for question in ("Which picture has more shapes?", "Do both pictures show a star?", "Compare the two pictures."):
        print(f"> {question}\n{model.describe(pair, question)}")
