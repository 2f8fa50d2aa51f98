"""A person at a terminal: lines typed and edited, the history of them, Ctrl-C, and what is said on stderr."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal

log = logging.getLogger(__name__)

HISTORY_KEPT = 1000
"""How many lines of the sessions before are read."""

Completer = Callable[[str, str], list[str]]
"""From what stands before the word at the cursor, and that word, to what the word could become."""


def is_terminal(stream: Any) -> bool:
    """Whether one of sys.stdin, sys.stdout and sys.stderr is there, and is a terminal."""
    return stream is not None and bool(stream.isatty())


def say(text: str, *, role: str = "", style: str = "") -> None:
    """Say on stderr what is not an answer; `role` goes before it, in bold, and `style` counts, on a terminal only."""
    if not is_terminal(sys.stderr):
        print(f"{role}: {text}" if role else text, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((f"{role}: ", "bold"), text) if role else Text(text, style=style)
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


def note(text: str) -> None:
    """Say something by the way, dimly: to a person, not into the log of a script."""
    if is_terminal(sys.stdin) or is_terminal(sys.stderr):
        say(text, style="dim")


class Keyboard:
    """Lines typed at a terminal, with editing and a history where Python has readline; and what Ctrl-C means.

    Used as a context manager in the main thread: Ctrl-C is its own in between. `interrupted`: whether Ctrl-C was
    pressed since the last line was read.
    """

    def __init__(self, complete: Completer) -> None:
        self.interrupted = False
        self._editor = _editor(complete)
        self._history = History()
        self._place: Literal["prompt", "work", ""] = ""
        self._typed = ""

    def __enter__(self) -> Keyboard:
        if self._editor:
            for line in self._history.load():
                self._editor.add_history(line)
        self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def read(self, prompt: str) -> str | None:
        """The next line. None when there are no more, or after Ctrl-C twice in a row with nothing typed.

        Ctrl-C with something typed clears the line.
        """
        empty = 0
        while empty < 2:
            line: str | None = None
            try:
                self._typed, self._place = "", "prompt"
                with _prompt_on_terminal():
                    line = input(prompt)
                self._place = ""
            except EOFError:
                self._place = ""
                print(file=sys.stderr)
                return None
            except KeyboardInterrupt:
                empty = 0 if self._typed else empty + 1
                print(file=sys.stderr)
                if empty == 1:
                    note("Ctrl-C once more leaves, as does Ctrl-D.")
            if line is not None:
                self._history.add(line)
                self.interrupted = False
                return line
        return None

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is done about a line: Ctrl-C sets `interrupted`, and asked again it raises KeyboardInterrupt, once."""
        self._place = "work"
        try:
            yield
        finally:
            self._place = ""

    def _on_interrupt(self, _: int, __: FrameType | None) -> None:
        """Ctrl-C.

        At work it is only a wish at first, met between two pieces of an answer: there it cannot cut the run's own
        bookkeeping in two, and an abort takes effect between tokens in any case.
        """
        place, again = self._place, self.interrupted
        if place == "prompt" and self._editor:
            self._typed = self._editor.get_line_buffer()
        self.interrupted = True
        if place == "prompt" or (place == "work" and again):
            self._place = ""  # the next one must not break into what is done about this one
            raise KeyboardInterrupt


@contextmanager
def _prompt_on_terminal() -> Iterator[None]:
    """Let `input` prompt and edit on the terminal, through stderr where stdout goes elsewhere."""
    if sys.stdout is None or is_terminal(sys.stdout):
        yield
        return
    answers, descriptor = sys.stdout, os.dup(1)
    answers.flush()
    os.dup2(2, 1)
    try:
        with open(1, "w", closefd=False) as sys.stdout:  # `input` edits only where both descriptor and object are it
            yield
    finally:
        sys.stdout = answers
        os.dup2(descriptor, 1)
        os.close(descriptor)


def _editor(complete: Completer) -> ModuleType | None:
    """The readline module, with Tab set up; None where Python was built without it."""
    try:
        import readline
    except ImportError:
        return None
    candidates: list[str] = []

    def nth(text: str, state: int) -> str | None:
        if state == 0:
            candidates[:] = complete(readline.get_line_buffer()[: readline.get_begidx()], text)
        return candidates[state] if state < len(candidates) else None

    readline.set_completer(nth)
    readline.set_completer_delims(" ")
    # Some Pythons are built with libedit, which has another language for the same.
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    return readline


class History:
    """What was typed in the sessions before: a file of the user's own, in the state directory. No file, no harm.

    One line each, whatever library edits them, and written at once: whatever ends the program loses none.
    """

    def __init__(self) -> None:
        state = os.environ.get("XDG_STATE_HOME", "")
        base = state if os.path.isabs(state) else os.path.expanduser("~/.local/state")
        self.path = Path(base) / "rkvlm" / "chat_history"
        self._last = ""

    def load(self) -> list[str]:
        """The lines of the sessions before, the oldest first; at most HISTORY_KEPT."""
        try:
            lines = self.path.read_text("utf-8", "replace").split("\n")[:-1]
        except OSError as exc:
            log.info("There is no history to read: %s", exc)
            return []
        if len(lines) > 2 * HISTORY_KEPT:
            self._write(lines[-HISTORY_KEPT:], os.O_TRUNC)
        return lines[-HISTORY_KEPT:]

    def add(self, line: str) -> None:
        """Write a line down; one that was just typed before is not written again."""
        line = " ".join(line.split())
        if line and line != self._last:
            self._last = line
            self._write([line], os.O_APPEND)

    def _write(self, lines: list[str], how: int) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | how, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
                os.fchmod(descriptor, 0o600)
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as exc:
            log.info("The history is not kept: %s", exc)
