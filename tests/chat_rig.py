"""What the tests of `vlm chat` share: the command, and what is put before it."""

from __future__ import annotations

import sys
from pathlib import Path

from sample_pictures import PICTURES, ROOT

sys.path.insert(0, str(ROOT / "tests" / "native"))
from standin import build

HEARTS, LIGHT, STAR = PICTURES / "two-hearts.png", PICTURES / "traffic-light.jpg", PICTURES / "blue-star.jpg"
PROGRAM = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "chat"]
NO_PICTURE = "Please show me a picture first."
GREETING = "Hello! Show me a picture with simple shapes and ask me about it."


def board(folder: Path, release: str = "1.3.0") -> list[object]:
    """Options for the compiled stand-in behind the demo's encoder; words in brackets tell it what to do."""
    llm = folder / "model[width=160][image-tokens=49].rkllm"
    llm.touch()
    return ["-m", "demo", "--llm", llm, "--library", build(release)]
