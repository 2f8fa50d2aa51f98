"""On the board's architecture: struct layouts, the contract suite over compiled libraries, and the demo, under qemu.

What these do not show: anything of the NPU, its driver or the vendor's runtime. Where the root cannot be had they are
skipped, saying why; with RKVLM_BOARD_ROOT=required they fail instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from make_root import CHECKOUT, Root, Unavailable, open_root
from rehearse import unpacked_wheel

from vlm.rkllm.abi import RELEASES

sys.path.insert(0, str(CHECKOUT / "tests" / "native"))
from standin import build

PICTURES = CHECKOUT / "samples" / "pictures"
TARGET = "aarch64-linux-gnu.2.28"
# The only tests of the contract that a compiled library has to skip.
NOT_FOR_C = {"test_a_model_that_is_none", "test_history_fills_the_cache_and_clearing_empties_it[c-1.1.4]"}
NOT_FOR_C |= {f"test_history_fills_the_cache_and_clearing_empties_it[c-{release}]" for release in ("1.2.0", "1.2.1b1")}
# qemu 7.2 keeps a quarter of a megabyte for each thread that has ended, whoever started it.
GROWS = "tests/rkllm/test_stress.py::test_memory_does_not_grow_with_runs_or_models"

pytestmark = pytest.mark.timeout(3600)


class Board:
    """The root's Python, and the stand-ins compiled for it."""

    def __init__(self, root: Root, folder: Path) -> None:
        self.root = root
        self.python = root.interpreter()
        self._libraries = folder / "libraries"
        self._folder = folder

    def libraries(self) -> Path:
        """A directory with RELEASE/librkllmrt.so for each release, whose layouts zig asserted for aarch64."""
        for release in RELEASES:
            place = self._libraries / release
            if not place.exists():
                place.mkdir(parents=True)
                (place / "librkllmrt.so").symlink_to(build(release, TARGET))
        other = self._libraries / "1.2.3" / "other.so"
        if not other.exists():
            other.symlink_to(build("1.2.3", TARGET, "other.c"))
        return self._libraries

    def run(self, *words: object, cwd: Path = CHECKOUT, **settings: str) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "CI": "1",  # Hypothesis then sets no deadlines and keeps no database
            "PYTHONPYCACHEPREFIX": str(self.root.home / "bytecode"),
            **settings,
        }
        command = [str(word) for word in (self.python, *words)]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=3600, check=False)

    def told(self, code: str, **settings: str) -> str:
        """What a piece of Python prints there."""
        done = self.run("-W", "error", "-c", code, cwd=CHECKOUT, **settings)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout.strip()

    def pytest(self, *words: str) -> tuple[set[str], set[str]]:
        """Run tests there. Which passed and which were skipped; that they are all that a PC collects, is asserted."""
        wanted = collected(*words)
        report = self._folder / "report.xml"
        quiet = ["-p", "no:cacheprovider", "--timeout=0", f"--basetemp={self._folder / 'tests'}"]
        done = self.run("-m", "pytest", *quiet, f"--junitxml={report}", *words, RKVLM_STANDINS=str(self.libraries()))
        assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
        passed: set[str] = set()
        skipped: set[str] = set()
        for case in ET.parse(report).iter("testcase"):
            name = f"{case.attrib['classname']}.{case.attrib['name']}"
            (passed if case.find("skipped") is None else skipped).add(name)
        assert passed | skipped == wanted
        return passed, skipped


