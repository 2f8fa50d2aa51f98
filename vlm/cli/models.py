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

    table = Table("model", "what it is", "runtime", "encoder", "language model", box=None, header_style="bold")
    for row in rows:
        encoder = _state(row.encoder is not None, row.wanted["encoder"])
        llm = _state(row.llm is not None, row.wanted["llm"])
        table.add_row(row.name, row.description, f"{row.min_release} or newer", encoder, llm)
    console = Console()
    console.print(table)
    if any(row.unproven for row in rows):
        # In words rather than in a column: a wrong value does not crash, it makes the model stupid.
        console.print("\nUnproven (inferred, or read for a sister model only); check these against your model:")
        for row in rows:
            if row.unproven:
                console.print(f"  {row.name}: {', '.join(row.unproven)}", soft_wrap=True, highlight=False)
    for row in rows:
        if row.hub and not row.ready:
            console.print(f"\n`vlm pull {row.name}` fetches {row.hub} from the hub.", soft_wrap=True, highlight=False)
    missing = next((row for row in rows if not row.ready), None)
    if missing is not None:
        place = missing.directory.parent / "MODEL"
        console.print(f"\nFiles are looked for in {place} (setting VLM_MODELS_DIR).", soft_wrap=True)


def _state(there: bool, wanted: list[str]) -> str:
    """Ready, or what is looked for: the first name, which is the PC's, and the widest one, which is the board's."""
    names = ["a directory with config.json" if name == "." else name for name in (wanted[0], wanted[-1])]
    return "[green]ready[/]" if there else " or ".join(dict.fromkeys(names))
