"""`vlm chat`, driven as people drive it: in a pseudo-terminal."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from chat_rig import GREETING, HEARTS, LIGHT, NO_PICTURE, PROGRAM, STAR, board
from sample_pictures import PICTURES, TRUTH

# Python 3.12 warns of fork in a process with threads; the child becomes another program at once.
pytestmark = [
    pytest.mark.usefixtures("clean_settings"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of forkpty:DeprecationWarning"),
]

PROMPT = r"\n(?:\x1b\[\?2004h)?(?:\[\d+ pictures?\] )?> "
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\x07]")


class Terminal:
    """The program in a pseudo-terminal. `said`: the lines since what was typed last, without it and without escapes."""

    def __init__(self, command: list[str], state: Path) -> None:
        env = {**os.environ, "TERM": "xterm", "INPUTRC": os.devnull, "XDG_STATE_HOME": str(state)}
        env.pop("NO_COLOR", None)
        self.child = pexpect.spawn(
            command[0], command[1:], env=env, encoding="utf-8", timeout=60, dimensions=(50, 400), echo=True
        )
        self.child.delaybeforesend = None
        self.raw = ""
        self.said = self.wait()

    def wait(self, pattern: str = PROMPT) -> list[str]:
        """Wait for a pattern, the next prompt's if none is given; the lines before it."""
        self.child.expect(pattern)
        self.raw = self.child.before + self.child.after
        return ESCAPES.sub("", self.raw).split("\n")[:-1]

    def ask(self, line: str) -> list[str]:
        self.child.send(line + "\r")
        self.said = self.wait()[1:]
        return self.said

    def interrupt(self) -> None:
        self.child.sendintr()

    def settle(self) -> None:
        """Get in step again after a Ctrl-C that met the program nobody knows where.

        With Ctrl-C a terminal drops what is on its way to the screen, a prompt too; and a line that is there before the
        program has met the Ctrl-C can be lost to it.
        """
        time.sleep(0.1)
        for number in range(10):
            self.child.send(f"/probe{number}\r")
            if self.child.expect([f"no command /probe{number};", pexpect.TIMEOUT], timeout=3) == 0:
                break
        self.wait()

    @property
    def prompt(self) -> str:
        return ESCAPES.sub("", str(self.child.after)).strip("\n")

    def leave(self, keys: str = "/exit\r") -> int:
        self.child.send(keys)
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: object, command: list[str] | None = None) -> Terminal:
        opened.append(Terminal(command or [*PROGRAM, *map(str, words)], tmp_path / "state"))
        return opened[-1]

    yield start
    for one in opened:
        one.child.close(force=True)


# --- at a terminal, with the demo model -----------------------------------------------------------------------------


def test_a_conversation_about_a_picture(terminal: Callable[..., Terminal]) -> None:
    """Five turns, an answer aborted, a turn after it, and a new beginning; every answer is true."""
    talk = terminal(HEARTS, "--model", "demo")
    assert talk.prompt == "[1 picture] > "
    told, figures = talk.ask("Describe the picture.")
    assert told == TRUTH[HEARTS.name]
    assert re.fullmatch(r"\d+ tokens, [\d.]+ tokens/s, first text after \d+ ms, pictures encoded in \d+ ms", figures)
    assert f"\x1b[2m{figures}" in talk.raw  # dim
    assert talk.prompt == "> "
    turns = {
        "Where is the purple heart?": "The purple heart is on the right.",
        "And how big is it?": "The purple heart is small.",
        "What colour is the background?": "The background is pink.",
        "How big is the red heart?": "The red heart is large.",
    }
    for question, answer in turns.items():
        told, figures = talk.ask(question)
        assert told == answer
        assert "encoded" not in figures  # once is enough

    kept = abort_a_description(talk, HEARTS)
    assert TRUTH[HEARTS.name].startswith(kept)
    assert len(kept) < len(TRUTH[HEARTS.name])
    assert talk.ask("How big is the red heart?")[0] == "The red heart is large."

    talk.ask("/clear")
    assert talk.ask("Describe the picture.")[0] == NO_PICTURE
    talk.ask(f"/image {LIGHT}")
    assert talk.prompt == "[1 picture] > "
    assert talk.ask("Describe the picture.")[0] == TRUTH[LIGHT.name]
    assert talk.leave() == 0


