"""The converter's own environment: rknn-toolkit2 and what it needs, in a directory apart from everything else.

rknn-toolkit2's metadata pins packages (torch up to 2.4, opencv-python) that it works without; it is installed with no
dependencies beside those below, which were tried with it. The vendor's wheels end at CPython 3.12.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from vlm.errors import ConversionError, ConverterError, OptionError
from vlm.settings import load_settings

TOOLKIT: Final = "rknn-toolkit2==2.5.0"
REQUIREMENTS: Final = (
    "numpy==1.26.4",
    "onnx==1.18.*",
    "protobuf==4.25.*",
    "setuptools<81",  # the last with pkg_resources, which the toolkit imports
    "onnxruntime",
    "scipy",
    "psutil",
    "ruamel.yaml",
    "tqdm",
    "fast-histogram",
    "opencv-python-headless",
    "transformers>=5.20",
    "onnx-ir",  # for int4
    "pillow",
)
# By machine. The "+cpu" keeps pip from taking the build for CUDA, several gigabytes, where it finds no other; builds
# for aarch64 have no such suffix.
TORCH: Final = {"x86_64": "torch==2.13.0+cpu", "aarch64": "torch==2.13.0"}
PYTHONS: Final = ((3, 10), (3, 11), (3, 12))
ABOUT = "rkvlm-converter.json"
PROMPT = "rkvlm-converter"
LOG = "setup.log"
LOG_OF_WORKER = "worker.log"

_CHECK = """
import json, torch, onnx, onnxruntime, transformers
from importlib.metadata import version
from rknn.api import RKNN
print(json.dumps({"toolkit": version("rknn-toolkit2"), "torch": torch.__version__, "cuda": torch.version.cuda}))
"""


@dataclass(frozen=True)
class Converter:
    """A converter that is ready. Made by `setup` and `open_converter`.

    toolkit, torch: their versions. cuda: the CUDA release that torch was built for, or None for the CPU-only build.
    """

    directory: Path
    toolkit: str
    torch: str
    cuda: str | None

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return _python_of(self.directory)

    def run(self, worker: Path, job: dict[str, Any], folder: Path, **options: Any) -> dict[str, Any]:
        """Run a worker script in it: see `run_worker`."""
        return run_worker(self.python, worker, job, folder, **options)


def run_worker(
    python: Path,
    worker: Path,
    job: dict[str, Any],
    folder: Path,
    *,
    log: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run a worker script on a job with some Python, and return its reply.

    worker: a file that imports nothing of rkvlm; it reads the job from the JSON file it is given, writes its reply to
    the job's "reply", and exits with 0. folder: for those two files, and for worker.log, where what the vendor's tools
    print goes. log: where that is kept of a worker that fails. environment: variables besides this process's. Raises
    ConversionError with the worker's own reason, or the end of what was printed.
    """
    job_file, reply_file, printed = folder / "job.json", folder / "reply.json", folder / LOG_OF_WORKER
    job_file.write_text(json.dumps({**job, "reply": str(reply_file)}), encoding="utf-8")
    reply_file.unlink(missing_ok=True)
    with printed.open("wb") as output:
        # A path is this process's own, while a bare name is looked for on the PATH; symbolic links make environments.
        program = python.absolute() if len(python.parts) > 1 else python
        command = [str(program), "-I", str(worker), str(job_file)]
        variables = {**os.environ, **environment}
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, env=variables, check=False
        )
    reply: dict[str, Any] = json.loads(reply_file.read_text(encoding="utf-8")) if reply_file.exists() else {}
    if done.returncode != 0 or "error" in reply:
        reason = reply.get("error") or _ended(done.returncode, printed)
        if log is not None:
            shutil.copyfile(printed, log)
            reason = f"{reason.rstrip('.')}. What was printed on the way is in {log}."
        raise ConversionError(reason)
    return reply


def open_converter(directory: Path | None = None) -> Converter:
    """The converter in `directory`, by default that of the settings.

    Raises ConverterError where there is none, or an incomplete or older one.
    """
    directory = _place(directory)
    about = _about(directory)
    if about is None or not _python_of(directory).exists():
        raise ConverterError(f"There is no converter in {directory}; make it with `vlm convert setup`.")
    if about.pop("requirements", None) != _wanted():
        raise ConverterError(
            f"The converter in {directory} was made by another version of rkvlm; bring it up to date with "
            "`vlm convert setup`."
        )
    return Converter(directory, **about)


