"""The clocks of a board: NPU, CPU, DDR and GPU, shown, fixed at their highest, and put back as they were.

Where each SoC has them, and that they are fixed so, is from the vendor's own scripts: airockchip/rknn-llm,
scripts/fix_freq_*.sh. The frequency is the highest that the node itself lists: boards of one SoC differ. What was there
before is kept in a file until it is restored; it lies in /run, and is lost with the settings when the board restarts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from vlm.errors import FrequencyError
from vlm.npu import SOCS, find_soc

STATE = "run/rkvlm-freq.json"
USERSPACE = "userspace"


@dataclass(frozen=True)
class Node:
    """Where one unit's clock is set; paths are relative to the system's root.

    governor: None where there is none to choose. speed: what to write a frequency to, current: what to read it from.
    unit_hz: how many hertz the numbers there count in.
    """

    unit: str
    governor: str | None
    speed: str
    current: str
    available: str
    unit_hz: int


def _devfreq(unit: str, name: str) -> Node:
    at = f"sys/class/devfreq/{name}"
    return Node(unit, f"{at}/governor", f"{at}/userspace/set_freq", f"{at}/cur_freq", f"{at}/available_frequencies", 1)


def _cpu(first: int, last: int) -> Node:
    at = f"sys/devices/system/cpu/cpufreq/policy{first}/scaling"
    paths = (f"{at}_governor", f"{at}_setspeed", f"{at}_cur_freq", f"{at}_available_frequencies")
    return Node(f"CPU {first}-{last}", *paths, 1000)


_DDR = _devfreq("DDR", "dmc")
# The vendor fixes RK3562's NPU through its driver, and no GPU there or on RV1126B.
_RK3562_NPU = "sys/kernel/debug/rknpu/freq"
NODES: Mapping[str, tuple[Node, ...]] = {
    "rk3588": (
        _devfreq("NPU", "fdab0000.npu"),
        *(_cpu(0, 3), _cpu(4, 5), _cpu(6, 7)),
        _DDR,
        _devfreq("GPU", "fb000000.gpu"),
    ),
    "rk3576": (_devfreq("NPU", "27700000.npu"), _cpu(0, 3), _cpu(4, 7), _DDR, _devfreq("GPU", "27800000.gpu")),
    "rk3562": (
        Node("NPU", None, _RK3562_NPU, _RK3562_NPU, "sys/class/devfreq/ff300000.npu/available_frequencies", 1),
        _cpu(0, 3),
        _DDR,
    ),
    "rv1126b": (_devfreq("NPU", "22000000.npu"), _cpu(0, 3), _DDR),
}


@dataclass(frozen=True)
class Clock:
    """One unit's clock as it is. Frequencies are in hertz; None, or none, where the system does not tell.

    there: whether this system has the node at all.
    """

    node: Node
    there: bool
    governor: str | None
    current: int | None
    available: tuple[int, ...]

    @property
    def unit(self) -> str:
        """NPU, CPU 0-3, DDR, GPU."""
        return self.node.unit


@dataclass(frozen=True)
class Write:
    """One value for one file; the path is relative to the system's root."""

    unit: str
    path: str
    value: str


def clocks(root: Path = Path("/"), text: Callable[[str], str | None] | None = None) -> list[Clock]:
    """Every clock of this board. text: reads a file of the system, None for one that cannot be read.

    Raises FrequencyError where the device tree names no SoC that is known here.
    """
    soc = find_soc(root)
    if soc is None:
        raise FrequencyError(
            f"This machine's device tree names no SoC whose clocks are known here ({', '.join(SOCS)}); on a PC there "
            "is nothing to fix."
        )
    return [_clock(node, text or (lambda name: _read(root / name))) for node in NODES[soc.name]]


