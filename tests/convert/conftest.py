"""The converter that the tests share, made once and kept outside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlm.convert.environment import Converter, setup
from vlm.errors import ConverterError


@pytest.fixture(scope="session")
def converter() -> Converter:
    """The real one; making it loads 400 MB the first time."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        return setup(base / "rkvlm-tests" / "converter")
    except ConverterError as exc:
        if os.environ.get("RKVLM_CONVERTER") == "required":
            raise
        pytest.skip(f"the converter cannot be had here: {exc}")
