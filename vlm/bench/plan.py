"""How long a folder of pictures will take on a board, from figures that were measured on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.table import Table

from vlm.bench.figures import PC, Figures
from vlm.errors import OptionError
from vlm.npu import SOCS


@dataclass(frozen=True)
class Stage:
    """A stage of telling one picture. seconds: None is not known; source: who measured it, or what is missing."""

    name: str
    seconds: float | None
    source: str


@dataclass(frozen=True)
class Estimate:
    """What `images` pictures take. stages: encode, prefill, decode; overlap: the first beside the other two."""

    model: str
    soc: str
    images: int
    tokens: int
    overlap: bool
    stages: tuple[Stage, Stage, Stage]

    @property
    def picture_s(self) -> float | None:
        """Seconds from one picture to the next; None where a stage is not known."""
        encode, prefill, decode = (stage.seconds for stage in self.stages)
        if encode is None or prefill is None or decode is None:
            return None
        return max(encode, prefill + decode) if self.overlap else encode + prefill + decode

    @property
    def total_s(self) -> float | None:
        """Seconds for all of them; with overlap, the first one is encoded while nothing is told."""
        each = self.picture_s
        if each is None or self.stages[0].seconds is None or self.stages[1].seconds is None:
            return None
        if not self.overlap:
            return self.images * each
        # What is not the longer side is hidden, but for the first encoding or the last answer.
        whole = sum(stage.seconds or 0.0 for stage in self.stages)
        return self.images * each + whole - each


def estimate(
    figures: Sequence[Figures],
    *,
    model: str,
    soc: str,
    images: int,
    tokens: int,
    overlap: bool = False,
    encoder_cores: int | None = None,
) -> Estimate:
    """What the figures say; of two that fit, the first counts.

    Without overlap both parts have all cores of the SoC. With it the encoder has `encoder_cores` (one if not given) and
    the language model the others: a figure counts only if it was measured with that number of cores. Raises OptionError
    for an SoC, a model or a number of cores that there is nothing to know about.
    """
    soc = soc.lower()
    known = sorted({*SOCS, *(entry.soc for entry in figures)})
    if soc not in known:
        raise OptionError(f'There is no SoC "{soc}" known here. Known: {", ".join(known)}.')
    here = [entry for entry in figures if (entry.model, entry.soc) == (model, soc)]
    if not here:
        others = sorted({entry.model for entry in figures if entry.soc == soc})
        raise OptionError(
            f"There are no figures of {model} on {soc}; there are of: {', '.join(others) or 'none'}. Measure it there "
            "with `vlm bench model`, and give the file with --figures."
        )
    cores = SOCS[soc].npu_cores if soc in SOCS else 1
    encoder, llm = cores, cores
    if overlap:
        encoder = encoder_cores or 1
        llm = cores - encoder
        if llm < 1:
            raise OptionError(
                f"{soc} has {cores} NPU cores; with {encoder} for the encoder none is left to overlap on."
            )
    return Estimate(
        model, soc, images, tokens, overlap,
        (
            _stage("encode", "encode_ms", here, encoder, 1 / 1000),
            _stage("prefill", "prefill_ms", here, llm, 1 / 1000),
            _stage("decode", "tokens_per_second", here, llm, tokens, inverse=True),
        ),
    )  # fmt: skip


def _stage(
    name: str, figure: str, figures: Sequence[Figures], cores: int, factor: float, *, inverse: bool = False
) -> Stage:
    """A stage from the first entry that has the figure for that number of cores."""
    where = f"{cores} core{'s' if cores > 1 else ''}"
    for entry in figures:
        value = getattr(entry, figure)
        if entry.cores == cores and value is not None:
            return Stage(name, factor / value if inverse else factor * value, f"{entry.source}, {where}")
    return Stage(name, None, f"not measured on {where}")


def report(plan: Estimate) -> Table:
    """The plan as a table for the terminal."""
    how = "encoder beside the language model" if plan.overlap else "one stage after the other"
    machine = "this PC" if plan.soc == PC else plan.soc
    table = Table(
        title=f"{plan.images} pictures, {plan.model} on {machine}, {plan.tokens} tokens each\n{how}",
        box=None, title_justify="left", title_style="bold", pad_edge=False,
    )  # fmt: skip
    for heading in ("stage", "one picture", "all", "measured"):
        table.add_column(heading, justify="left" if heading in ("stage", "measured") else "right")
    for stage in plan.stages:
        whole = None if stage.seconds is None else stage.seconds * plan.images
        table.add_row(stage.name, _short(stage.seconds), _long(whole), stage.source)
    table.add_section()
    table.add_row("together", _short(plan.picture_s), _long(plan.total_s), "", style="bold")
    return table


def plot(plans: Sequence[Estimate], path: Path) -> None:
    """Draw one picture's stages as bars, .png or .svg; what is not known is hatched. Raises OptionError."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise OptionError("A plot needs matplotlib: pip install 'rkvlm[plot]'.") from exc
    colours = ("#4477aa", "#ddaa33", "#bb5566")
    figure = Figure(figsize=(8, 1.6 + 0.9 * len(plans)), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds for one picture")
    widest = max((plan.picture_s or 0.0 for plan in plans), default=0.0) or 1.0
    for row, plan in enumerate(plans):
        left = 0.0
        for index, (stage, colour) in enumerate(zip(plan.stages, colours, strict=True)):
            beside = plan.overlap and index == 0  # above the other two, not before them
            label = stage.name if row == 0 else None
            axes.barh(
                row + (0.22 if plan.overlap else 0.0) * (-1 if beside else 1),
                stage.seconds if stage.seconds is not None else widest / 6,
                height=0.4 if plan.overlap else 0.6, left=0.0 if beside else left,
                color=colour if stage.seconds is not None else "none", edgecolor=colour,
                hatch=None if stage.seconds is not None else "//", label=label,
            )  # fmt: skip
            if stage.seconds is None:
                axes.text(
                    left + widest / 12, row + 0.22, "unknown", ha="center", va="center", fontsize="small",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )  # fmt: skip
            if not beside:
                left += stage.seconds if stage.seconds is not None else widest / 6
    names = [f"{'side by side' if plan.overlap else 'one by one'}\n{_long(plan.total_s)}" for plan in plans]
    axes.set_yticks(range(len(plans)), names)
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    figure.suptitle(f"{plans[0].images} pictures, {plans[0].model} on {plans[0].soc}, {plans[0].tokens} tokens each")
    try:
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rkvlm"}):  # drawn twice, it is the same file
            figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except (OSError, ValueError) as exc:
        raise OptionError(f"The plot cannot be written to {str(path)!r}: {exc}.") from exc


def _short(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.2f} s"


def _long(seconds: float | None) -> str:
    return "unknown" if seconds is None else str(timedelta(seconds=round(seconds)))
