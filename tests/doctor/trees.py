"""Directory trees that stand for machines: what `vlm doctor` and `vlm freq` read of a system, and no more.

Nothing here was taken from a board; the paths and the texts are those that the vendor's scripts and public issues name.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from vlm.resources import demo_dir

GB = 1 << 30
CPUS = {"rk3588": (0, 4, 6), "rk3576": (0, 4), "rk3562": (0,), "rv1126b": (0,)}
NPUS = {"rk3588": "fdab0000.npu", "rk3576": "27700000.npu", "rk3562": "ff300000.npu", "rv1126b": "22000000.npu"}
GPUS = {"rk3588": "fb000000.gpu", "rk3576": "27800000.gpu"}


def put(root: Path, name: str, text: str | bytes = "") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def library(text: bytes, machine: int = 183) -> bytes:
    """An ELF library without anything to load, for aarch64, that holds a text."""
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 0, 0, 0, 0)
    )
    return header + text + b"\0"


def rknn(path: Path, target: str, size: int) -> None:
    """A .rknn in the vendor's frame, its network a hole in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = json.dumps({"target_platform": [target]}).encode()
    with path.open("wb") as file:
        file.write(b"RKNN" + bytes(4) + struct.pack("<QQ", 6, size) + bytes(40))
        file.seek(64 + size)
        file.write(struct.pack("<Q", len(told)) + told)


def rkllm(path: Path, toolkit: str, size: int) -> None:
    """A .rkllm as far as its last bytes say so, the rest a hole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.seek(size)
        file.write(f"rkllm-toolkit version: {toolkit}".encode() + bytes(8))


def devfreq(root: Path, name: str, highest: int, governor: str = "simple_ondemand") -> None:
    at = f"sys/class/devfreq/{name}"
    put(root, f"{at}/governor", governor + "\n")
    put(root, f"{at}/cur_freq", "300000000\n")
    put(root, f"{at}/available_frequencies", f"300000000 600000000 {highest}\n")
    put(root, f"{at}/userspace/set_freq", "undefined\n")


def system(root: Path, machine: str = "aarch64", kernel: str = "6.1.84", memory: int = 8 * GB) -> None:
    put(root, "proc/sys/kernel/osrelease", kernel + "\n")
    kilobytes = memory // 1024
    put(
        root,
        "proc/meminfo",
        f"MemTotal: {kilobytes:12} kB\nMemAvailable: {kilobytes * 9 // 10:12} kB\nSwapTotal: 0 kB\n",
    )
    put(root, f"usr/lib/{machine}-linux-gnu/libc.so.6")
    (root / "run").mkdir(exist_ok=True)


def device_tree(root: Path, soc: str) -> None:
    put(root, "proc/device-tree/compatible", f"somebody,board\0rockchip,{soc}\0")


def software(root: Path, python: str = "3.11", wheel: str | None = "2.3.2", release: str = "1.2.3") -> None:
    put(root, f"usr/bin/python{python}")
    if wheel:
        put(root, f"usr/local/lib/python{python}/dist-packages/rknn_toolkit_lite2-{wheel}.dist-info/METADATA")
    put(root, "usr/lib/librkllmrt.so", library(f"RKLLM SDK (version: {release} (0123456789@2025-01-01)".encode()))
    put(root, "usr/lib/librknnrt.so", library(b"librknnrt version: 2.3.2 (429f97ae6b@2025-04-09T09:09:27)"))


def board(root: Path, soc: str, memory: int = 8 * GB) -> None:
    """A board on which all is well."""
    system(root, memory=memory)
    device_tree(root, soc)
    put(root, "sys/kernel/debug/rknpu/version", "RKNPU driver: v0.9.8\n")
    put(root, "sys/kernel/debug/rknpu/freq", "300000000\n")
    for node, driver in (("renderD128", "mali"), ("renderD129", "RKNPU")):
        put(root, f"sys/class/drm/{node}/device/uevent", f"DRIVER={driver}\nOF_NAME=npu\n")
        put(root, f"dev/dri/{node}").chmod(0o660)
    devfreq(root, NPUS[soc], 1000000000, "rknpu_ondemand")
    devfreq(root, "dmc", 2112000000, "dmc_ondemand")
    if soc in GPUS:
        devfreq(root, GPUS[soc], 950000000)
    for number in CPUS[soc]:
        at = f"sys/devices/system/cpu/cpufreq/policy{number}/scaling"
        put(root, f"{at}_governor", "ondemand\n")
        put(root, f"{at}_cur_freq", "408000\n")
        put(root, f"{at}_available_frequencies", "408000 1200000 1800000 \n")
        put(root, f"{at}_setspeed", "<unsupported>\n")
    software(root)
    model(root, soc)


def model(root: Path, soc: str, toolkit: str = "1.2.3") -> None:
    home = root / "models/qwen2-vl-2b"
    rknn(home / f"qwen2_vl_2b_vision_{soc}.rknn", soc, 1390 << 20)
    rkllm(home / f"qwen2-vl-2b_w8a8_{soc}.rkllm", toolkit, 2040 << 20)


def rk3588(root: Path) -> None:
    board(root, "rk3588")


def rk3576(root: Path) -> None:
    """An old driver, no dmc, librknnrt.so in another place, and another board's files."""
    board(root, "rk3576")
    put(root, "sys/kernel/debug/rknpu/version", "RKNPU driver: v0.9.3\n")
    shutil.rmtree(root / "sys/class/devfreq/dmc")
    (root / "usr/local/lib").mkdir(parents=True, exist_ok=True)
    (root / "usr/lib/librknnrt.so").rename(root / "usr/local/lib/librknnrt.so")
    shutil.rmtree(root / "models")
    model(root, "rk3588")


