"""What the tests of the converter share: one made of stand-in wheels, the command line in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import wheels

from vlm.cli import main
from vlm.convert.environment import Converter, setup

Run = Callable[..., tuple[int, str, str]]


def pip_settings(folder: Path) -> dict[str, str]:
    """Let pip look into one folder and nowhere else, whatever this machine's configuration says."""
    return {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


@pytest.fixture(scope="session")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every wheel that a converter needs, as stand-ins."""
    return wheels.write_all(tmp_path_factory.mktemp("wheels") / "all")


@pytest.fixture
def pip_finds(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Say where pip looks for packages."""

    def find(folder: Path) -> None:
        for name, value in pip_settings(folder).items():
            monkeypatch.setenv(name, value)

    return find


@pytest.fixture(scope="session")
def converter(wheel_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Converter:
    """A converter, made as a user makes it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pip_settings(wheel_folder).items():
            patch.setenv(name, value)
        return setup(tmp_path_factory.mktemp("converter") / "made", torch="torch==2.13.0+cpu")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`vlm WORDS`: the exit code, and what went to stdout and stderr."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command
