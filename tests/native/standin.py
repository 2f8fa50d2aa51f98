"""Compiles the stand-in for each release with the `ziglang` package, and checks it against the recorded layouts.

The libraries are kept outside the checkout, under a name made of all that goes into them.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LAYOUTS = json.loads((HERE.parent / "rkllm" / "layouts.json").read_text())
MACROS = {
    "1.1.4": "R114",
    "1.2.0": "R120",
    "1.2.1b1": "R121B1",
    "1.2.1": "R121",
    "1.2.2": "R122",
    "1.2.3": "R123",
    "1.3.0": "R130",
}


def layout(release: str) -> dict[str, tuple[int, dict[str, tuple[int, int]]]]:
    """The recorded structs of a release: size, and offset and size of each field."""
    return {
        name: (v["size"], {f: tuple(at) for f, at in v["fields"].items()})
        for name, variants in LAYOUTS.items()
        for v in variants
        if release in v["releases"]
    }


def layout_checks(release: str) -> str:
    lines = ['#include "rkllm_structs.h"']
    for name, (size, fields) in layout(release).items():
        lines.append(f'_Static_assert(sizeof({name}) == {size}, "{name}");')
        for field, (offset, length) in fields.items():
            where = f"offsetof({name}, {field}) == {offset} && sizeof((({name} *)0)->{field}) == {length}"
            lines.append(f'_Static_assert({where}, "{name}.{field}");')
    return "\n".join(lines) + "\n"


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rkvlm-tests"


def build(release: str, target: str | None = None, source: str = "librkllmrt.c") -> Path:
    """The path of the library of `release`, compiled unless it was before. target: zig's name of another machine.

    Where no compiler is (in the aarch64 root of tests/board), RKVLM_STANDINS names a directory with those built
    elsewhere, RELEASE/librkllmrt.so.
    """
    if elsewhere := os.environ.get("RKVLM_STANDINS"):
        return Path(elsewhere) / release / source.replace(".c", ".so")
    checks = layout_checks(release) if source == "librkllmrt.c" else ""
    return _compiled("librkllmrt.so", target, checks, _release(release), source)


def build_rknn(target: str | None = None) -> Path:
    """The path of the stand-in for librknnrt.so, compiled unless it was before."""
    return _compiled("librknnrt.so", target, "", ["-Wno-unused-function"], "librknnrt.c")


def _compiled(name: str, target: str | None, checks: str, words: list[str], source: str) -> Path:
    parts = [checks, *words, source, str(target), importlib.metadata.version("ziglang")]
    parts += [p.read_text() for p in sorted(HERE.glob("*.[ch]"))]
    directory = cache_directory() / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = directory / name
    if library.exists():
        return library
    directory.mkdir(parents=True, exist_ok=True)
    header = directory / "layout_checks.h"
    header.write_text(checks)
    made = directory / f"{name}.{os.getpid()}"
    zig = [sys.executable, "-m", "ziglang", "cc", *(["-target", target] if target else [])]
    command = [*_options(zig, header), *words, str(HERE / source), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    made.replace(library)
    return library


def command(compiler: list[str], release: str, source: str, checks: Path) -> list[str]:
    """The command that compiles `source` for `release`, but for where to; checks: a header to include first."""
    return [*_options(compiler, checks), *_release(release), str(HERE / source)]


def _release(release: str) -> list[str]:
    return [f"-DRELEASE={MACROS[release]}", f'-DRELEASE_NAME="{release}"']


def _options(compiler: list[str], checks: Path) -> list[str]:
    return [
        *compiler,
        *("-shared", "-fPIC", "-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"),
        *("-D_GNU_SOURCE", "-pthread", f"-I{HERE}", "-include", str(checks)),
    ]


class StandIn:
    """A built stand-in: what it saw, and the runs that hang in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.standin_report.restype = ctypes.c_char_p

    def seen(self, call: str | None = None) -> list[dict[str, object]]:
        """What was written down since the last reset, in order; only lines of one kind when `call` is given."""
        lines = self._library.standin_report().decode("utf-8", "replace").splitlines()
        entries = [json.loads(line) for line in lines]
        return entries if call is None else [e for e in entries if e.get("call") == call]

    def violations(self) -> list[object]:
        return [e["violation"] for e in self.seen() if "violation" in e]

    def reset(self) -> None:
        self._library.standin_reset()

    def release(self) -> int:
        """Let the runs that hang return; how many there were."""
        return int(self._library.standin_release())


if __name__ == "__main__":
    print(build(sys.argv[1]))
