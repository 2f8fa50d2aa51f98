"""The sample pictures and what is in each."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "samples" / "pictures"
TRUTH: dict[str, str] = json.loads((PICTURES / "truth.json").read_text())
