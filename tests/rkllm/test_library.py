"""Finding, recognising and refusing library files, before anything of them is run."""

from __future__ import annotations

import platform
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from backends import Backend
from standin import StandIn, build

from vlm import errors
from vlm.errors import (
    LibraryError,
    LibraryNotFoundError,
    LibrarySymbolError,
    NotSupportedByRuntime,
    UnknownReleaseError,
)
from vlm.rkllm.abi import RELEASES
from vlm.rkllm.library import open_library

Built = Callable[[str], StandIn]


def test_the_release_is_read_from_the_file(standin: Backend, built: Built) -> None:
    assert standin.library.origin == str(standin.standin.path)
    assert standin.standin.path.as_posix().endswith("librkllmrt.so")
    assert built(standin.library.release).path == standin.standin.path  # the one built for that release
    assert standin.library.abi.release == standin.library.release
    assert standin.library.drain_messages() == []
    assert standin.library.set_seed is None


def test_functions_have_types_or_say_what_they_need(standin: Backend) -> None:
    functions, abi = standin.library.functions, standin.library.abi
    for name, signature in abi.signatures.items():
        function = getattr(functions, name)
        assert (function.restype, tuple(function.argtypes)) == signature
    if "rkllm_clear_kv_cache" not in functions:
        with pytest.raises(NotSupportedByRuntime, match=r"rkllm_clear_kv_cache .* 1\.1\.4; it needs 1\.2\.0 or newer"):
            _ = functions.rkllm_clear_kv_cache
    with pytest.raises(AttributeError):
        _ = functions.rkllm_tokenize


def copy(built: Built, release: str, folder: Path, old: bytes = b"", new: bytes = b"") -> Path:
    """A copy of a stand-in of its own, with some bytes changed."""
    folder.mkdir(exist_ok=True)
    data = built(release).path.read_bytes()
    assert old in data
    target = folder / "librkllmrt.so"
    target.write_bytes(data.replace(old, new))
    return target


def version(release: str) -> bytes:
    return f"(version: {release} |".encode()


def test_a_directory_the_loader_s_paths_and_a_search_list(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = copy(built, "1.2.3", tmp_path / "a")
    other = copy(built, "1.3.0", tmp_path / "b")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert open_library(file.parent).origin == str(file)
    assert open_library(search=[tmp_path / "none", file.parent]).origin == str(file)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(other.parent))
    assert open_library(search=[file.parent]).origin == str(other)  # the loader's own places come first
    assert open_library(file, search=[other.parent]).origin == str(file)


def test_no_library_names_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with pytest.raises(LibraryNotFoundError, match=re.escape(str(tmp_path)) + ".*VLM_RKLLM_LIB"):
        open_library(search=[tmp_path])
    with pytest.raises(LibraryNotFoundError, match=r"no library at .*gone\.so"):
        open_library(tmp_path / "gone.so")


def test_releases_that_are_not_known(built: Built, tmp_path: Path) -> None:
    later = copy(built, "1.2.3", tmp_path / "later", version("1.2.3"), version("1.9.9"))
    with pytest.raises(UnknownReleaseError, match=r"release 1\.9\.9.*Known: 1\.1\.4, .*VLM_RKLLM_RELEASE"):
        open_library(later)
    assert open_library(later, release="1.2.3").release == "1.2.3"
    silent = copy(built, "1.2.3", tmp_path / "silent", b"RKLLM SDK (version", b"RKLLM xxx (version")
    with pytest.raises(UnknownReleaseError, match="does not say its release"):
        open_library(silent)
    assert open_library(silent, release="1.2.2").release == "1.2.2"
    with pytest.raises(UnknownReleaseError, match=r"'2\.0\.0'"):
        open_library(silent, release="2.0.0")
    both = copy(built, "1.2.3", tmp_path / "both")
    both.write_bytes(both.read_bytes() + b"RKLLM SDK (version: 1.3.0 |")
    with pytest.raises(UnknownReleaseError, match=r"several releases: 1\.2\.3, 1\.3\.0"):
        open_library(both)


