"""`vlm doctor`: whether this machine can run a model, on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm.cli.options import Encoder, Llm, Model, Root
from vlm.errors import MachineError

if TYPE_CHECKING:
    from vlm.doctor.case import Line

_STYLES = {"fine": "green", "warning": "yellow", "error": "bold red"}


def doctor(
    *,
    model: Model = None,
    encoder: Encoder = None,
    llm: Llm = None,
    root: Root = Path("/"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the page as JSON.")] = False,
) -> None:
    """Say whether this machine can run a model: each line is fine, a warning or an error, with what to do.

    Nothing runs on the NPU. The exit code is 0 where nothing is an error, else 12.
    """
    from vlm.doctor.examine import diagnose

    lines = diagnose(root, model, encoder=encoder, llm=llm)
    if as_json:
        print(json.dumps([vars(line) for line in lines], ensure_ascii=False))
    else:
        _print(lines)
    errors = [line.topic for line in lines if line.level == "error"]
    if errors:
        raise MachineError(f"to be put right: {', '.join(errors)}.")


def _print(lines: Sequence[Line]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    for line in lines:
        said = Text(line.found)
        if line.advice:
            said.append(f"\n-> {line.advice}", style="bold")
        table.add_row(Text(line.level, style=_STYLES[line.level]), line.topic, said)
    Console(markup=False, highlight=False).print(table)
