"""The turns at one model: of the threads that share it, and at the gate for the cores that its plan gives it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from vlm.errors import ModelBusyError
from vlm.gate import Gate, Hold, gate, no_check
from vlm.locate import Parts, find_profile
from vlm.lockfiles import lock_dir
from vlm.npu import Plan, Soc, choose_soc, make_plan
from vlm.options import CoreOptions, NpuOptions, checked
from vlm.pace import Pace
from vlm.profile import Profile
from vlm.settings import Settings, load_settings

log = logging.getLogger(__name__)

Words = list[tuple[str, CoreOptions]]

CHECK_S = 0.05
"""How often a thread that waits for its turn looks whether it still wants it."""


class Turn:
    """Whose turn it is: threads wait for one another, and a thread does not wait for itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def take(self, check: Callable[[], None] = no_check) -> ExitStack:
        """Wait for the turn; closing the stack gives it back. check: called while waiting; it raises to end the wait.

        Raises ModelBusyError for a second run in one thread.
        """
        me = threading.get_ident()
        if self._owner == me:
            raise ModelBusyError(
                "An answer is still being told in this thread; read its stream to the end or close it."
            )
        while not self._lock.acquire(timeout=CHECK_S):
            check()
        self._owner = me
        stack = ExitStack()
        stack.callback(self._give_back)
        return stack

    def _give_back(self) -> None:
        self._owner = None
        self._lock.release()


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
            # The host runtime, which stands for a board here, says 0: its models are converted for no NPU.
            self.plan = self.plan.settle(converted_for or None)
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
