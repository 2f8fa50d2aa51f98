"""What the README shows is run: its Python, its commands about sample pictures, and the scripts in samples/."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from sample_pictures import ROOT, TRUTH

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
LINES = [
    line.partition("  #")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line
]
# These name files that only their reader has.
OWN_FILES = [line for line in LINES if "photo.jpg" in line or ".rkllm" in line]
BENCHES = [line for line in LINES if line.startswith("vlm bench")]
# These need a service; tests/server/test_readme_service.py has one.
SERVED = [line for line in LINES if "8080" in line or line == "vlm serve"]
HERE = [line for line in LINES if line not in OWN_FILES + BENCHES + SERVED and "vlm " in line]
SCRIPTS = sorted(path.name for path in (ROOT / "samples").glob("*.py"))


@pytest.fixture(autouse=True)
def _settings(clean_settings: None) -> None:
    """Every command here starts without the machine's own settings."""


def run(command: str) -> str:
    """Run a line of the README with this environment's `vlm`, from the root of the checkout."""
    script = f'vlm() {{ {shlex.quote(sys.executable)} -c "from vlm.cli import main; main()" "$@"; }}\n{command}'
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_commands_are_there() -> None:
    assert [line for line in LINES if not line.startswith(("vlm", "cat", "curl"))] == ["samples/try.sh", "tests/run.sh"]
    said = " ".join(README.split())
    assert TRUTH["traffic-light.jpg"] in said


@pytest.mark.parametrize("line", HERE)
def test_a_command_of_the_readme_works(line: str) -> None:
    assert run(line).strip()


def test_the_readmes_python_works() -> None:
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "There are two stars.",
        TRUTH["two-hearts.png"],
        "The red heart is on the left.",
        "Yes, there is a heart.",
    ]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_sample_script_works(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "samples" / name)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) < 250
