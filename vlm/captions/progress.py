"""How a run goes, for whoever looks on: a bar on a terminal, a line now and then in a log; and what came of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from vlm.captions.records import Failed, Outcome, Result, label

LINE_S = 10.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Says on stderr how far a run is; a context manager. See `vlm.captions.work.Watcher`."""

    def __init__(self, line_s: float = LINE_S) -> None:
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
            self._bar = Bar(*columns, console=console, transient=True)
        self._line_s, self._said = line_s, 0.0
        self._pictures = self._over = self._told = self._failed = self._tokens = 0
        self._names: Sequence[str] = ()
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Say something by the way."""
        if self._bar is not None:
            self._bar.console.print(f"vlm: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"vlm: {text}", file=sys.stderr, flush=True)

    def begin(self, pictures: int, done: int, failed: int) -> None:
        """So many pictures there are, and so many of them are over already; `failed` of those without a caption."""
        self._pictures, self._over, self._failed = pictures, done, failed
        if not pictures:
            self.say("no pictures there; --recursive looks into the folders within, --include and --exclude choose")
            return
        told = f", {done - failed} of them told before" if done > failed else ""
        without = f", {failed} failed before (--retry-errors tries again)" if failed else ""
        self.say(f"{pictures} pictures{told}{without}")
        if self._bar is not None and pictures > done:
            self._bar.add_task("", total=pictures, completed=done)
            self._bar.start()

    def settled(self, outcome: Outcome) -> None:
        """One more is over."""
        if not self._told:
            self._said = time.monotonic()
        self._over += 1
        self._told += 1
        if isinstance(outcome, Failed):
            self._failed += 1
            self.say(printable(f"{outcome.found.name}: {outcome.message}"))
        else:
            self._tokens += outcome.tokens
        self._show()

    def at_work(self, names: Sequence[str]) -> None:
        """These pictures are under way. The clock starts with the first: opening the model is not counted."""
        if not self._names:
            self._began = time.monotonic()
        self._names = names
        self._show()

    def page(self, number: int, pages: int) -> None:
        """A page of the gallery is written."""
        if number == pages or time.monotonic() - self._said >= self._line_s:
            self._said = time.monotonic()
            self.say(f"the gallery has {number} of {pages} pages")

    def _show(self) -> None:
        name = printable(self._names[0]) if self._names else ""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._over, description=f"{self._figures()}  {name}")
        elif self._told and time.monotonic() - self._said >= self._line_s:
            self._said = time.monotonic()
            self.say(f"{self._over} of {self._pictures}, {self._figures()}, now {name}")

    def _figures(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-3)
        parts = [f"{self._failed} failed" if self._failed else ""]
        if self._told:
            left = (self._pictures - self._over) * seconds / self._told
            parts += [rate(self._told, seconds), f"{timedelta(seconds=round(left))} left"]
        if self._tokens:
            parts.append(f"{self._tokens / seconds:.0f} tokens/s")
        return ", ".join(filter(None, parts))


def rate(pictures: int, seconds: float) -> str:
    """Pictures per second, or per minute where they are slow."""
    per_second = pictures / max(seconds, 1e-3)
    return f"{per_second:.1f} pictures/s" if per_second >= 1 else f"{per_second * 60:.1f} pictures/min"


def printable(text: str) -> str:
    """A name or a message as a terminal may show it: nothing in it moves the cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in label(text))


def summary(result: Result) -> Table:
    """What came of a run."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "pictures": result.pictures,
        "told now": result.told,
        "told before": result.done_before,
        "same content as another": result.reused,
        "failed": result.failed.total(),
        **{f"  {name}": count for name, count in result.failed.most_common()},
        "not reached": result.left,
        ".txt of somebody else's, left alone": result.kept_txt,
    }
    for name, count in rows.items():
        if count or name in ("pictures", "told now", "failed"):
            table.add_row(name, str(count))
    if result.told:
        table.add_row("time", str(timedelta(seconds=round(result.seconds))))
        table.add_row("rate", rate(result.told, result.seconds))
    if result.tokens:
        table.add_row("tokens per second", f"{result.tokens / result.seconds:.1f}")
    return table
