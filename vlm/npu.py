"""Rockchip SoCs: which one this is, and what its NPU offers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

COMPATIBLE = "proc/device-tree/compatible"


@dataclass(frozen=True)
class Soc:
    """One SoC. npu_cores: how many it has. llm_domain: the IOMMU domain that the language model goes to.

    The NPU's addresses have 32 bits, 4 GB a domain, and the encoder stays in domain 0. Where there is a second domain
    the language model has it to itself: RK3588 and RK3576; the others have one core and one domain.
    """

    name: str
    npu_cores: int
    llm_domain: int


SOCS = {soc.name: soc for soc in (Soc("rk3588", 3, 1), Soc("rk3576", 2, 1), Soc("rk3562", 1, 0), Soc("rv1126b", 1, 0))}


def find_soc(root: Path = Path("/")) -> Soc | None:
    """The SoC of this machine from its device tree, or None on any other machine. root: where /proc is."""
    try:
        compatible = (root / COMPATIBLE).read_bytes().decode("ascii", "replace")
    except OSError:
        return None
    # Entries like "rockchip,rk3588-evb1" and "rockchip,rk3588s", the most special one first.
    words = [entry.partition(",")[2] for entry in compatible.split("\0") if entry.startswith("rockchip,")]
    return next((soc for word in words for name, soc in SOCS.items() if word.startswith(name)), None)
