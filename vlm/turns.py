"""The NPU as one model uses it: the plan of its cores, and its turns at the gate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from vlm.gate import Gate, Hold, gate
from vlm.locate import Parts, find_profile
from vlm.lockfiles import lock_dir
from vlm.npu import Plan, Soc, choose_soc, make_plan
from vlm.options import CoreOptions, NpuOptions, checked
from vlm.pace import Pace
from vlm.profile import Profile
from vlm.settings import Settings, load_settings

log = logging.getLogger(__name__)

Words = list[tuple[str, CoreOptions]]


class NpuTurns:
    """What a model may use of the NPU, and when. plan: None where there is none, and then nothing has to wait.

    Made by `open_turns`.
    """

    def __init__(self, plan: Plan | None, way: Gate, *, wait: bool = True) -> None:
        self.plan = plan
        self._gate, self._wait = way, wait

    def opening(self) -> Hold:
        """All cores, while a model is opened: which of them that takes is not known before. Raises as `Gate.take`."""
        plan = self.plan
        return self._gate.take(plan.soc.cores if plan and (plan.encoder or plan.llm != ()) else (), wait=self._wait)

    def encoder(self, check: Callable[[], None]) -> Hold:
        """The cores that a run of the encoder holds. check: raises to end the wait. Raises as `Gate.take`."""
        return self._gate.take(self.plan.encoder_holds if self.plan else (), wait=self._wait, check=check)

    def llm(self, check: Callable[[], None]) -> Hold:
        """The cores that a run of the language model holds; see `encoder`."""
        return self._gate.take(self.plan.llm_holds if self.plan else (), wait=self._wait, check=check)

    def settle(self, converted_for: int | None) -> None:
        """Make the plan final, see `Plan.settle`, and log it. Raises CorePlanError."""
        if self.plan is not None:
            self.plan = self.plan.settle(converted_for)
            log.info("NPU plan for %s", self.plan)


def open_turns(parts: Parts, settings: Settings, said: NpuOptions) -> NpuTurns:
    """The plan of a model that is about to be opened. said: in the call; the settings and the profile come after it.

    Raises CorePlanError.
    """
    soc = choose_soc(settings.soc)
    pace = settings.pace or Pace()
    # On a PC that stands for a board, what takes the board's time stands for its NPU.
    encoder = parts.encoder is not None and (parts.encoder.suffix.lower() == ".rknn" or pace.paces_encoder)
    llm = parts.side == "board" or pace.paces_llm
    words = _words(said, settings, parts.profile)
    plan = make_plan(soc, words, encoder_on_npu=encoder, llm_on_npu=llm) if soc else None
    _say_what_is_unused(words[:-1], soc, encoder=encoder, llm=llm)
    no_wait = said.no_wait if said.no_wait is not None else settings.no_wait
    return NpuTurns(plan, gate(lock_dir(settings.lock_dir)), wait=not no_wait)


def core_plan(model: str | None = None, *, soc: str | None = None, **words: Any) -> dict[str, Any]:
    """The plan of a model, encoder and language model both on the NPU, and who holds the NPU's cores now.

    model: as in `vlm.load`; only its profile is read, nothing is opened. soc: another SoC than this machine's. words:
    fields of `vlm.options.NpuOptions`. Returns plain data; "soc" is None where there is none, and nothing follows then.
    Raises ProfileError, OptionError, CorePlanError, NPULockError.
    """
    settings = load_settings()
    said = checked(NpuOptions, words)
    profile, _ = find_profile(model, settings)
    here = choose_soc(settings.soc)
    chosen = choose_soc(soc, elsewhere=True) if soc else here
    if chosen is None:
        return {"model": profile.name, "soc": None}
    plan = make_plan(chosen, _words(said, settings, profile))
    way = gate(lock_dir(settings.lock_dir))
    holders = way.holders(chosen.cores) if chosen == here else {}
    held = {str(core): vars(holder) if holder else None for core, holder in holders.items()}
    return {"model": profile.name, **plan.report(), "lock_dir": str(way.directory), "held": held}


def _words(said: NpuOptions, settings: Settings, profile: Profile) -> Words:
    return [("the call", said), ("the settings, VLM_*", settings), (f"profile {profile.name}", profile.cores)]


def _say_what_is_unused(words: Words, soc: Soc | None, *, encoder: bool, llm: bool) -> None:
    """A word that was said and means nothing is not passed over in silence."""
    used = {"encoder_cores": encoder and soc, "llm_cores": llm and soc, "overlap": soc}
    for name, use in used.items():
        if not use and any(getattr(options, name) is not None for _, options in words):
            why = "that part of the model runs on the CPU" if soc else "this machine has no Rockchip NPU"
            log.warning("%s means nothing here: %s.", name, why)