def _clock(node: Node, text: Callable[[str], str | None]) -> Clock:
    governor = text(node.governor) if node.governor else None
    current, available = text(node.current), text(node.available)
    hertz = sorted(int(word) * node.unit_hz for word in (available or "").split() if word.isdecimal())
    now = int(current) * node.unit_hz if current and current.isdecimal() else None
    return Clock(node, bool(governor or current), governor, now, tuple(hertz))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def writes_to_fix(found: Sequence[Clock]) -> list[Write]:
    """What fixes each clock at its highest frequency; a clock that is not there, or lists none, is left alone."""
    writes = []
    for clock in found:
        if clock.there and clock.available:
            if clock.node.governor:
                writes.append(Write(clock.unit, clock.node.governor, USERSPACE))
            writes.append(Write(clock.unit, clock.node.speed, str(clock.available[-1] // clock.node.unit_hz)))
    return writes


def writes_to_restore(root: Path = Path("/")) -> list[Write]:
    """What puts every clock back as it was before it was fixed. Raises FrequencyError where nothing was fixed."""
    try:
        return [Write(**write) for write in json.loads((root / STATE).read_text(encoding="utf-8"))]
    except FileNotFoundError as exc:
        raise FrequencyError(f"Nothing is to be restored: there is no {_shown(STATE)}, which `fix` writes.") from exc
    except (OSError, ValueError, TypeError) as exc:
        raise FrequencyError(
            f"{_shown(STATE)} cannot be read ({exc}); remove it, and restart the board to have its own settings back."
        ) from exc


def is_fixed(root: Path = Path("/")) -> bool:
    """Whether the clocks were fixed, and not restored since."""
    return (root / STATE).exists()


def fix(root: Path = Path("/")) -> list[Write]:
    """Fix every clock at its highest frequency; returns what was written.

    Fixing twice keeps what was there before the first time. Raises FrequencyError, with everything put back, where the
    system does not let us.
    """
    found = clocks(root)
    writes = writes_to_fix(found)
    if not writes:
        units = ", ".join(clock.unit for clock in found)
        raise FrequencyError(f"None of this board's clocks ({units}) can be set here; its kernel has no node for them.")
    if not is_fixed(root):
        _save(root, _before(found, {write.unit for write in writes}))
    try:
        for write in writes:
            _write(root, write)
    except FrequencyError:
        restore(root)
        raise
    return writes


def restore(root: Path = Path("/")) -> list[Write]:
    """Put every clock back; returns what was written. A node that has gone is passed over. Raises FrequencyError."""
    writes = [write for write in writes_to_restore(root) if (root / write.path).exists()]
    for write in writes:
        _write(root, write)
    (root / STATE).unlink(missing_ok=True)
    return writes


def _before(found: Sequence[Clock], units: set[str]) -> list[Write]:
    """What puts the clocks back. A frequency counts only where nothing else chooses it."""
    writes = []
    for clock in found:
        if clock.unit not in units:
            continue
        if clock.current is not None and clock.governor in (None, USERSPACE):
            writes.append(Write(clock.unit, clock.node.speed, str(clock.current // clock.node.unit_hz)))
        elif clock.node.governor and clock.governor:
            writes.append(Write(clock.unit, clock.node.governor, clock.governor))
    return writes


def _save(root: Path, writes: Sequence[Write]) -> None:
    path = root / STATE
    partial = path.with_suffix(".new")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump([asdict(write) for write in writes], file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as exc:
        raise _refused(_shown(STATE), exc) from exc


def _write(root: Path, write: Write) -> None:
    try:
        # Without O_CREAT: a node that is not there must not become a file.
        descriptor = os.open(root / write.path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, write.value.encode())
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise _refused(f"{write.unit}: {_shown(write.path)} ({write.value})", exc) from exc


def _refused(what: str, exc: OSError) -> FrequencyError:
    advice = "Clocks are set by root: run it with sudo." if isinstance(exc, PermissionError) else "The kernel refused."
    return FrequencyError(f"{what} cannot be written: {exc.strerror}. {advice}")


def _shown(path: str) -> str:
    return f"/{path}"


@contextmanager
def fixed(root: Path = Path("/")) -> Iterator[bool]:
    """A block with the clocks fixed, restored at its end. False where they were fixed before, and stay so."""
    ours = not is_fixed(root)
    fix(root)
    try:
        yield ours
    finally:
        if ours and is_fixed(root):
            restore(root)


class _Passed:
    """Hands the signals that would end us to the command instead, so that we outlive it and restore."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.seen: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Passed:
        self._before = {number: signal.signal(number, self._pass) for number in self.NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start the command, with what was signalled before it was there."""
        self.child = subprocess.Popen(command)
        if self.seen is not None:
            self.child.send_signal(self.seen)
        return self.child

    def _pass(self, number: int, _: FrameType | None) -> None:
        self.seen = number
        # A terminal sends Ctrl-C and Ctrl-\ to the command by itself.
        by_terminal = number in (signal.SIGINT, signal.SIGQUIT) and os.isatty(0)
        if self.child is not None and not by_terminal:
            self.child.send_signal(number)


def run(command: Sequence[str], root: Path = Path("/")) -> tuple[int, bool]:
    """Run a command with the clocks fixed, and restore them however it ends, by a signal too.

    Returns its exit code as a shell has it (128 + the signal's number), and whether the clocks were restored: those
    fixed before stay so. Raises FrequencyError, also where there is no such command.
    """
    with _Passed() as passed, fixed(root) as ours:
        try:
            code = passed.start(command).wait()
        except OSError as exc:
            raise FrequencyError(f"{command[0]} cannot be run: {exc.strerror}. The clocks are as they were.") from exc
    return (code if code >= 0 else 128 - code), ours
