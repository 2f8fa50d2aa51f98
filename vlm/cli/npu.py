"""`vlm npu`: which NPU cores a model uses, who runs beside whom, and who holds the NPU now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vlm.cli.options import Model, takes
from vlm.options import CoreOptions


@takes(CoreOptions, into="words")
def npu(
    *,
    model: Model = None,
    soc: Annotated[str | None, typer.Option("--soc", help="Show the plan for this SoC: rk3588, rk3576, ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    words: dict[str, Any],
) -> None:
    """Show the plan of a model on the NPU: cores, masks, domains, and who holds the NPU now.

    Nothing is opened. How many cores the language model uses is in its file, and said by the runtime when it is opened.
    """
    import vlm

    plan = vlm.core_plan(model, soc=soc, **words)
    if as_json:
        print(json.dumps(plan, ensure_ascii=False))
    elif plan["soc"] is None:
        print("This machine has no Rockchip NPU that its device tree tells of. --soc rk3588 shows the plan for one.")
    else:
        _print(plan)


def _print(plan: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    origins = plan["origins"]
    llm = plan["llm_cores"]
    mask = "none: one core" if plan["core_mask"] is None else f"{plan['core_mask']} (core_mask)"
    rows = [
        ("model", plan["model"], ""),
        ("SoC", f"{plan['soc']}, {plan['npu_cores']} NPU core{'s' if plan['npu_cores'] > 1 else ''}", ""),
        ("encoder", f"{_cores(plan['encoder_cores'])}; mask {mask}; domain 0", origins["encoder_cores"]),
        (
            "language model",
            f"{'known once it is open' if llm is None else _cores(range(llm))}; domain {plan['llm_domain']}; "
            f"CPUs {plan['cpu_mask']:#04x}",
            origins["llm_cores"],
        ),
        ("both", plan["why"], origins["overlap"]),
    ]
    rows += [
        (f"core {core} now", f"held by process {who['pid']} ({who['command']})" if who else "free", plan["lock_dir"])
        for core, who in plan["held"].items()
    ]
    table = Table("", "plan", "from", box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False).print(table)


def _cores(cores: Sequence[int]) -> str:
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(map(str, cores))}"
