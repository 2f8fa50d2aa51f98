"""An engine over the compiled stand-in, which must leave neither a process, a thread nor a file behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_rig import is_gone, open_files, standin_choice, wait_until

import vlm


@pytest.fixture(autouse=True)
def _own_settings(clean_settings: None) -> None:
    """The child reads the environment too."""


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Callable[..., vlm.Engine]]:
    """Starts engines: words for the model's path, and limits by name. All are closed at the end."""
    before = threading.active_count(), open_files()
    engines: list[vlm.Engine] = []

    def start(words: str = "", *, ready: bool = True, **limits: Any) -> vlm.Engine:
        engine = vlm.Engine(standin_choice(tmp_path, words), vlm.EngineLimits(**limits))
        engines.append(engine)
        engine.start()
        if ready:
            engine.wait_ready()
        return engine

    yield start
    pids = [engine.health().pid for engine in engines]
    for engine in engines:
        engine.close(0)
    assert all(is_gone(pid) for pid in pids if pid is not None)
    wait_until(lambda: (threading.active_count(), open_files()) == before, "the end of the engine's threads and files")
