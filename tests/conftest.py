"""What tests of several rooms share: the demo model opened once, settings of nobody, the vendor's converter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlm
from vlm.convert.environment import Converter, setup
from vlm.errors import ConverterError


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


@pytest.fixture(scope="session")
def real_converter() -> Converter:
    """rknn-toolkit2 itself, kept between runs outside the checkout; making it loads 400 MB the first time."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        return setup(base / "rkvlm-tests" / "converter")
    except ConverterError as exc:
        if os.environ.get("RKVLM_CONVERTER") == "required":
            raise
        pytest.skip(f"the converter cannot be had here, so that nothing was built with it: {exc}")
