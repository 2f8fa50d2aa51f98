"""`vlm models`: the profiles, and what is needed to run each."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """List the models that rkvlm has a profile for, and what each needs to run here."""
    import vlm

    rows = vlm.models()
    if as_json:
        print(json.dumps([vars(row) for row in rows], ensure_ascii=False, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "what it is", "runtime", "here", box=None, header_style="bold")
    for row in rows:
        state = "[green]ready[/]" if row.directory else f"needs {row.needs}"
        table.add_row(row.name, row.description, f"{row.min_release} or newer", state)
    Console().print(table)
