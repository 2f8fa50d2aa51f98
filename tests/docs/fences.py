"""The fenced blocks of the documentation: where each is, what kind it is, and how it is run.

A block of `sh` or `python` is run. A `text` block right after one is what it says, line by line; a line `...` stands
for any others, and `…` inside a line for anything. A block that begins with ON_A_BOARD is not run, but its commands are
looked up: every option is one that the command has.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import typer
from sample_pictures import ROOT

from vlm.cli import app

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(path for room in ("docs", "configs", "deploy", "samples") for path in sorted((ROOT / room).rglob("*.md"))),
]
KINDS = ("sh", "python", "toml", "text")
ON_A_BOARD = ("# on a board", "# 在开发板上")
ELSEWHERE = {
    "samples/try.sh": ".ci/run",
    "tests/run.sh": ".ci/run",
    "python tests/board/rehearse.py": "tests/board/test_rehearsal.py",
}
"""Commands that another check runs, and which."""
SLOW = ("vlm bench", "vlm convert", "python samples/demo")
SERVICE = re.compile(r"\b(?:127\.0\.0\.1|localhost|board):8080\b")
EXIT = re.compile(r"# exit code (\d+)$", re.MULTILINE)
VLM = f'{shlex.quote(sys.executable)} -c "from vlm.cli import main; main()"'
_WRITTEN_OUT = re.compile(r"^(.*)<<'(\w+)'\n.*?^\2$", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Fence:
    """One block: its page, the line it begins at, its language, its text, and what it is said to print."""

    page: Path
    line: int
    kind: str
    text: str
    says: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def on_a_board(self) -> bool:
        return self.text.startswith(ON_A_BOARD)

    @property
    def served(self) -> bool:
        """It asks a service."""
        return SERVICE.search(self.text) is not None

    @property
    def serves(self) -> bool:
        """It is the service."""
        return any(line.startswith("vlm serve") and "--new-key" not in line for line in self.commands)

    @property
    def converts(self) -> bool:
        """It wants the vendor's converter, and a model of its authors."""
        return any(line.startswith("vlm convert") for line in self.commands)

    @property
    def exports(self) -> bool:
        """It makes a model's ONNX files itself."""
        return any(line.startswith(("vlm convert export", "vlm convert host")) for line in self.commands)

    @property
    def slow(self) -> bool:
        return any(line.startswith(SLOW) for line in self.commands)

    @property
    def commands(self) -> list[str]:
        """Its lines without comments and without files that are written out in it; continued ones in one."""
        text = _WRITTEN_OUT.sub(r"\1", self.text).replace("\\\n", " ")
        lines = [line.partition("  #")[0].strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def fences() -> Iterator[Fence]:
    """All blocks of all pages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = list(_FENCE.finditer(text))
        for number, block in enumerate(found):
            after = found[number + 1] if number + 1 < len(found) else None
            follows = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
            says = after[2] if after is not None and follows else None
            yield Fence(page, text.count("\n", 0, block.start()) + 1, block[1], block[2], says)


def run(fence: Fence, desk: Path, address: str = "") -> str:
    """Run a block at a desk (see desk.py) with this environment's `vlm`, and return what it says on both streams."""
    text = SERVICE.sub(address, fence.text) if address else fence.text
    ours = str(Path(sys.executable).parent)  # the environment's commands, as where it is activated
    if fence.kind == "sh":
        script = f'vlm() {{ {VLM} "$@"; }}\npython() {{ {shlex.quote(sys.executable)} "$@"; }}\n{text}'
        command = ["bash", "-euo", "pipefail", "-c", script]
    else:
        command = [sys.executable, "-W", "error", "-c", text]
    done = subprocess.run(
        command,
        cwd=desk,
        env={**os.environ, "PATH": f"{ours}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200 if fence.slow else 240,
        check=False,
    )
    expected = int(found[1]) if (found := EXIT.search(text)) else 0
    assert done.returncode == expected, f"exit code {done.returncode}:\n{done.stdout}"
    return done.stdout


def missing(said: str, text: str) -> list[str]:
    """The lines of a `text` block that were not said, in their order."""
    lines = [line.strip() for line in said.splitlines()]
    gone = []
    for wanted in (line.strip() for line in text.splitlines() if line.strip() not in ("", "...")):
        pattern = ".*".join(map(re.escape, wanted.split("…")))
        at = next((n for n, line in enumerate(lines) if re.fullmatch(pattern, line)), None)
        if at is None:
            gone.append(wanted)
        else:
            lines = lines[at + 1 :]
    return gone


def wrong_words(command: str) -> str | None:
    """What is wrong with a command: an option that `vlm` or a script does not have, a script that is not there."""
    words = shlex.split(command, comments=True)
    words = words[1:] if words[0] == "sudo" else words
    if words[0] in ("vlm", ".venv/bin/vlm"):
        return _wrong_vlm(words[1:])
    script = ROOT / words[0]
    if "/" in words[0] and script.is_relative_to(ROOT) and not words[0].startswith("/"):
        if not script.is_file():
            return f"{words[0]} is not there"
        text = script.read_text(encoding="utf-8")
        return next((f"{words[0]} has no {word}" for word in words if word.startswith("--") and word not in text), None)
    return None


def _wrong_vlm(words: list[str]) -> str | None:
    command: click.Command = typer.main.get_command(app)
    name = "vlm"
    while isinstance(command, click.Group):
        if not words or words[0] not in command.commands:
            return f"{name} has no command {words[:1]}"
        name, command, words = words[0], command.commands[words[0]], words[1:]
    try:
        command.make_parser(click.Context(command, info_name=name)).parse_args(list(words))
    except click.UsageError as exc:
        return f"vlm {name}: {exc.format_message()}"
    return None
