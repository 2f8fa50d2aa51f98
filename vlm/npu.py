"""Rockchip SoCs, and the plan of a model on one: which NPU cores each part uses, and who may run beside whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlm.errors import CorePlanError
from vlm.options import CoreOptions

COMPATIBLE = "proc/device-tree/compatible"

# rknn-toolkit-lite2's names for them are NPU_CORE_0, NPU_CORE_0_1 and so on; there is none for 1 and 2, or 0 and 2. Its
# AUTO (0) is not used: which core that means is known only when a run begins, so that nobody could keep off it.
MASKS: Mapping[tuple[int, ...], int] = {(0,): 1, (1,): 2, (2,): 4, (0, 1): 3, (0, 1, 2): 7}


@dataclass(frozen=True)
class Soc:
    """One SoC.

    npu_cores: how many it has. llm_domain: the IOMMU domain that the language model goes to. The NPU's addresses have
    32 bits, 4 GB a domain, and the encoder stays in domain 0; where there is a second domain the language model has it
    to itself (RK3588 and RK3576). cpu_mask: the CPUs that help the language model, bit by bit.
    """

    name: str
    npu_cores: int
    llm_domain: int
    cpu_mask: int

    @property
    def cores(self) -> tuple[int, ...]:
        """All of the NPU's cores."""
        return tuple(range(self.npu_cores))

    @property
    def core_sets(self) -> list[tuple[int, ...]]:
        """The sets of cores that an encoder may use here."""
        return [cores for cores in MASKS if set(cores) <= set(self.cores)]


# CPUs: 4 to 7 are the fast ones of RK3588 and RK3576, and the runtime's own default. The other two have four CPUs, all
# alike, and the vendor's demo server names those for them; not proven on a board.
SOCS = {
    soc.name: soc
    for soc in (
        Soc("rk3588", 3, 1, 0xF0),
        Soc("rk3576", 2, 1, 0xF0),
        Soc("rk3562", 1, 0, 0x0F),
        Soc("rv1126b", 1, 0, 0x0F),
    )
}


def advice(soc: Soc) -> str:
    """How many NPU cores to convert a language model for, and which to give to the encoder beside it, in words."""
    if soc.npu_cores == 1:
        return "one core, which encoder and language model have in turn"
    llm = soc.npu_cores - 1
    return (
        f"llm_cores {soc.npu_cores} (as converted), encoder on all, in turn; or llm_cores {llm}, encoder_cores {llm}, "
        "with overlap"
    )


def find_soc(root: Path = Path("/")) -> Soc | None:
    """The SoC of this machine from its device tree, or None on any other machine. root: where /proc is."""
    try:
        compatible = (root / COMPATIBLE).read_bytes().decode("ascii", "replace")
    except OSError:
        return None
    # Entries like "rockchip,rk3588-evb1" and "rockchip,rk3588s", the most special one first.
    words = [entry.partition(",")[2] for entry in compatible.split("\0") if entry.startswith("rockchip,")]
    return next((soc for word in words for name, soc in SOCS.items() if word.startswith(name)), None)


def choose_soc(named: str | None, root: Path = Path("/"), *, elsewhere: bool = False) -> Soc | None:
    """The SoC of this machine, or the one `named` where the device tree does not say.

    elsewhere: the one named need not be this machine's. Raises CorePlanError for a name that is not known, and where
    the device tree says another one.
    """
    found = find_soc(root)
    if named is None:
        return found
    soc = SOCS.get(named.lower())
    if soc is None:
        raise CorePlanError(f'There is no SoC "{named}" known here. Known: {", ".join(SOCS)}.')
    if found is not None and found != soc and not elsewhere:
        raise CorePlanError(f"The SoC was said to be {soc.name}, and this machine's device tree says {found.name}.")
    return soc


