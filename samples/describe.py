"""One picture, one question, one answer."""

from pathlib import Path

import vlm

PICTURES = Path(__file__).parent / "pictures"

print(vlm.describe(PICTURES / "night.jpg", "How many stars are there?"))