def collected(*words: str) -> set[str]:
    """The tests that the pytest of this machine would run, named as in a report: tests.rkllm.test_abi.test_x[1.2.3]."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *words]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    names = set()
    for line in done.stdout.splitlines():
        place, bracket, rest = line.partition("[")
        if "::" in place:
            names.add(place.replace(".py::", ".").replace("::", ".").replace("/", ".") + bracket + rest)
    return names


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    try:
        return Board(open_root(), tmp_path_factory.mktemp("board"))
    except Unavailable as exc:
        if os.environ.get("RKVLM_BOARD_ROOT") == "required":
            raise
        pytest.skip(f"the aarch64 root cannot be had here: {exc}")


def test_the_root_is_what_it_says(board: Board) -> None:
    code = (
        "import ctypes, json, platform, sys, numpy;"
        "print(json.dumps([platform.machine(), '%d.%d' % sys.version_info[:2], platform.libc_ver()[1],"
        "                  ctypes.sizeof(ctypes.c_void_p), numpy.__file__, sys.path[1:]]))"
    )
    machine, python, glibc, pointer, numpy, path = json.loads(board.told(code))
    assert (machine, python, glibc, pointer) == ("aarch64", board.root.python, board.root.glibc, 8)
    assert all(Path(place).is_relative_to(board.root.home) for place in [numpy, *path])  # none of this machine's own


def test_layouts_and_the_contract_of_every_release(board: Board) -> None:
    layouts, contract = "tests.rkllm.test_abi", "tests.rkllm.test_contract"
    by_c = " or ".join(["test_abi", *(f"c-{release}" for release in RELEASES)])
    passed, skipped = board.pytest("tests/rkllm/test_abi.py", "tests/rkllm/test_contract.py", "-k", by_c)
    for release in RELEASES:
        assert f"{layouts}.test_structs_equal_the_recorded_layout[{release}]" in passed
        assert f"{contract}.test_embeddings_and_tokens_as_input[c-{release}]" in passed
    assert {name for name in skipped if not name.startswith(tuple(f"{contract}.{one}" for one in NOT_FOR_C))} == set()


def test_a_library_of_another_machine_is_refused(board: Board) -> None:
    library = build("1.2.3", "x86_64-linux-gnu.2.28")
    code = (
        "from vlm.errors import LibraryMachineError\nfrom vlm.rkllm.library import open_library\n"
        f"try:\n    open_library({str(library)!r})\nexcept LibraryMachineError as exc:\n    print(exc)"
    )
    assert "is built for x86-64, and this is aarch64" in board.told(code)


@pytest.mark.slow
def test_all_tests_of_the_binding(board: Board) -> None:
    """With the host runtime on ONNX Runtime too, with child processes, and with the runs under stress."""
    passed, _ = board.pytest("tests/rkllm", f"--deselect={GROWS}")
    assert "tests.rkllm.test_contract.test_several_images[host-1.3.0]" in passed
    assert "tests.rkllm.test_library.test_files_that_are_no_library_do_not_crash" in passed


@pytest.mark.slow
def test_all_tests_of_the_hand_off_and_the_pipeline(board: Board) -> None:
    passed, _ = board.pytest("tests/test_handoff.py", "tests/test_pipeline.py")
    assert "tests.test_handoff.test_the_address_in_the_struct_is_the_encoders_own_array[1.3.0]" in passed


@pytest.fixture(scope="session")
def installed(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked away from it."""
    return unpacked_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_dependencies_are_met(board: Board, installed: Path) -> None:
    """Asked of pip there, with the markers as they are there."""
    done = board.run("-m", "pip", "check", PYTHONPATH=str(installed), cwd=installed)
    assert (done.returncode, done.stdout) == (0, "No broken requirements found.\n")
    code = (
        "from importlib.metadata import requires, version\n"
        "from packaging.requirements import Requirement\n"
        "wanted = map(Requirement, requires('rkvlm'))\n"
        "wanted = [r for r in wanted if not r.marker or r.marker.evaluate({'extra': ''})]\n"
        "print(*sorted(r.name for r in wanted if r.specifier.contains(version(r.name))))"
    )
    met = board.told(code, PYTHONPATH=str(installed)).split()
    assert ("rknn-toolkit-lite2" in met) == (board.root.python in ("3.10", "3.11", "3.12"))
    assert {"numpy", "onnxruntime", "opencv-python-headless", "tokenizers"} < set(met)


def test_the_wheel_describes_a_picture(board: Board, installed: Path) -> None:
    truth = json.loads((PICTURES / "truth.json").read_text())
    command = ("-W", "error", "-c", "from vlm.cli import main; main()", "describe")
    done = board.run(
        *command, PICTURES / "traffic-light.jpg", "--model", "demo", PYTHONPATH=str(installed), cwd=installed
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, truth["traffic-light.jpg"] + "\n", "")
