"""Which SoC this is, from device trees made for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm.npu import COMPATIBLE, find_soc


@pytest.mark.parametrize(
    ("compatible", "name", "domain"),
    [
        (b"rockchip,rk3588-evb1-v10\0rockchip,rk3588\0", "rk3588", 1),
        (b"radxa,rock-5b\0rockchip,rk3588\0", "rk3588", 1),
        (b"xunlong,orangepi-5\0rockchip,rk3588s\0", "rk3588", 1),
        (b"rockchip,rk3576\0", "rk3576", 1),
        (b"rockchip,rk3562-evb\0rockchip,rk3562\0", "rk3562", 0),
        (b"rockchip,rv1126b-evb1\0rockchip,rv1126b\0", "rv1126b", 0),
    ],
)
def test_a_soc_is_told_from_its_device_tree(tmp_path: Path, compatible: bytes, name: str, domain: int) -> None:
    file = tmp_path / COMPATIBLE
    file.parent.mkdir(parents=True)
    file.write_bytes(compatible)
    soc = find_soc(tmp_path)
    assert soc is not None
    assert (soc.name, soc.llm_domain) == (name, domain)


@pytest.mark.parametrize("compatible", [b"", b"raspberrypi,4-model-b\0brcm,bcm2711\0", b"rockchip,rk3399\0", b"\xff\0"])
def test_another_machine_is_none(tmp_path: Path, compatible: bytes) -> None:
    assert find_soc(tmp_path) is None
    file = tmp_path / COMPATIBLE
    file.parent.mkdir(parents=True)
    file.write_bytes(compatible)
    assert find_soc(tmp_path) is None
