"""The rig of the service's tests, which those of its deployment use too, and a wheel with all that it needs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_root import Root, Unavailable, archive, run
from sample_pictures import ROOT

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    place = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", place, ROOT)
    assert done.returncode == 0, done.stdout
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def wheels(wheel: Path) -> Path:
    """Wheels of all that it depends on, to build it too, for the Python of the Debian root."""
    try:
        made = archive()
    except Unavailable as exc:
        pytest.skip(f"no Debian root: {exc}")
    listing = run("tar", "-tf", made, "--wildcards", "./usr/bin/python3.*").stdout.split()
    version = min(listing, key=len).rpartition("python")[2]
    place = made.parent / f"wheels-{version}"
    target = ["--only-binary=:all:", f"--python-version={version}", f"--dest={place}"]
    download = run(sys.executable, "-m", "pip", "--quiet", "download", *target, wheel, "hatchling>=1.25")
    if download.returncode:
        pytest.skip(f"no wheels for Python {version}: {download.stdout.strip()[-300:]}")
    for own in place.glob("rkvlm-*.whl"):
        own.unlink()
    return place


@pytest.fixture
def debian(tmp_path: Path, wheels: Path) -> Iterator[Root]:
    """A fresh Debian, with deploy/ and the wheel's dependencies in it."""
    root = Root(tmp_path / "debian", wheels)
    shutil.copytree(ROOT / "deploy", root.place / "root" / "deploy")
    yield root
    root.remove()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first in PATH, for programs that a test makes."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place
