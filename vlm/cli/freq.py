"""`vlm freq`: the clocks of a board, fixed for a measurement and put back."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm.cli.options import Root

if TYPE_CHECKING:
    from vlm.freq import Write

app = typer.Typer(help="Show, fix and restore the clocks of a board: NPU, CPU, DDR, GPU.", no_args_is_help=True)
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")]


@app.command()
def show(
    root: Root = Path("/"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the clocks as JSON.")] = False,
) -> None:
    """Show every clock: its frequency now, its range, its governor."""
    from vlm import freq

    found = freq.clocks(root)
    if as_json:
        rows = [
            {
                "unit": clock.unit,
                "there": clock.there,
                "governor": clock.governor,
                "hz": clock.current,
                "available_hz": clock.available,
            }
            for clock in found
        ]
        print(json.dumps({"fixed": freq.is_fixed(root), "clocks": rows}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("unit", "now", "range", "governor", box=None, header_style="bold")
    for clock in found:
        if clock.there:
            ends = f"{_mhz(clock.available[0])} to {_mhz(clock.available[-1])}" if clock.available else "not said"
            table.add_row(clock.unit, _mhz(clock.current), ends, clock.governor or "none")
        else:
            table.add_row(clock.unit, "not there", "", "")
    Console(markup=False).print(table)
    if freq.is_fixed(root):
        print("They were fixed by `vlm freq`; `vlm freq restore` puts them back.")


@app.command()
def fix(root: Root = Path("/"), dry_run: DryRun = False) -> None:
    """Fix every clock at its highest frequency (root only). A clock that this board does not have is passed over."""
    from vlm import freq

    _say(freq.writes_to_fix(freq.clocks(root)) if dry_run else freq.fix(root), dry_run)


@app.command()
def restore(root: Root = Path("/"), dry_run: DryRun = False) -> None:
    """Put every clock back as it was before it was fixed, after a crash too (root only)."""
    from vlm import freq

    _say(freq.writes_to_restore(root) if dry_run else freq.restore(root), dry_run)


@app.command()
def run(
    command: Annotated[list[str], typer.Argument(help="The command and its own options, after --.", metavar="COMMAND")],
    root: Root = Path("/"),
    dry_run: DryRun = False,
) -> None:
    """Run a command with the clocks fixed, and restore them however it ends (root only).

    The exit code is the command's. Example: sudo vlm freq run -- vlm bench decode
    """
    from vlm import freq

    if dry_run:
        _say(freq.writes_to_fix(freq.clocks(root)), dry_run)
        return
    code, restored = freq.run(command, root)
    if not restored:
        print("vlm: the clocks were fixed before, and stay so; `vlm freq restore` puts them back", file=sys.stderr)
    raise typer.Exit(code)


def _say(writes: Sequence[Write], dry_run: bool) -> None:
    for write in writes:
        print(f"{'would write' if dry_run else 'wrote'} {write.value} to /{write.path}")


def _mhz(hertz: int | None) -> str:
    return "not said" if hertz is None else f"{hertz / 1e6:.0f} MHz"
