"""What the tests of the surfaces share: the demo model opened once, and settings of nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlm


@pytest.fixture(scope="session")
def demo() -> Iterator[vlm.VLM]:
    """The demo model, open for the whole session."""
    with vlm.load("demo") as model:
        yield model


@pytest.fixture
def clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No VLM_* and no vlm.toml of the machine's own; models are looked for in an empty place."""
    for name in [name for name in os.environ if name.startswith("VLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLM_CONFIG", os.devnull)
    monkeypatch.setenv("VLM_MODELS_DIR", str(tmp_path / "models"))
