"""Every command here starts without the machine's own settings."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _settings(clean_settings: None) -> None:
    """No VLM_* of the machine's own."""
