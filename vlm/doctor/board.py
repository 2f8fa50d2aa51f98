"""The board itself: SoC, kernel, the NPU's driver and its node, memory, clocks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from vlm.doctor.case import Case, Line, Machine
from vlm.freq import USERSPACE, Clock, clocks
from vlm.npu import SOCS
from vlm.rkllm.diagnosis import OLDEST_DRIVER, version

# The driver's version stands in one of these; debugfs is root's own (airockchip/rknn-llm #103).
_VERSIONS = ("sys/kernel/debug/rknpu/version", "sys/module/rknpu/version")
_DRIVER_MARKS = ("sys/module/rknpu", "sys/bus/platform/drivers/RKNPU", "dev/rknpu")
# Mainline's driver for the same hardware: docs.kernel.org/accel/rocket.
_ROCKET_MARKS = ("sys/module/rocket", "sys/bus/platform/drivers/rocket")
# Where rknn-toolkit-lite2 looks for the NPU, whatever sysfs says.
_USUAL_NODE = "dev/dri/renderD129"
_VENDOR_KERNEL = f"boot the vendor's kernel (5.10 or 6.1) with rknpu {OLDEST_DRIVER} or newer"
_GB = 1e9


def check_soc(case: Case) -> Iterator[Line]:
    """Which SoC the device tree names."""
    machine = case.machine
    if machine.soc is not None:
        cores = machine.soc.npu_cores
        yield Line("SoC", "fine", f"{machine.soc.name}, {cores} NPU core{'s' if cores > 1 else ''}")
    elif machine.hides_soc:
        yield Line(
            "SoC",
            "error" if case.on_npu else "warning",
            "the device tree cannot be seen in this container",
            "on a board, start it with --security-opt systempaths=unconfined --device /dev/dri; else use ONNX models",
        )
    else:
        yield Line("SoC", "fine", f"no Rockchip NPU that is known here ({', '.join(SOCS)}): models run on the CPU")


def check_kernel(case: Case) -> Iterator[Line]:
    """Which kernel runs."""
    release = case.machine.text("proc/sys/kernel/osrelease") or "not said"
    where = ", in a container" if case.machine.in_container else ""
    yield Line("kernel", "fine", f"Linux {release}, {case.machine.machine}{where}")


def check_driver(case: Case) -> Iterator[Line]:
    """The NPU's kernel driver, and whether it is new enough for RKLLM."""
    machine = case.machine
    if machine.soc is None:
        return
    told = next((text for text in map(machine.text, _VERSIONS) if text), "")
    number = re.search(r"\d+\.\d+\.\d+", told)
    if number:
        old = version(number[0]) < version(OLDEST_DRIVER)
        advice = _VENDOR_KERNEL if old else ""
        yield Line("NPU driver", "error" if old else "fine", f"rknpu {number[0]}", advice)
    elif any(map(machine.exists, _ROCKET_MARKS)):
        yield Line(
            "NPU driver",
            "error",
            "rocket, which is mainline Linux's: the vendor's runtimes do not run on it",
            _VENDOR_KERNEL,
        )
    elif any(map(machine.exists, _DRIVER_MARKS)) or machine.closed(_VERSIONS[0]):
        yield Line(
            "NPU driver",
            "warning",
            f"its version is not to be seen: /{_VERSIONS[0]} is for root only",
            f"run `sudo vlm doctor`; {OLDEST_DRIVER} or newer is needed",
        )
    elif machine.in_container:
        yield Line(
            "NPU driver",
            "warning",
            "its version is not to be seen in this container",
            f"look outside: `sudo cat /{_VERSIONS[0]}`; {OLDEST_DRIVER} or newer is needed",
        )
    else:
        yield Line("NPU driver", "error", "no rknpu driver", _VENDOR_KERNEL)