def setup(
    directory: Path | None = None,
    *,
    python: str | None = None,
    torch: str | None = None,
    torch_index: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Converter:
    """Make the converter in `directory`, by default that of the settings, or complete it; a ready one is left alone.

    python: the interpreter to make it with, CPython 3.10 to 3.12; None takes this one, or finds one. torch: what pip is
    to install as PyTorch, by default a CPU-only build. torch_index: address of a package index that has it, besides
    those that pip is configured for. say: told each step. Another process that is at it is waited for. Raises
    ConverterError, and OptionError for a wrong python.
    """
    directory = _place(directory)
    ready = _ready(directory)
    if ready is not None:
        return ready
    machine = platform.machine()
    if sys.platform != "linux" or machine not in TORCH:
        raise ConverterError(
            f"rknn-toolkit2 runs on Linux on {' and '.join(TORCH)} only; this is {sys.platform} on {machine}. "
            "Convert on a PC, and copy the .rknn files to the board."
        )
    with _alone(directory, say):
        # Whoever was waited for has made it, or left off somewhere.
        return _ready(directory) or _complete(directory, python, torch or TORCH[machine], torch_index, say)


def _ready(directory: Path) -> Converter | None:
    try:
        return open_converter(directory)
    except ConverterError:
        return None


@contextmanager
def _alone(directory: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from working on a directory, once those that do have ended."""
    with ExitStack() as held:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(directory.with_name(f".{directory.name}.lock").open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another process, which makes this converter")
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as exc:
            raise ConverterError(f"{directory} cannot be made: {exc.strerror}.") from exc
        yield


def _complete(
    directory: Path, python: str | None, torch: str, torch_index: str | None, say: Callable[[str], None]
) -> Converter:
    """Do what is left to do."""
    _make(directory, python, say)
    log = directory / LOG
    log.unlink(missing_ok=True)
    say("PyTorch, CPU only (about 200 MB to load)")
    extra = ["--extra-index-url", torch_index] if torch_index else []
    try:
        _pip(directory, [*extra, torch], log)
    except ConverterError as exc:
        raise ConverterError(f"{exc} {_torch_advice(torch)}") from None
    say("what rknn-toolkit2 needs (about 150 MB)")
    _pip(directory, REQUIREMENTS, log)
    say("rknn-toolkit2 (about 40 MB)")
    _pip(directory, ["--no-deps", TOOLKIT], log)
    say("a look whether it works")
    about = _try_out(directory)
    (directory / ABOUT).write_text(json.dumps({**about, "requirements": _wanted()}, indent=2) + "\n", encoding="utf-8")
    return open_converter(directory)


def _place(directory: Path | None) -> Path:
    return (directory or load_settings().converter_dir).expanduser().absolute()


def _wanted() -> list[str]:
    return [*REQUIREMENTS, TOOLKIT]


def _about(directory: Path) -> dict[str, Any] | None:
    try:
        about = json.loads((directory / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def _python_of(directory: Path) -> Path:
    return directory / "bin" / "python"


def _make(directory: Path, python: str | None, say: Callable[[str], None]) -> None:
    """An empty virtual environment; one of an earlier, interrupted setup is gone on with."""
    settings = directory / "pyvenv.cfg"
    if settings.exists() and PROMPT in settings.read_text(encoding="utf-8"):
        if _version_of(str(_python_of(directory))) in PYTHONS and python is None:
            return
        shutil.rmtree(directory)
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConverterError(
            f"{directory} is there already, and is not a converter of rkvlm's. Name another place with --dir."
        )
    chosen = _choose_python(python)
    say(f"an environment for {chosen}")
    try:
        command = [chosen, "-m", "venv", "--prompt", PROMPT, str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise ConverterError(f"{directory} cannot be made: {exc.strerror}.") from exc
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        shutil.rmtree(directory, ignore_errors=True)
        raise ConverterError(
            f"{chosen} cannot make an environment in {directory}: {said[-400:]} On Debian and Ubuntu, it needs the "
            "package python3-venv."
        )


def _choose_python(given: str | None) -> str:
    """An interpreter that the vendor has wheels for."""
    if given is not None:
        version = _version_of(given)
        if version not in PYTHONS:
            has = "cannot be run" if version is None else f"is Python {_dotted(version)}"
            raise OptionError(f"rknn-toolkit2 needs Python 3.10, 3.11 or 3.12; {given} {has}.")
        return given
    found = next((python for python in _candidates() if _version_of(python) in PYTHONS), None)
    if found is None:
        raise ConverterError(
            "rknn-toolkit2 needs Python 3.10, 3.11 or 3.12 (the vendor has no wheels for later ones); this is Python "
            f"{_dotted(sys.version_info[:2])}, and no other was found. Install one, or say where it is with --python."
        )
    return found


def _candidates() -> Iterator[str]:
    yield sys.executable
    for major, minor in reversed(PYTHONS):
        found = shutil.which(f"python{major}.{minor}")
        if found:
            yield found


def _version_of(python: str) -> tuple[int, int] | None:
    """The version of an interpreter, or None for what is none."""
    command = [python, "-I", "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _pip(directory: Path, words: Sequence[str], log: Path) -> None:
    """Install packages into the environment, as pip is configured. Raises ConverterError with pip's own reason."""
    command = [str(_python_of(directory)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *words]
    with log.open("ab") as output:
        start = output.tell()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        said = log.read_bytes()[start:].decode("utf-8", "replace")
        raise ConverterError(
            f"pip could not install {' '.join(words)}: {_pip_says(said)} (its whole log: {log}). Once it can, "
            "run `vlm convert setup` again: it goes on from there."
        )


def _pip_says(output: str) -> str:
    """What pip says went wrong: the last connection that broke, and its errors without lists of versions."""
    lines = output.splitlines()
    broken = [line for line in lines if line.startswith("WARNING: Retrying")][-1:]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-3:]
    return re.sub(r" \(from versions: \d[^)]*\)", "", " ".join([*broken, *errors]))[:800]


def _torch_advice(wanted: str) -> str:
    return (
        f"What was wanted is {wanted}: a CPU-only build, so that nobody loads gigabytes of CUDA unasked. PyTorch has a "
        "package index of its own for these (its installation page names it, under CPU): give it with --torch-index, "
        "or a wheel that you have with --torch FILE; `--torch torch` takes whatever pip finds."
    )


def _try_out(directory: Path) -> dict[str, Any]:
    command = [str(_python_of(directory)), "-I", "-W", "ignore", "-c", _CHECK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ConverterError(
            f"What was installed in {directory} does not work: {last}. Remove it, and run `vlm convert setup` again."
        )
    about: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return about


def _ended(code: int, log: Path) -> str:
    """How a worker ended that did not say so itself, in words."""
    how = f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
    if code == -9:
        how += ", as when memory runs out"
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    last = " | ".join([line for line in lines if line][-3:]) or "nothing"
    return f"The worker {how}; the last it said: {last}"
