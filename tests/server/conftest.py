"""What the tests of the service share: the demo model served, and the stand-in at two releases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from service_rig import Served, serve, standin_words

RELEASES = ("1.2.1", "1.3.0")


@pytest.fixture(autouse=True)
def _own_settings(clean_settings: None) -> None:
    """Nothing here depends on the machine's own settings."""


@pytest.fixture(scope="session")
def demo_service() -> Iterator[Served]:
    """The demo model, served for the whole session."""
    with serve("--model", "demo", "--allow-urls") as served:
        yield served.ready()


@pytest.fixture(scope="session", params=RELEASES)
def standin_service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo's encoder before a compiled stand-in for librkllmrt.so, served for the whole session."""
    with serve(*standin_words(tmp_path_factory.mktemp("model"), request.param)) as served:
        yield served.ready()
