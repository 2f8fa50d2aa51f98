"""`vlm models`: the profiles, and what is needed to run each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vlm import ModelInfo


def models(
    model: Annotated[
        str | None, typer.Argument(help="Say all of this one: a profile's name, a profile file, or a model directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models that rkvlm has a profile for, and what each needs to run here."""
    import vlm

    rows = vlm.models(model)
    if as_json:
        print(json.dumps([vars(row) for row in rows], ensure_ascii=False, default=str))
    elif model is None:
        _print_list(rows)
    else:
        _print_one(rows[0])


def _print_list(rows: Sequence[ModelInfo]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "what it is", "runtime", "here", box=None, header_style="bold")
    for row in rows:
        table.add_row(row.name, row.description, f"{row.min_release} or newer", _state(row))
    console = Console(highlight=False)
    console.print(table)
    # In words rather than in a column: a wrong value does not crash, it makes the model stupid.
    console.print("\nUnproven (inferred, or read for a sister model only); check these against your model:")
    for row in rows:
        if row.unproven:
            console.print(f"  {row.name}: {', '.join(row.unproven)}", soft_wrap=True)
    if pulled := [row.name for row in rows if row.hub and not row.ready]:
        console.print(f"\nFrom the hub: {', '.join(f'`vlm pull {name}`' for name in pulled)}.", soft_wrap=True)
    missing = next((row for row in rows if not row.ready), None)
    if missing is not None:
        place = missing.directory.parent / "MODEL"
        console.print(f"\nFiles are looked for in {place} (setting VLM_MODELS_DIR).", soft_wrap=True)
    console.print("`vlm models MODEL` says which files, and all else of one.")


def _state(row: ModelInfo) -> str:
    if row.ready:
        return "[green]ready[/]"
    part = "encoder" if row.encoder else "language model" if row.llm else None
    return f"{part} only" if part else "no files"


def _print_one(row: ModelInfo) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(row):
        table.add_row(name, value)
    Console(markup=False, highlight=False).print(table)


def _facts(row: ModelInfo) -> Iterator[tuple[str, str]]:
    yield "model", row.name
    yield "what it is", row.description
    yield "runtime", f"{row.min_release} or newer"
    yield "a picture", f"{row.pixels[0]} x {row.pixels[1]} pixels, {row.tokens} tokens"
    for name, found, wanted in (
        ("encoder", row.encoder, row.wanted["encoder"]),
        ("language model", row.llm, row.wanted["llm"]),
    ):
        names = ["ONNX files, config.json among them" if each == "." else each for each in wanted]
        yield name, str(found) if found else f"not in {row.directory}; looked for {', '.join(dict.fromkeys(names))}"
    if row.hub:
        yield "hub", f"{row.hub}; `vlm pull {row.name}`"
    for soc, words in row.cores.items():
        yield f"on {soc}", words
    yield "unproven", ", ".join(row.unproven) or "nothing"
    yield from row.sources.items()