def test_the_setting_wins_and_is_checked_against_the_functions(
    built: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = copy(built, "1.2.3", tmp_path / "x")
    assert open_library(file, release="1.3.0").release == "1.3.0"  # the same functions: nothing tells them apart
    assert "says it is release 1.2.3; 1.3.0 was asked for" in caplog.text
    with pytest.raises(LibrarySymbolError, match=r"has rkllm_get_kv_cache_size, .*came with 1\.2\.1"):
        open_library(file, release="1.2.0")
    with pytest.raises(LibrarySymbolError, match=r"taken for release 1\.2\.3, and lacks rkllm_get_kv_cache_size"):
        open_library(copy(built, "1.2.0", tmp_path / "y"), release="1.2.3")


CHILD = """
import sys
from vlm.errors import RkvlmError
from vlm.rkllm.library import open_library
try:
    open_library(sys.argv[1])
except RkvlmError as exc:
    print(type(exc).__name__, exc)
    sys.exit(exc.exit_code)
"""


def in_a_child(file: Path) -> str:
    """Open in a process of its own, where a crash is seen as such. Returns the error's name and text."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(file)], capture_output=True, text=True, check=False)
    kind = getattr(errors, done.stdout.partition(" ")[0], None)
    assert kind is not None, (done.returncode, done.stderr)
    assert done.returncode == kind.exit_code
    return done.stdout


def test_files_that_are_no_library_do_not_crash(built: Built, tmp_path: Path) -> None:
    whole = built("1.2.3").path.read_bytes()
    machine = {"x86_64": 183, "aarch64": 62}[platform.machine()]
    other = struct.pack("<H", machine)
    cases = {
        "garbage.so": (b"RKLLM SDK (version: 1.2.3 )" * 99, "not a shared library"),
        "pointer.so": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        "empty.so": (b"", "not a shared library"),
        "short.so": (whole[:8000], "cut short"),
        "header.so": (whole[:100], "cut short or damaged"),
        "machine.so": (whole[:18] + other + whole[20:], "built for (aarch64|x86-64), and this is"),
        "bits.so": (whole[:4] + b"\x01" + whole[5:], "not a 64-bit"),
        "object.so": (whole[:16] + b"\x01\x00" + whole[18:], "not a shared library"),
    }
    for name, (data, match) in cases.items():
        file = tmp_path / name
        file.write_bytes(data)
        kind = "LibraryMachineError" if name == "machine.so" else "LibraryFormatError"
        assert re.match(f"{kind} .*{match}", in_a_child(file)), name


def test_every_kind_of_wrong_library_has_an_exit_code_of_its_own() -> None:
    kinds = LibraryError.__subclasses__()
    assert len({kind.exit_code for kind in kinds}) == len(kinds) >= 5


def test_an_unknown_release_is_refused_in_a_child_too(built: Built, tmp_path: Path) -> None:
    file = tmp_path / "librkllmrt.so"
    file.write_bytes(built("1.2.3").path.read_bytes().replace(b"(version: 1.2.3", b"(version: 9.2.3"))
    assert in_a_child(file).startswith("UnknownReleaseError")


def test_a_library_without_the_functions_and_one_without_its_dependency(tmp_path: Path) -> None:
    other = build("1.2.3", source="other.c")
    assert "LibrarySymbolError" in in_a_child(other)
    assert "lacks rkllm_createDefaultParam, rkllm_init" in in_a_child(other)
    needy = tmp_path / "librkllmrt.so"
    needy.write_bytes(other.read_bytes().replace(b"libc.so.6", b"libq.so.6"))
    said = in_a_child(needy)
    assert "LibraryFormatError The loader refused" in said
    assert "libq.so.6" in said


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_is_told_in_a_child_too(built: Built, release: str) -> None:
    code = f"from vlm.rkllm.library import open_library; print(open_library({str(built(release).path)!r}).release)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == release


def test_importing_the_binding_loads_nothing() -> None:
    code = (
        "import sys, vlm.rkllm.model; print(sorted(m for m in sys.modules if m.split('.')[0] in "
        "('encoders', 'onnxruntime', 'cv2', 'PIL')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['encoders', 'encoders.errors']"