def abort_a_description(talk: Terminal, picture: Path) -> str:
    """Press Ctrl-C after the first word; what is kept of the answer, which the terminal may have shown less of.

    The demo is fast: the telling is made to wait for whoever else wants to run, and where an answer was over before the
    key was pressed, it is asked for once more.
    """
    os.setpriority(os.PRIO_PROCESS, talk.child.pid, 19)
    for _ in range(40):
        talk.ask("/clear")
        talk.ask(f"/image {picture}")
        talk.child.send("Describe the picture.\r")
        talk.wait(r"\nThere")
        talk.interrupt()
        talk.settle()
        question, answer = talk.ask("/history")
        assert question == f"user: [{picture.name}] Describe the picture."
        kept = re.fullmatch(r"assistant: (There.*) \(aborted\)", answer)
        if kept:
            return kept[1]
    raise AssertionError("Every answer was over before Ctrl-C.")


def test_two_pictures_and_wrong_ones(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    talk = terminal("-m", "demo")
    assert len(talk.ask("/image gone.png")) == 1
    assert talk.said == ["vlm: 'gone.png': there is no such file."]
    (line,) = talk.ask(f"/image {__file__}")
    assert line.startswith("vlm: ")
    assert talk.prompt == "> "
    named = tmp_path / "a blue star.jpg"
    named.write_bytes(STAR.read_bytes())
    assert talk.ask(f"/image '{named}'") == ["a blue star.jpg goes with the next question."]
    talk.ask(f"/image {named}")
    assert talk.prompt == "[2 pictures] > "
    talk.ask("/image")
    assert talk.prompt == "> "
    assert talk.ask("/show") == ["Nothing was said yet."]
    talk.ask(f"/image {str(named).replace(' ', chr(92) + ' ')}")
    named.unlink()  # encoded once, when it was named
    talk.ask(f"/image {LIGHT}")
    assert talk.ask("Which picture has more shapes?")[0] == "The second picture has more shapes, three against one."
    assert talk.ask("/history") == [
        "user: [a blue star.jpg] [traffic-light.jpg] Which picture has more shapes?",
        "assistant: The second picture has more shapes, three against one.",
    ]
    assert talk.leave("\x04") == 0


def test_commands_that_there_are_and_are_not(terminal: Callable[..., Terminal]) -> None:
    talk = terminal()
    assert talk.said[0] == "vlm: using the model demo (--model or VLM_MODEL choose another)"
    assert talk.ask("/imagine x") == ["vlm: There is no command /imagine; /help lists the commands."]
    named = re.findall(r"/\w+", " ".join(talk.ask("/help")))
    assert {"/image", "/clear", "/system", "/history", "/show", "/help", "/exit"} == set(named)
    assert talk.ask("   ") == []
    talk.child.send("/hel\t\r")  # Tab
    assert "/clear" in "".join(talk.wait())
    talk.child.send(f"/image {PICTURES}/thu\t")
    talk.wait(r"thumbnail\.png")
    talk.child.send("\r")
    assert talk.wait()[-1] == "thumbnail.png goes with the next question."
    talk.ask("/system Answer in one word.")
    assert talk.ask("/history")[0] == "system: Answer in one word."


def test_ctrl_c_at_the_prompt(terminal: Callable[..., Terminal]) -> None:
    talk = terminal("-m", "demo")
    for _ in range(3):
        talk.child.send("What is")
        talk.wait("What is")
        talk.interrupt()
        assert "once more" not in "".join(talk.wait())
    assert talk.ask("Hello")[0] == GREETING
    for _ in range(2):  # once, and then a line: no leaving
        talk.interrupt()
        assert "once more" in "".join(talk.wait())
        assert talk.ask("/clear") == ["Forgotten."]
    talk.interrupt()
    talk.wait()
    talk.interrupt()
    assert talk.leave("") == 0


# --- at a terminal, with the stand-in, which is as slow as it is told to be ---------------------------------------


def test_ctrl_c_ends_a_long_answer_and_not_the_program(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    talk = terminal(HEARTS, *board(tmp_path))
    began = time.monotonic()
    talk.child.send("[id=a][tokens=1000][pace=40]\r")  # 40 s
    talk.wait("a:2 ")
    talk.interrupt()
    *_, figures = talk.wait()
    assert time.monotonic() - began < 20
    assert figures.startswith("aborted, ")
    answer = re.search(r"assistant: (.*)", "\n".join(talk.ask("/history")))
    assert answer
    assert re.fullmatch(r"a:0 a:1 a:2 (a:\d+ )*\(aborted\)", " ".join(answer[1].split()))
    talk.ask("/clear")
    assert talk.ask("[id=b][tokens=2]")[0] == "b:0 b:1 "
    assert talk.leave() == 0


def test_ctrl_c_before_the_first_word_leaves_no_turn(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    talk = terminal(HEARTS, *board(tmp_path))
    for times in (1, 2):
        talk.child.send("[id=c][prefill=1500][pace=20][tokens=500]\r")
        talk.wait(r"tokens=500\]\r\n")
        for _ in range(times):
            time.sleep(0.3)
            talk.interrupt()
        assert talk.wait()[-1].startswith("aborted")
        assert talk.prompt == "[1 picture] > "
        assert talk.ask("/history") == ["user: [two-hearts.png] (not asked yet)"]
    assert talk.ask("[id=d][tokens=1]")[0] == "d:0 "


def test_ctrl_c_again_does_not_wait_for_the_next_word(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    """A text that could become a stop string is held back until it is clear that it does not."""
    talk = terminal(*board(tmp_path))
    began = time.monotonic()
    talk.child.send("[say=<|im_end|][pace=3000]\r")  # nine tokens
    talk.wait(r"pace=3000\]\r\n")
    for _ in range(2):
        time.sleep(0.5)
        talk.interrupt()
    assert talk.wait()[-1] == "aborted"
    assert time.monotonic() - began < 15
    assert talk.ask("/history") == ["Nothing was said yet."]
    assert talk.ask("[id=h][tokens=1]")[0] == "h:0 "


def test_a_failed_turn_is_one_line_and_never_was(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    talk = terminal(STAR, *board(tmp_path))
    told, error = talk.ask("[id=e][error=2][tokens=9]")
    assert told == "e:0 e:1 "
    assert error.startswith("vlm: ")
    assert talk.prompt == "[1 picture] > "
    assert talk.ask("[fail]")[-1].startswith("vlm: ")
    assert talk.ask("[id=f][tokens=1]")[0] == "f:0 "
    assert talk.ask("/history") == ["user: [blue-star.jpg] [id=f][tokens=1]", "assistant: f:0 "]
    assert talk.leave() == 0


def test_figures_are_those_that_the_runtime_gives(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    talk = terminal(*board(tmp_path, "1.2.0"), "--max-new-tokens", 3)
    told, figures = talk.ask("[id=g][tokens=5]")
    assert told == "g:0 g:1 g:2 "
    assert re.fullmatch(r"cut off at --max-new-tokens, first text after \d+ ms", figures)


def test_ctrl_c_at_any_moment(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    """The program outlives it, and the next answer is whole and its own."""
    talk, chance = terminal(*board(tmp_path)), random.Random(5)
    for number in range(15):
        talk.child.send(f"[id=n{number}][tokens=6][pace=4][prefill=4]\r")
        time.sleep(chance.uniform(0, 0.06))
        talk.interrupt()
        talk.settle()
        talk.ask("/clear")
        assert talk.ask(f"[id=m{number}][tokens=2]")[0] == f"m{number}:0 m{number}:1 "
        talk.ask("/clear")
    assert talk.leave() == 0


# --- where lines come from and answers go to --------------------------------------------------------------------


def test_only_answers_go_to_stdout(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    """The prompt, the editing and the figures stay on the terminal."""
    command = " ".join(f"'{word}'" if " " in word else word for word in PROGRAM)
    talk = terminal(command=["bash", "-c", f"exec {command} -m demo {HEARTS} > {tmp_path}/answers"])
    assert talk.prompt == "[1 picture] > "
    (figures,) = talk.ask("Describe the pictureX\x7f.")  # Backspace
    assert "tokens/s" in figures
    assert talk.leave() == 0
    assert (tmp_path / "answers").read_text() == TRUTH[HEARTS.name] + "\n"


# --- the history of what was typed ------------------------------------------------------------------------------


def test_what_was_typed_is_there_in_the_next_session(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    first = terminal("-m", "demo")
    first.ask("Hello")
    first.ask("Hello")
    first.ask("/help")
    first.child.kill(signal.SIGKILL)
    file = tmp_path / "state" / "rkvlm" / "chat_history"
    assert file.read_text() == "Hello\n/help\n"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    file.chmod(0o644)
    second = terminal("-m", "demo")
    assert second.ask("\x1b[A\x1b[A")[0] == GREETING  # two lines up
    assert file.read_text() == "Hello\n/help\nHello\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_long_history_is_cut(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    file = tmp_path / "state" / "rkvlm" / "chat_history"
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"line {n}\n" for n in range(2500)))
    talk = terminal("-m", "demo")
    assert file.read_text().splitlines() == [f"line {n}" for n in range(1500, 2500)]
    talk.child.send("\x1b[A")
    talk.wait("line 2499")


def test_a_place_that_cannot_be_written_is_no_harm(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    talk = terminal("-m", "demo")
    assert talk.ask("Hello")[0] == GREETING
    assert talk.leave() == 0
