"""What the tests of the service share: the demo model served, and the stand-in at two releases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from service_rig import Served, serve, standin_words

if TYPE_CHECKING:
    from page_rig import Visit
    from playwright.sync_api import Browser

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
    with serve(*standin_words(tmp_path_factory.mktemp("model"), request.param), "--max-new-tokens", 1500) as served:
        yield served.ready()


@pytest.fixture(scope="session")
def slow_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The stand-in, which tells as slowly as it is asked to; one question at a time, and only with the key."""
    from page_rig import KEY

    key = f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"
    words = standin_words(tmp_path_factory.mktemp("model"), "1.3.0")
    with serve(*words, "--in-flight", "1", VLM_API_KEYS=key) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; closed with the module, because its event loop would be in the way of others."""
    from browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, demo_service: Served) -> Iterator[Visit]:
    """Opens the page of a service, the demo's unless another is named, in a browser context."""
    from page_rig import Visitor

    visitors: list[Visitor] = []

    def enter(served: Served = demo_service, **context: object) -> Visitor:
        visitors.append(Visitor(browser, served.url, **context))
        return visitors[-1]

    yield enter
    for visitor in visitors:
        visitor.close()
