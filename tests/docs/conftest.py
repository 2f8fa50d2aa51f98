"""What the tests of the documentation share: a desk for each block, models, a hub and a service."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import MODEL, make_conversion, make_desk, make_models
from sample_pictures import ROOT

from vlm.convert.environment import Converter
from vlm.profile import load_profile

sys.path.insert(0, str(ROOT / "tests" / "pull"))
sys.path.insert(0, str(ROOT / "tests" / "server"))

from hub import Hub, serving
from service_rig import Served, serve


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """A hub with MODEL's files, for `vlm pull`."""
    source = load_profile(MODEL).hub
    assert source is not None
    with serving(Hub({source.repo: {name: name.encode() * 500 for name in source.files}})) as made:
        yield made


@pytest.fixture(scope="session")
def service() -> Iterator[Served]:
    """The demo model, served for the whole session."""
    with serve("--model", "demo", "--allow-urls") as served:
        yield served.ready()


@pytest.fixture(scope="session")
def conversion(real_converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of its authors, and what is exported of it."""
    return make_conversion(tmp_path_factory.mktemp("conversion"), real_converter)


@pytest.fixture
def desk(tmp_path: Path, models: Path, hub: Hub, clean_settings: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desk of its own for one block, with the settings of a reader who has set none."""
    made = make_desk(tmp_path / "desk")
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(models)
    shared = tmp_path / "models"
    shared.mkdir()
    (shared / MODEL).symlink_to(models / MODEL)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    monkeypatch.setenv("HOME", str(home))
    return made
