"""The board's architecture on a PC: Debian arm64 packages and aarch64 wheels, run by qemu's user emulation.

    python tests/board/make_root.py

prints the path of a `python` for aarch64 with the project's dependencies, made the first time it is asked for (about
170 MB of downloads). Nothing is installed on this machine, and neither root, nor chroot, nor binfmt is needed: all of
it lies in the tests' cache directory (`$XDG_CACHE_HOME/rkvlm-tests/board-...`) and may be deleted at any time. Its
Python is that of the Debian release that apt-get is configured for here, 3.11 on Debian 12; no other is tried by it.

What is emulated is a processor, not a board: there is no NPU, no driver and no vendor's runtime in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("python3", "libstdc++6")
# The least of the cores in the chips that rkvlm is for (RK3562, RV1126B): code for a newer one stops here.
CPU, CPU_PART = "cortex-a53", "0xd03"
CPU_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis", "psutil")
DOWNLOAD_S = 900
KEPT_DAYS = 14


class Unavailable(Exception):
    """The root cannot be had on this machine now; says why (no apt-get, no network, no arm64 packages...)."""


@dataclass(frozen=True)
class Root:
    """Debian arm64 packages, unpacked, and what runs their programs."""

    home: Path
    qemu: Path
    python: str  # "3.11"
    packages: dict[str, str] = field(repr=False)  # name: version

    @property
    def files(self) -> Path:
        """Where the packages are unpacked: qemu looks there first for every absolute path."""
        return self.home / "root"

    @property
    def glibc(self) -> str:
        return self.packages["libc6"].partition("-")[0]

    def requirements(self) -> list[str]:
        """What pip has to install there: the project's dependencies, their markers read for aarch64, and test tools."""
        with (CHECKOUT / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)["project"]
        development = map(Requirement, project["optional-dependencies"]["dev"])
        wanted = [Requirement(line) for line in project["dependencies"]]
        wanted += [one for one in development if one.name in TEST_TOOLS]
        there = {
            "platform_machine": "aarch64",
            "platform_system": "Linux",
            "sys_platform": "linux",
            "python_version": self.python,
            "python_full_version": self.packages[f"python{self.python}"].partition("-")[0],
        }
        return ["pip", *sorted(f"{r.name}{r.specifier}" for r in wanted if not r.marker or r.marker.evaluate(there))]

    def interpreter(self) -> Path:
        """The `python` of a virtual environment with aarch64 wheels, made unless it is there.

        It runs like any other program, and as `sys.executable` in its own children too. Raises Unavailable when no
        package index can be reached, RuntimeError when one can and has no set of wheels that meets the requirements.
        """
        wanted = self.requirements()
        place = self.home / f"venv-{_short_hash(*wanted)}"
        with _alone(self.home.with_suffix(".lock")):
            if not place.exists():
                _forget(self.home, "venv-*")
                _make_environment(self, place, wanted)
        place.touch()
        return place / "bin" / "python"

    def wheel(self, requirement: str) -> Path:
        """A directory with one aarch64 wheel unpacked, without what it depends on: `name==version`. Raises likewise."""
        place = self.home / f"wheel-{requirement}"
        with _alone(self.home.with_suffix(".lock")):
            if not place.exists():
                _say(f"Fetching {requirement} for aarch64 ...")
                with _new(place) as work:
                    _install(self, work, ["--no-deps", requirement])
        return place

    def write_python(self, place: Path, files: Path) -> None:
        """A virtual environment's `bin/python` and `pyvenv.cfg` in `place`, to be run with `files` as the root."""
        (place / "pyvenv.cfg").write_text(
            # Without this, the Python would also take the packages of the machine that it is emulated on.
            f"home = {self.files}/usr/bin\ninclude-system-site-packages = false\nversion = {self.python}\n"
        )
        python = place / "bin" / "python"
        python.parent.mkdir(exist_ok=True)
        emulated = files / "usr" / "bin" / f"python{self.python}"
        words = shlex.join([str(self.qemu), "-cpu", CPU, "-L", str(files), "-0"])
        python.write_text(f'#!/bin/sh\nexec {words} "$0" {shlex.quote(str(emulated))} "$@"\n')
        python.chmod(0o755)


def open_root() -> Root:
    """The root, built unless it is there. Raises Unavailable."""
    qemu = _installed_qemu()
    inputs = (Path(__file__).read_text(), _suite(), platform.machine(), str(qemu))
    home = cache_directory() / f"board-{_short_hash(*inputs)}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with _alone(home.with_suffix(".lock")):
        if not home.exists():
            _forget(home.parent, "board-*/")
            with _new(home) as work:
                _build(work)
        found = json.loads((home / "packages.json").read_text())
        root = Root(home, qemu or home / "qemu-aarch64", found["python"], found["packages"])
        _write_cpuinfo(root.files)
    home.touch()
    return root


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rkvlm-tests"


def _build(work: Path) -> None:
    _say("Fetching Debian arm64 packages ...")
    packages = {}
    for deb in _debs("arm64", PACKAGES, work / "apt-arm64"):
        _run(["dpkg-deb", "-x", deb, work / "root"])
        name, version = _run(["dpkg-deb", "-W", "--showformat=${Package} ${Version}", deb]).split()
        packages[name] = version
    if _installed_qemu() is None:
        _say("Fetching qemu's user emulation ...")
        own = _run(["dpkg", "--print-architecture"]).strip()
        for deb in _debs(own, ("qemu-user-static",), work / "apt-own"):
            _run(["dpkg-deb", "-x", deb, work / "unpacked"])
        (work / "unpacked/usr/bin/qemu-aarch64-static").replace(work / "qemu-aarch64")
        shutil.rmtree(work / "unpacked")
        shutil.rmtree(work / "apt-own")
    shutil.rmtree(work / "apt-arm64")
    python = (work / "root/usr/bin/python3").readlink().name.removeprefix("python")
    (work / "packages.json").write_text(json.dumps({"python": python, "packages": packages}, indent=1))


