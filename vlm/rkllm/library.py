"""Finds librkllmrt.so, tells its release before loading it, and types its functions; or takes the host runtime.

Both give a `Library`: one table of C function pointers with the types of one release. What fills structs and takes
callbacks (`vlm.rkllm.model`) does not know which of the two it talks to.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm.errors import (
    LibraryFormatError,
    LibraryNotFoundError,
    LibrarySymbolError,
    NotSupportedByRuntime,
    UnknownReleaseError,
)
from vlm.rkllm.abi import FUNCTIONS, RELEASES, Abi, abi, first_release
from vlm.rkllm.elf import check_library_file, find_releases
from vlm.rkllm.messages import MESSAGES_KEPT, captured

if TYPE_CHECKING:
    from vlm.host import HostRuntime

LIBRARY_NAME = "librkllmrt.so"
_SYSTEM_DIRECTORIES = ("/usr/local/lib", "/usr/lib", "/usr/lib/aarch64-linux-gnu", "/lib", "/lib64", "/usr/lib64")
_ALL_NAMES = tuple(dict.fromkeys(f.name for f in FUNCTIONS))

_log = logging.getLogger(__name__)


class Functions:
    """The rkllm_* functions of one library, as attributes, each with the argument and result types of its release.

    Contract of each: `vlm.rkllm.abi`. Using a function that is not there raises NotSupportedByRuntime, which names the
    first release that has it.
    """

    def __init__(self, table: Mapping[str, Callable[..., Any]], release: str, provider: str = "") -> None:
        self._table = dict(table)
        self._release = release
        self._provider = provider

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found = self._table.get(name)
        if found is not None:
            return found
        if name not in _ALL_NAMES:
            raise AttributeError(name)
        first = first_release(name)
        if first is not None and RELEASES.index(first) <= RELEASES.index(self._release):
            # The release has it and its provider does not: only librkllmrt.so itself will do.
            raise NotSupportedByRuntime(name, f"{self._release} ({self._provider})", f"{LIBRARY_NAME} {first}")
        raise NotSupportedByRuntime(name, self._release, first)

    def __contains__(self, name: str) -> bool:
        return name in self._table


@dataclass(frozen=True)
class Library:
    """A provider of the RKLLM functions, of one release.

    origin: the file it came from, or "host". drain_messages: the lines that the runtime said since it was last asked; a
    C library's are those of opening models, because it prints them, and what it prints later goes where the process's
    output goes. listen: a block around a call of `rkllm_init`; the list it gives holds what was said, once it is over.
    set_seed: the seed of the next run's sampling, None for a random one; None in place of the function where there is
    no such thing (no RKLLM struct has a seed).
    """

    release: str
    abi: Abi
    functions: Functions
    origin: str
    drain_messages: Callable[[], list[str]]
    listen: Callable[[], AbstractContextManager[list[str]]]
    set_seed: Callable[[int | None], None] | None = None


def open_library(
    path: str | os.PathLike[str] | None = None, *, release: str | None = None, search: Sequence[str | Path] = ()
) -> Library:
    """Load librkllmrt.so.

    path: the file, or the directory it lies in; None looks through the loader's directories and then `search` (a model
    directory, say). release: the release whose layouts to use whatever the file says of itself; still checked against
    the functions it exports.

    Raises LibraryNotFoundError (no such file, with the places looked at), LibraryFormatError (not a library, cut short,
    refused by the loader), LibraryMachineError, LibrarySymbolError (functions missing, or of another release), and
    UnknownReleaseError.
    """
    file = find_library(path, search)
    check_library_file(file)
    chosen = choose_release(file, release)
    try:
        loaded = ctypes.CDLL(str(file))
    except OSError as exc:
        raise LibraryFormatError(
            f"The loader refused {file}: {exc}. A library it depends on is missing here or too old "
            f"(`ldd {file}` lists them)."
        ) from exc
    said: deque[str] = deque(maxlen=MESSAGES_KEPT)

    @contextmanager
    def listen() -> Iterator[list[str]]:
        heard: list[str] = []
        try:
            with captured() as heard:
                yield heard
        finally:
            said.extend(heard)

    return Library(
        release=chosen.release,
        abi=chosen,
        functions=Functions(_typed(loaded, chosen, file), chosen.release, LIBRARY_NAME),
        origin=str(file),
        drain_messages=lambda: [said.popleft() for _ in range(len(said))],
        listen=listen,
    )


def host_library(release: str = RELEASES[-1], runtime: HostRuntime | None = None) -> Library:
    """The host runtime behind real C function pointers of `release`, so that a PC takes the board's path.

    runtime: a `vlm.host.HostRuntime` made for the same release; None makes one. `rkllm_createDefaultParam` alone is
    called directly, because a ctypes callback cannot return a struct by value.
    """
    from vlm.host import HostRuntime as Runtime

    chosen = abi(release)
    provider: Any = Runtime(chosen) if runtime is None else runtime
    table: dict[str, Callable[..., Any]] = {}
    for name, function in provider.functions().items():
        signature = chosen.signatures.get(name)
        if signature is None:
            continue
        by_value = isinstance(signature.restype, type) and issubclass(signature.restype, ctypes.Structure)
        table[name] = function if by_value else ctypes.CFUNCTYPE(signature.restype, *signature.argtypes)(function)

    def drain() -> list[str]:
        taken: list[str] = []
        while provider.messages:
            taken.append(str(provider.messages.pop(0)))
        return taken

    @contextmanager
    def listen() -> Iterator[list[str]]:
        heard: list[str] = []
        before = len(provider.messages)
        try:
            yield heard
        finally:
            heard += provider.messages[before:]

    return Library(
        release=release,
        abi=chosen,
        functions=Functions(table, release, "host"),
        origin="host",
        drain_messages=drain,
        listen=listen,
        set_seed=provider.set_seed,
    )


def find_library(
    path: str | os.PathLike[str] | None = None, search: Iterable[str | Path] = (), root: Path = Path("/")
) -> Path:
    """The file that `open_library` would load. root: where the loader's own directories are.

    Raises LibraryNotFoundError with the places looked at.
    """
    if path is not None:
        given = Path(path).expanduser().absolute()
        file = given / LIBRARY_NAME if given.is_dir() else given
        if not file.is_file():
            raise LibraryNotFoundError(f"There is no library at {file}. Give the path of {LIBRARY_NAME}.")
        return file
    places = [*_loader_directories(root), *(Path(p).absolute() for p in search)]
    for place in places:
        if (place / LIBRARY_NAME).is_file():
            return place / LIBRARY_NAME
    raise LibraryNotFoundError(
        f"No {LIBRARY_NAME} in {', '.join(str(p) for p in places)}. Install the vendor's runtime for the board, give "
        "its path (setting VLM_RKLLM_LIB), or use a model for the host runtime."
    )


def _loader_directories(root: Path) -> list[Path]:
    """Where the dynamic loader looks, in its order: LD_LIBRARY_PATH, ld.so.conf, the system's own."""
    here = root == Path("/")  # another system's loader is not told by our environment
    places = [Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p and here]
    named: list[str] = []
    for conf in sorted((root / "etc/ld.so.conf.d").glob("*.conf")):
        try:
            named += [line.strip() for line in conf.read_text().splitlines() if line.strip().startswith("/")]
        except (OSError, UnicodeDecodeError) as exc:
            _log.debug("%s was passed over: %s", conf, exc)
    places += [root / p.lstrip("/") for p in (*named, *_SYSTEM_DIRECTORIES)]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def choose_release(file: Path, release: str | None) -> Abi:
    """The layouts for a library file, by what it says of itself, or the `release` named. Raises UnknownReleaseError."""
    found = find_releases(file)
    if release is not None:
        chosen = abi(release)
        if found and release not in found:
            _log.warning("%s says it is release %s; %s was asked for and is used.", file, " and ".join(found), release)
        return chosen
    how = f"Known: {', '.join(RELEASES)}. If its rkllm.h equals that of a known release, set VLM_RKLLM_RELEASE to it."
    if not found:
        raise UnknownReleaseError(f"{file} does not say its release (no 'RKLLM SDK (version: ...' in it). {how}")
    if len(found) > 1:
        raise UnknownReleaseError(f"{file} names several releases: {', '.join(found)}. {how}")
    if found[0] not in RELEASES:
        raise UnknownReleaseError(f"{file} is release {found[0]}, whose structs are not known here. {how}")
    return abi(found[0])


def _typed(loaded: ctypes.CDLL, chosen: Abi, file: Path) -> dict[str, Callable[..., Any]]:
    exported = [name for name in _ALL_NAMES if hasattr(loaded, name)]
    missing = [name for name in chosen.signatures if name not in exported]
    later = [name for name in exported if name not in chosen.signatures]
    if missing:
        raise LibrarySymbolError(
            f"{file} is taken for release {chosen.release}, and lacks {', '.join(missing)}. "
            "It is another library or another release; set VLM_RKLLM_RELEASE if you know which."
        )
    if later:
        raise LibrarySymbolError(
            f"{file} is taken for release {chosen.release}, and has {', '.join(later)}, which came with "
            f"{first_release(later[0])}. Its structs are a later release's; set VLM_RKLLM_RELEASE to the right one."
        )
    table: dict[str, Callable[..., Any]] = {}
    for name, signature in chosen.signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = signature.restype, list(signature.argtypes)
        table[name] = function
    return table
