"""All the checks, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vlm.doctor import board, encoder, llm, software
from vlm.doctor.case import Case, Line, Machine, make_case
from vlm.settings import load_settings

CHECKS: tuple[Callable[[Case], Iterator[Line]], ...] = (
    board.check_soc,
    board.check_kernel,
    board.check_driver,
    board.check_node,
    software.check_rkllm_library,
    software.check_rknn_library,
    software.check_python,
    encoder.check_profile,
    encoder.check_encoder,
    llm.check_llm,
    board.check_memory,
    board.check_clocks,
)


def diagnose(
    root: Path = Path("/"),
    model: str | Path | None = None,
    *,
    encoder: str | Path | None = None,
    llm: str | Path | None = None,
) -> list[Line]:
    """Every line about the system under `root` and the model that it is to run; arguments as for `vlm.load`.

    Raises OptionError where a setting is wrong, or where another system is looked at and no model is named.
    """
    case = make_case(Machine(root), load_settings(), model, encoder=encoder, llm=llm)
    return [line for check in CHECKS for line in check(case)]