def check_node(case: Case) -> Iterator[Line]:
    """The file through which the NPU is used."""
    machine = case.machine
    if machine.soc is None:
        return
    node = _npu_node(machine)
    if node is None:
        advice = (
            "start the container with --device /dev/dri"
            if machine.in_container
            else "the driver makes it: put that right first; `sudo dmesg | grep -i rknpu` says more"
        )
        yield Line("NPU node", "error", f"there is no /{_USUAL_NODE}, nor another node of the NPU", advice)
    elif machine.may(node, os.R_OK | os.W_OK):
        yield Line("NPU node", "fine", f"{machine.shown(node)}, which may be read and written")
    else:
        yield Line(
            "NPU node",
            "error",
            f"{machine.shown(node)} may not be used by this user",
            f"`ls -l {machine.shown(node)}` names its group, most often render: `sudo usermod -aG render $USER`, and "
            "log in again",
        )


def _npu_node(machine: Machine) -> Path | None:
    """The render node whose device is the NPU, or where the vendor's wheel looks for it."""
    for entry in machine.glob("sys/class/drm/renderD*"):
        driver = machine.text(f"sys/class/drm/{entry.name}/device/uevent") or ""
        if "DRIVER=RKNPU" in driver.splitlines() and machine.exists(f"dev/dri/{entry.name}"):
            return machine.root / "dev/dri" / entry.name
    # The driver can be built with a node of its own instead of one of DRM's.
    return next((machine.root / name for name in (_USUAL_NODE, "dev/rknpu") if (machine.root / name).exists()), None)


def check_memory(case: Case) -> Iterator[Line]:
    """Memory and swap, against the files of the model."""
    told = {
        name: int(kilobytes) * 1024
        for name, kilobytes in re.findall(r"^(\w+): +(\d+) kB", case.machine.text("proc/meminfo") or "", re.MULTILINE)
    }
    if "MemTotal" not in told:
        yield Line("memory", "warning", "/proc/meminfo does not say how much there is", "")
        return
    free = told.get("MemAvailable", told.get("MemFree", 0))
    swap = told.get("SwapTotal", 0)
    found = f"{_gb(told['MemTotal'])}, {_gb(free)} of it free; swap {_gb(swap) if swap else 'none'}"
    encoder, llm = (_size(path) if path else 0 for path in (case.encoder, case.llm))
    # An encoder takes twice its file while it is loaded: the wheel's copy and the runtime's. What the context needs
    # comes on top, and is not known here.
    needed = max(2 * encoder, encoder + llm)
    if needed:
        found += f"; the model's files need {_gb(needed)} and more for its context"
    if needed > told["MemTotal"]:
        yield Line("memory", "error", found, "take a smaller model, or one quantised to fewer bits (w4a16)")
    elif needed > free:
        yield Line("memory", "warning", found, "end other programs first; swap on an SD card is no help")
    else:
        yield Line("memory", "fine", found)


def _size(path: Path) -> int:
    # Beside a PC's language model, its .onnx files and their data, may lie what a board takes.
    files = path.rglob("*.onnx*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _gb(count: float) -> str:
    return f"{count / _GB:.1f} GB" if count >= _GB / 10 else f"{count / 1e6:.0f} MB"


def check_clocks(case: Case) -> Iterator[Line]:
    """Frequencies and governors of NPU, CPU, DDR and GPU."""
    if case.machine.soc is None:
        return
    for clock in clocks(case.machine.root, case.machine.text):
        yield _clock_line(clock)


def _clock_line(clock: Clock) -> Line:
    topic = f"{clock.unit} clock"
    if not clock.there and clock.unit == "GPU":
        return Line(topic, "fine", "not there; nothing here needs it")
    if not clock.there:
        why = "some vendors' systems have no dmc node" if clock.unit == "DDR" else "no such node, or one for root only"
        return Line(topic, "warning", f"not to be seen: {why}", "speed may differ from what others measured")
    now = "not said" if clock.current is None else f"{clock.current / 1e6:.0f} MHz"
    highest = f" of {clock.available[-1] / 1e6:.0f}" if clock.available else ""
    found = f"{now}{highest}, governor {clock.governor or 'none'}"
    slow = clock.governor in ("powersave", USERSPACE) and clock.available and clock.current != clock.available[-1]
    if slow:
        return Line(topic, "warning", found, "it stays slow: `sudo vlm freq fix`, or choose another governor")
    return Line(topic, "fine", found)
