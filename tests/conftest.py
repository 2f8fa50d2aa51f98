"""What the tests of the surfaces share: the sample pictures, and the demo model opened once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlm

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "samples" / "pictures"
TRUTH: dict[str, str] = json.loads((PICTURES / "truth.json").read_text())


@pytest.fixture(scope="session")
def demo() -> Iterator[vlm.VLM]:
    """The demo model, open for the whole session."""
    with vlm.load("demo") as model:
        yield model


@pytest.fixture
def clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No VLM_* of the machine's own; models are looked for in an empty place."""
    import os

    for name in [name for name in os.environ if name.startswith("VLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLM_MODELS_DIR", str(tmp_path / "models"))
