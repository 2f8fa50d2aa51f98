"""How an engine is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vlm.engine.messages import CacheFigures, ModelFacts

State = Literal["starting", "ready", "busy", "restarting", "failed", "stopping"]


@dataclass(frozen=True)
class Totals:
    """Counts since the engine was made.

    answers: complete ones. aborted: questions that the asker left. errors: the other ends, by class of vlm.errors.
    restarts: of the model's process, whatever for; recycled: those because of its memory.
    """

    questions: int
    answers: int
    aborted: int
    errors: Mapping[str, int]
    restarts: int
    recycled: int


@dataclass(frozen=True)
class Health:
    """How an engine is at one moment.

    state: a question asked while "starting" or "restarting" waits. answering: whether one asked now would be answered:
    "ready" or "busy", and the queue not full. model: None until it was open once. waiting, in_flight: questions in the
    queue, and in the model's process. pid, rss_bytes: of that process; None and 0 where there is none. cache: lookups
    since the engine was made, and what is kept now. last_error: why the state is "failed", or why the process was last
    restarted.
    """

    state: State
    answering: bool
    model: ModelFacts | None
    waiting: int
    in_flight: int
    pid: int | None
    rss_bytes: int
    cache: CacheFigures
    totals: Totals
    last_error: str | None
