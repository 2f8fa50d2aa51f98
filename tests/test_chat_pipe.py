"""`vlm chat` with questions from a pipe or a file: each line is one, the answers alone go to stdout."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from chat_rig import GREETING, HEARTS, LIGHT, NO_PICTURE, PROGRAM, board
from sample_pictures import PICTURES, TRUTH

from vlm import errors

pytestmark = pytest.mark.usefixtures("clean_settings")


def script(*words: object, lines: str | bytes = "") -> subprocess.CompletedProcess[str]:
    given = lines.encode() if isinstance(lines, str) else lines
    done = subprocess.run([*PROGRAM, *map(str, words)], input=given, capture_output=True, timeout=120, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_questions_from_a_pipe() -> None:
    lines = f"""\
What is in the picture?

/image {HEARTS}
  Describe the picture.
How big is the red heart?\r
/clear
/image {LIGHT}
Describe the picture."""
    done = script("-m", "demo", lines=lines)
    said = [NO_PICTURE, TRUTH[HEARTS.name], "The red heart is large.", TRUTH[LIGHT.name]]
    assert (done.stdout.splitlines(), done.stderr, done.returncode) == (said, "", 0)


def test_nothing_to_ask() -> None:
    assert script("-m", "demo", lines="").returncode == 0
    done = script(LIGHT, "-m", "demo", lines="Hello\n/exit\nHello\n")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    closed = subprocess.run(
        ["bash", "-c", '"$@" <&-', "bash", *PROGRAM, "-m", "demo"], capture_output=True, check=False
    )
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, b"", b"")


def test_an_error_is_one_line_and_the_conversation_goes_on() -> None:
    wrong = {
        b"/image gone.png": "gone.png",
        b"/image " + __file__.encode(): "picture",
        b"/image " + bytes(PICTURES): "directory",
        b"/tell me": "/help",
        b"What is \xff?": "no text",
        b"a\0b": "NUL",
    }
    done = script("-m", "demo", lines=b"\n".join(wrong) + b"\nHello\n/history\n")
    assert done.stdout == GREETING + "\n"
    told = done.stderr.splitlines()
    for line, said in zip(told, wrong.values(), strict=False):
        assert line.startswith("vlm: ")
        assert said in line
    assert told[len(wrong) :] == ["user: Hello", f"assistant: {GREETING}"]
    assert done.returncode == errors.ImageError.exit_code  # the first one's
    assert script("-m", "demo", lines="/nope\n/image gone.png\n").returncode == errors.RequestError.exit_code


def test_a_wrong_picture_or_option_ends_the_command() -> None:
    for words, kind in ((["gone.jpg"], errors.ImageError), (["--top-p", 7], errors.OptionError)):
        done = script(*words, lines="Hello\n")
        assert (done.returncode, done.stdout) == (kind.exit_code, "")
        assert "Traceback" not in done.stderr


def test_a_full_context_says_how_to_go_on() -> None:
    done = script(LIGHT, "-m", "demo", "--max-new-tokens", 2000, lines="Describe the picture.\n/clear\nHello\n")
    assert done.stdout == GREETING + "\n"
    assert "/clear" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == errors.ContextTooLongError.exit_code


def test_what_was_said_goes_with_every_question(tmp_path: Path) -> None:
    """The stand-in obeys the first words in brackets of all that it is sent."""
    lines = """\
[id=one][tokens=1]
[id=two][tokens=1]
/clear
[id=two][tokens=1]
/system [id=system]
[id=three]
/clear
[id=three][tokens=1]
/system
[id=four][tokens=1]
/clear
[id=four][tokens=1]
"""
    done = script(*board(tmp_path), lines=lines)
    said = ["one", "one", "two", "system", "system", "three", "four"]
    assert done.stdout.split() == [f"{name}:0" for name in said]
    assert done.returncode == 0


def test_an_answer_comes_when_its_line_is_there_and_nobody_has_to_read_it() -> None:
    with subprocess.Popen(
        [*PROGRAM, "-m", "demo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin
        assert child.stdout
        assert child.stderr
        for line, answer in ((b"Hello\n", GREETING), (b"What is in the picture?\n", NO_PICTURE)):
            child.stdin.write(line)
            child.stdin.flush()
            assert child.stdout.readline().decode() == answer + "\n"
        child.stdout.close()
        child.stdin.write(b"Hello\n")
        child.stdin.close()
        assert b"Traceback" not in child.stderr.read()
        assert child.wait(30) != 0


def test_ctrl_c_ends_a_script() -> None:
    with subprocess.Popen(
        [*PROGRAM, "-m", "demo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin
        assert child.stdout
        assert child.stderr
        child.stdin.write(b"Hello\n")
        child.stdin.flush()
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(30) != 0
        assert b"Traceback" not in child.stderr.read()
