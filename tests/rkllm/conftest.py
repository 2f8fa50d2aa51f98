"""The table of runtimes that the binding is tested over: every test that takes `backend` runs over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backends import Backend, StandIn, c_backend, finish, host_backend
from standin import build

from vlm.rkllm.abi import RELEASES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        names = [f"{kind}-{release}" for kind in ("c", "host") for release in RELEASES]
        metafunc.parametrize("backend", names, indirect=True)
    if "standin" in metafunc.fixturenames:
        metafunc.parametrize("standin", RELEASES, indirect=True)


@pytest.fixture(scope="session")
def built() -> Callable[[str], StandIn]:
    made: dict[str, StandIn] = {}

    def get(release: str) -> StandIn:
        if release not in made:
            made[release] = StandIn(build(release))
        return made[release]

    return get


@pytest.fixture
def standin(request: pytest.FixtureRequest, built: Callable[[str], StandIn], tmp_path: Path) -> Iterator[Backend]:
    """The stand-in of one release, with a model file; it must see no rule of the interface broken."""
    backend = c_backend(built(request.param), tmp_path)
    yield backend
    finish(backend)


@pytest.fixture
def backend(request: pytest.FixtureRequest, built: Callable[[str], StandIn], tmp_path: Path) -> Iterator[Backend]:
    kind, _, release = request.param.partition("-")
    made = c_backend(built(release), tmp_path) if kind == "c" else host_backend(release)
    yield made
    finish(made)
