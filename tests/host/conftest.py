from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny_model
from rig import Rig


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: what it says depends on every earlier token."""
    return tiny_model.build(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def alphabet_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After any letter comes the next one; after z the end."""
    successors = {ord("a") + i: ord("a") + i + 1 for i in range(25)}
    return tiny_model.build(tmp_path_factory.mktemp("models") / "alphabet", tiny_model.chain_spec(successors))


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    """Makes rigs; each is closed after the test."""
    made: list[Rig] = []

    def make(*args: Any, **settings: Any) -> Rig:
        made.append(Rig(*args, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