@dataclass(frozen=True)
class Plan:
    """Where the parts of a model run on an NPU. Made by `make_plan`, final after `settle`.

    encoder, llm: their cores, none where that part runs on the CPU; llm is None while it is not known how many the
    model was converted for. overlap: whether both may run at the same time. origins: where each word came from.
    """

    soc: Soc
    encoder: tuple[int, ...]
    llm: tuple[int, ...] | None
    overlap: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def core_mask(self) -> int | None:
        """The encoder's cores as rknn-toolkit-lite2 wants them; None where the SoC has one core, and takes no mask."""
        return MASKS[self.encoder] if self.soc.npu_cores > 1 and self.encoder else None

    @property
    def encoder_holds(self) -> tuple[int, ...]:
        """The cores that a run of the encoder holds: without overlap all of them."""
        return self.encoder if self.overlap or not self.encoder else self.soc.cores

    @property
    def llm_holds(self) -> tuple[int, ...]:
        """The cores that a run of the language model holds: without overlap all of them."""
        return self.llm if self.llm is not None and (self.overlap or not self.llm) else self.soc.cores

    @property
    def why(self) -> str:
        """Whether the parts run side by side, and the reason."""
        if self.encoder == () or self.llm == ():
            return "nothing to share: one part at most runs on the NPU"
        if self.overlap:
            return "side by side, as overlap says"
        if self.soc.npu_cores == 1:
            return "one at a time: there is one core"
        return "one at a time: both at once can freeze the driver (rknn-llm #315); overlap allows it"

    def settle(self, converted_for: int | None) -> Plan:
        """The final plan, once the model is open. converted_for: the number of cores that the runtime's log says.

        Raises CorePlanError where that is not what was said, and where the parts would share a core against overlap.
        """
        plan = self
        if self.llm != () and converted_for is not None:
            if self.llm is not None and len(self.llm) != converted_for:
                raise CorePlanError(
                    f"llm_cores is {len(self.llm)} ({self.origins['llm_cores']}), and the model was converted for "
                    f"{converted_for}, as the runtime says. Leave llm_cores out, or set it to {converted_for}."
                )
            origins = {**self.origins, "llm_cores": "the runtime's log"}
            plan = replace(self, llm=_first_cores(self.soc, converted_for, "the runtime"), origins=origins)
        if plan.overlap and plan.encoder and plan.llm is None:
            raise CorePlanError(
                "overlap needs to know how many NPU cores the model was converted for, and this release of the runtime "
                "does not say. Set llm_cores, or leave overlap out."
            )
        return _checked(plan)

    def report(self) -> dict[str, Any]:
        """The plan as plain data, in the words of the options: which cores the encoder has, how many the model has."""
        return {
            "soc": self.soc.name,
            "npu_cores": self.soc.npu_cores,
            "encoder_cores": list(self.encoder),
            "core_mask": self.core_mask,
            "llm_cores": None if self.llm is None else len(self.llm),
            "overlap": self.overlap,
            "why": self.why,
            "llm_domain": self.soc.llm_domain,
            "cpu_mask": self.soc.cpu_mask,
            "origins": dict(self.origins),
        }

    def __str__(self) -> str:
        llm = "the cores it was converted for" if self.llm is None else listed(self.llm)
        return f"{self.soc.name}: encoder on {listed(self.encoder)}, language model on {llm}; {self.why}"


def listed(cores: Iterable[int]) -> str:
    """Cores in words."""
    names = [str(core) for core in cores]
    return f"NPU core{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else "the CPU"


def make_plan(
    soc: Soc, words: Sequence[tuple[str, CoreOptions]], *, encoder_on_npu: bool = True, llm_on_npu: bool = True
) -> Plan:
    """The plan of a model on an SoC, as far as it can be told before the model is opened.

    words: where each comes from, and what it says; the first that says a thing counts. Raises CorePlanError for cores
    that the SoC does not have, and for parts that are to overlap on shared cores.
    """
    cores, from_cores = _word(words, "encoder_cores")
    number, from_number = _word(words, "llm_cores")
    overlap, from_overlap = _word(words, "overlap")
    encoder = _encoder_cores(soc, cores, from_cores) if encoder_on_npu else ()
    llm: tuple[int, ...] | None = ()
    if llm_on_npu:
        llm = None if number is None else _first_cores(soc, number, from_number)
    origins = {"encoder_cores": from_cores, "llm_cores": from_number, "overlap": from_overlap}
    return _checked(Plan(soc, encoder, llm, bool(overlap), origins))


def _word(words: Sequence[tuple[str, CoreOptions]], name: str) -> tuple[Any, str]:
    said = ((getattr(options, name), origin) for origin, options in words)
    return next(((value, origin) for value, origin in said if value is not None), (None, "default"))


def _encoder_cores(soc: Soc, text: str | None, origin: str) -> tuple[int, ...]:
    if text in (None, "auto"):
        return soc.cores
    cores = tuple(int(core) for core in text.split(","))
    if cores not in soc.core_sets:
        *some, last = (",".join(map(str, known)) for known in soc.core_sets)
        known = f"{', '.join(some)} or {last}" if some else last
        raise CorePlanError(
            f"encoder_cores is {text} ({origin}), and on {soc.name} it may be {known}. Set that, or auto for all."
        )
    return cores


def _first_cores(soc: Soc, number: int, origin: str) -> tuple[int, ...]:
    """The cores of a language model converted for so many: always the first ones (rknn-llm #215)."""
    if number > soc.npu_cores:
        raise CorePlanError(
            f"llm_cores is {number} ({origin}), and {soc.name} has {soc.npu_cores}. Convert the model for no more than "
            "that (num_npu_core)."
        )
    return soc.cores[:number]


def _checked(plan: Plan) -> Plan:
    """The plan, unless its parts are to overlap and share a core. Raises CorePlanError that says what to set."""
    shared = sorted(set(plan.encoder) & set(plan.llm or ()))
    if not plan.overlap or not shared:
        return plan
    free = [cores for cores in plan.soc.core_sets if not set(cores) & set(plan.llm or ())]
    advice = (
        f"Set encoder_cores to {','.join(map(str, free[-1]))}"
        if free
        else "Convert the model for fewer cores (num_npu_core)"
        if plan.soc.npu_cores > 1
        else "There is no way to overlap on one core"
    )
    raise CorePlanError(
        f"overlap needs cores that are not shared: the encoder has {listed(plan.encoder)}, the language model has "
        f"{listed(plan.llm or ())}, and both {listed(shared)}. {advice}, or leave overlap out."
    )
