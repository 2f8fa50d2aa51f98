"""`vlm convert setup`: pip for real, on stand-in wheels; and everything that can be in its way."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import wheels

from vlm.convert import environment
from vlm.convert.environment import Converter, open_converter, setup
from vlm.errors import ConversionError, ConverterError, OptionError


def interpreter(path: Path, answer: str) -> Path:
    """Something that says what version of Python it is."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return path


def test_a_converter_is_made_and_then_left_alone(converter: Converter) -> None:
    """The toolkit's stand-in pins a PyTorch that is not there: it is installed without what its metadata asks for."""
    assert (converter.toolkit, converter.torch, converter.cuda) == ("2.5.0", "2.13.0+cpu", None)
    said: list[str] = []
    before = (converter.directory / environment.ABOUT).stat().st_mtime_ns
    assert setup(converter.directory, say=said.append) == converter == open_converter(converter.directory)
    assert (said, (converter.directory / environment.ABOUT).stat().st_mtime_ns) == ([], before)


def test_an_interrupted_setup_is_completed(
    wheel_folder: Path, tmp_path: Path, pip_finds: Callable[[Path], None], run: Callable[..., tuple[int, str, str]]
) -> None:
    """In three commands: no PyTorch to be had, then no tqdm, then all there; and a build for CUDA is named as one."""
    folder, place = tmp_path / "wheels", tmp_path / "converter"
    shutil.copytree(wheel_folder, folder)
    tqdm = next(folder.glob("tqdm-*"))
    for gone in (tqdm, next(folder.glob("torch-*"))):
        gone.rename(gone.with_suffix(".away"))
    pip_finds(folder)
    code, _, said = run("convert", "setup", "--dir", place)
    assert code == ConverterError.exit_code
    for word in ("+cpu", "--torch-index", "gigabytes of CUDA", str(place / "setup.log")):
        assert word in said

    wheels.write_torch(folder, "2.13.0", "12.8")
    (place / "a-mark").touch()
    code, _, said = run("convert", "setup", "--dir", place, "--torch", "torch")
    assert code == ConverterError.exit_code
    assert "tqdm" in said
    assert "No matching distribution" in said
    with pytest.raises(ConverterError, match="vlm convert setup"):
        open_converter(place)

    tqdm.with_suffix(".away").rename(tqdm)
    code, out, said = run("convert", "setup", "--dir", place, "--torch", "torch")
    assert (code, (place / "a-mark").exists()) == (0, True)
    assert "rknn-toolkit2 2.5.0" in out
    assert "CUDA 12.8, which is not needed" in out
    assert "PyTorch" in said


def test_two_at_once_are_kept_apart(wheel_folder: Path, tmp_path: Path, pip_finds: Callable[[Path], None]) -> None:
    """The second waits, says so once, and finds the work done."""
    place = tmp_path / "new" / "converter"
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "convert", "setup", "--dir"]
    words = [*command, str(place), "--torch", "torch==2.13.0+cpu"]
    pip_finds(wheel_folder)
    with ExitStack() as started:

        def start() -> subprocess.Popen[str]:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            return started.enter_context(subprocess.Popen(words, text=True, **pipes))

        first = start()
        while not (place / "pyvenv.cfg").exists():
            assert first.poll() is None
            time.sleep(0.01)
        second = start()
        (out, steps), (out2, said) = first.communicate(timeout=120), second.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), (steps, said)
    assert out == out2
    assert "is ready: rknn-toolkit2 2.5.0" in out
    assert "waiting" not in steps
    assert said == "- waiting for another process, which makes this converter\n"


def test_what_does_not_work_is_not_taken_for_ready(
    wheel_folder: Path, tmp_path: Path, pip_finds: Callable[[Path], None]
) -> None:
    folder, place = tmp_path / "wheels", tmp_path / "converter"
    shutil.copytree(wheel_folder, folder)
    wheels.write(folder, "rknn-toolkit2", "2.5.0", {"rknn/api.py": "raise ImportError('libGL.so.1 is missing')"})
    pip_finds(folder)
    with pytest.raises(ConverterError, match=r"libGL\.so\.1 is missing"):
        setup(place, torch="torch==2.13.0+cpu")
    with pytest.raises(ConverterError, match="no converter"):
        open_converter(place)


def test_a_converter_of_another_version_is_brought_up_to_date(converter: Converter, tmp_path: Path) -> None:
    about = json.loads((converter.directory / environment.ABOUT).read_text())
    (tmp_path / "bin").symlink_to(converter.directory / "bin")
    (tmp_path / environment.ABOUT).write_text(json.dumps({**about, "requirements": ["rknn-toolkit2==2.3.2"]}))
    with pytest.raises(ConverterError, match="another version of rkvlm"):
        open_converter(tmp_path)
    (tmp_path / environment.ABOUT).write_text("{")
    with pytest.raises(ConverterError, match="no converter"):
        open_converter(tmp_path)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("echo 3 13", "3.10, 3.11 or 3.12; .*is Python 3.13"),
        ("exit 127", "cannot be run"),
        ("echo hello", "cannot be run"),
    ],
)
def test_a_python_that_the_vendor_has_no_wheels_for(tmp_path: Path, answer: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        setup(tmp_path / "made", python=str(interpreter(tmp_path / "python", answer)))
    with pytest.raises(OptionError, match="cannot be run"):
        setup(tmp_path / "made", python=str(tmp_path / "gone"))
    assert not (tmp_path / "made").exists()


def test_another_python_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this one is too new. One on the PATH that does not run, as version managers leave them, is passed."""
    programs = tmp_path / "programs"
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(sys, "executable", str(interpreter(programs / "python3.13", "echo 3 13")))
    interpreter(programs / "python3.12", "exit 127")
    with pytest.raises(ConverterError, match=r"needs Python 3\.10, 3\.11 or 3\.12 .*--python"):
        setup(tmp_path / "made")
    interpreter(
        programs / "python3.10", 'case "$*" in *venv*) echo "ensurepip is not available"; exit 1;; esac; echo 3 10'
    )
    with pytest.raises(ConverterError, match=r"python3\.10 cannot make .*ensurepip is not available.*python3-venv"):
        setup(tmp_path / "made")


def test_a_directory_of_someone_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConverterError, match=r"not a converter of rkvlm's.*--dir"):
            setup(place)
    assert (tmp_path / "file").read_text() == "mine"


def test_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ConverterError, match="x86_64 and aarch64 only; this is linux on riscv64"):
        setup(tmp_path / "made")


def test_the_setting_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_CONVERTER_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(ConversionError, match=str(tmp_path / "elsewhere")):
        open_converter()