def _debs(architecture: str, packages: Sequence[str], place: Path) -> list[Path]:
    """Download packages with all they depend on, with a state of apt's own: the system's is neither read nor written.

    Where packages come from, and how they are verified, is the system's own configuration.
    """
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True)
    (place / "state/status").touch()
    configuration = place / "apt.conf"
    configuration.write_text(
        f"""
        Dir::State "{place}/state"; Dir::State::lists "{place}/state/lists"; Dir::State::status "{place}/state/status";
        Dir::Cache "{place}/cache"; Dir::Cache::archives "{place}/cache/archives";
        #clear APT::Architectures;
        APT::Architecture "{architecture}"; APT::Architectures {{ "{architecture}"; }};
        // These would work on the system.
        #clear APT::Update::Pre-Invoke;
        #clear APT::Update::Post-Invoke;
        #clear APT::Update::Post-Invoke-Success;
        APT::Sandbox::User "root";
        Acquire::Languages "none"; Acquire::Retries "2";
        """
    )
    apt = ["apt-get", "-c", str(configuration), "-q", "-y"]
    # A source that cannot be had is a warning or an error; whether the packages can be had, the next step shows.
    said = _try([*apt, "update"]).stderr
    got = _try([*apt, "install", "--no-install-recommends", "--download-only", *packages])
    if got.returncode:
        raise Unavailable(
            f"apt-get has no {' and '.join(packages)} for {architecture} here: {_last(said)} {_last(got.stderr)}"
        )
    return sorted((place / "cache/archives").glob("*.deb"))


def _make_environment(root: Root, place: Path, wanted: Sequence[str]) -> None:
    _say(f"Fetching aarch64 wheels for Python {root.python} ...")
    with _new(place) as work:
        _install(root, work / "lib" / f"python{root.python}" / "site-packages", wanted)
        root.write_python(work, root.files)


def _install(root: Root, packages: Path, wanted: Sequence[str]) -> None:
    """Have pip unpack aarch64 wheels into a directory. Raises Unavailable, RuntimeError, see `Root.interpreter`."""
    minor = int(root.glibc.partition(".")[2])
    platforms = ["linux_aarch64", "manylinux2014_aarch64", *(f"manylinux_2_{n}_aarch64" for n in range(17, minor + 1))]
    target = [f"--platform={name}" for name in platforms]
    target += ["--implementation=cp", f"--python-version={root.python}", "--only-binary=:all:"]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    done = _try([*pip, "install", "--no-compile", f"--target={packages}", *target, *wanted])
    if done.returncode:
        with tempfile.TemporaryDirectory() as folder:
            probe = _try([*pip, "download", "--no-cache-dir", "--no-deps", f"--dest={folder}", "iniconfig"])
        if probe.returncode:
            raise Unavailable(f"pip reaches no package index from here: {_last(probe.stderr)}")
        raise RuntimeError(f"pip finds no set of wheels for {platforms[-1]}, {root.python}:\n{done.stderr}")


def _write_cpuinfo(files: Path) -> None:
    """Say in /proc/cpuinfo what is emulated: ONNX Runtime crashes on a description of other processors.

    As many as this machine has, because the rest of what there is to know of them comes from its own /sys.
    """
    one = f"BogoMIPS\t: 48.00\nFeatures\t: {CPU_FEATURES}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    one += f"CPU variant\t: 0x0\nCPU part\t: {CPU_PART}\nCPU revision\t: 4\n\n"
    text = "".join(f"processor\t: {number}\n{one}" for number in range(os.cpu_count() or 1))
    file = files / "proc" / "cpuinfo"
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)


def _installed_qemu() -> Path | None:
    found = shutil.which("qemu-aarch64-static")
    return Path(found) if found else None


def _suite() -> str:
    try:
        said = platform.freedesktop_os_release()
    except OSError:
        return "unknown"
    return f"{said['ID']} {said.get('VERSION_CODENAME')}"


@contextlib.contextmanager
def _new(place: Path) -> Iterator[Path]:
    """A directory that becomes `place` when all went well, and is removed otherwise."""
    work = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
    try:
        yield work
        work.chmod(0o755)
        work.rename(place)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    name = Path(command[0]).name
    try:
        return subprocess.run(
            [str(word) for word in command],
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_S,
            check=False,
        )
    except FileNotFoundError:
        raise Unavailable(f"there is no {name} here; the root is made of Debian packages") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name} took longer than {DOWNLOAD_S} s") from None


def _run(command: Sequence[str | Path]) -> str:
    done = _try(command)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr}")
    return done.stdout


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return " ".join(lines[-3:])


def _short_hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _forget(place: Path, names: str) -> None:
    """Remove what was made before and has not been used for some time."""
    for old in place.glob(names):
        if time.time() - old.stat().st_mtime > KEPT_DAYS * 86400:
            shutil.rmtree(old)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    try:
        root = open_root()
        python = root.interpreter()
    except Unavailable as exc:
        sys.exit(f"No aarch64 root: {exc}")
    _say(f"{_suite()} arm64, Python {root.packages[f'python{root.python}']}, glibc {root.glibc}, emulated {CPU}")
    print(python)


if __name__ == "__main__":
    main()