def rk3562(root: Path) -> None:
    """Debugfs for root only, Python 3.13, too little memory, a model that is newer than the runtime."""
    board(root, "rk3562", memory=2 * GB)
    put(root, "sys/module/rknpu/parameters/bypass_irq_handler")
    (root / "sys/kernel/debug").chmod(0o700)
    (root / "usr/bin/python3.11").unlink()
    shutil.rmtree(root / "usr/local/lib/python3.11")
    software(root, python="3.13", wheel=None)
    model(root, "rk3562", toolkit="1.3.1")


def rv1126b(root: Path) -> None:
    """No right to the NPU, a runtime of no known release, a slow governor, a wheel of another release."""
    board(root, "rv1126b", memory=4 * GB)
    (root / "dev/dri/renderD129").chmod(0o600)
    shutil.rmtree(root / "usr/local/lib/python3.11")
    software(root, release="9.9.9", wheel="2.5.0")
    devfreq(root, NPUS["rv1126b"], 950000000, "powersave")


def mainline(root: Path) -> None:
    """An RK3588 on mainline Linux: its NPU has the rocket driver."""
    system(root, kernel="6.18.2")
    device_tree(root, "rk3588")
    put(root, "sys/module/rocket/refcnt", "0\n")
    put(root, "dev/accel/accel0").chmod(0o660)
    put(root, "usr/bin/python3.13")
    model(root, "rk3588")


def container(root: Path) -> None:
    """A container on an RK3588 that was given no devices."""
    board(root, "rk3588")
    put(root, ".dockerenv")
    shutil.rmtree(root / "dev")
    shutil.rmtree(root / "sys/kernel")


def masked(root: Path) -> None:
    """A container on aarch64 that sees neither the device tree nor devices."""
    system(root)
    software(root)
    put(root, "run/.containerenv")
    model(root, "rk3588")


def pc(root: Path) -> None:
    system(root, machine="x86_64", kernel="6.12.0-amd64", memory=16 * GB)
    put(root, "usr/bin/python3.12")
    shutil.copytree(demo_dir(), root / "models/demo")


TREES: dict[str, Callable[[Path], None]] = {
    tree.__name__: tree for tree in (rk3588, rk3576, rk3562, rv1126b, mainline, container, masked, pc)
}
