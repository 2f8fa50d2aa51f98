"""`vlm chat`: a conversation, typed at a terminal or read from standard input."""

from __future__ import annotations

import glob
import io
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm import Thought
from vlm.cli.opening import Where, opened
from vlm.cli.options import ApiKey, Encoder, Library, Llm, Lora, Model, Release, Server, takes
from vlm.cli.output import answers_only, tell
from vlm.cli.terminal import Keyboard, is_terminal, note, say
from vlm.errors import ContextTooLongError, RequestError, RkvlmError
from vlm.options import NpuOptions, RunOptions

if TYPE_CHECKING:
    from vlm import VLM, Answer, RemoteVLM

HELP = """\
/image PATH    show a picture with the next question; may be repeated; without PATH, drop those not yet asked about
/clear         forget the conversation and its pictures; the system message stays
/system TEXT   set the system message; without TEXT, the model's own again
/history       what was said so far; also /show
/help          this list
/exit          leave; also Ctrl-D
Ctrl-C ends an answer; what was told of it stays in the conversation. A line that begins with a space is no command."""


@takes(RunOptions, NpuOptions, into="options")
def chat(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Pictures to show with the first question.")
    ] = None,
    *,
    model: Model = None,
    encoder: Encoder = None,
    llm: Llm = None,
    library: Library = None,
    release: Release = None,
    lora: Lora = None,
    server: Server = None,
    api_key: ApiKey = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Open the encoder too, or the language model alone.")
    ] = True,
    options: dict[str, Any],
) -> None:
    """Talk with a model, with or without pictures.

    /help lists the commands. Answers go to stdout, everything else to stderr. Where standard input is no terminal, each
    line is a question or a command, and the exit code is that of the first error.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)  # what cannot be decoded or shown is no reason to end a conversation
    with (
        answers_only(),
        opened(Where(model, encoder, llm, library, release, server, api_key, pictures, lora), options) as vlm,
    ):
        talk = Conversation(vlm)
        for image in images or ():
            talk.show(image)
        code = _from_terminal(talk) if is_terminal(sys.stdin) else _from_script(talk)
    if code:
        raise typer.Exit(code)


# --- what is said -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A picture that was encoded once: its name, its embedding, and how long that took."""

    name: str
    embedding: Any
    encode_ms: float


@dataclass(frozen=True)
class Turn:
    """A question and its answer, as far as it was told."""

    question: str
    pictures: tuple[Picture, ...]
    answer: str = ""
    aborted: bool = False


@dataclass
class Conversation:
    """A conversation with one model. A turn becomes part of it when it is over; a failed one never does."""

    model: VLM | RemoteVLM
    turns: list[Turn] = field(default_factory=list)
    attached: list[Picture] = field(default_factory=list)
    system: str = ""
    interrupted: Callable[[], bool] = lambda: False

    def show(self, path: str) -> None:
        """Encode a picture, for the next question. Raises ImageError, EncoderError."""
        began = time.perf_counter()
        embedding = self.model.encode(path)
        self.attached.append(Picture(os.path.basename(path), embedding, (time.perf_counter() - began) * 1e3))

    def tell(self, question: str, say: Callable[[str], None]) -> tuple[Turn, Answer | None]:
        """Ask, and `say` the answer piece by piece until its end, or until `interrupted` or a KeyboardInterrupt.

        An aborted turn is kept as far as it was told; where nothing was, its pictures stay attached instead. Raises
        RkvlmError, and then nothing has changed.
        """
        turn, told = Turn(question, tuple(self.attached)), [""]
        answer, aborted = None, False
        try:
            with self.model.chat_stream(self._messages(turn)) as stream:
                for piece in stream:
                    if aborted := self.interrupted():
                        break
                    say(piece)
                    if not isinstance(piece, Thought):
                        told.append(piece)
            answer = stream.answer
        except KeyboardInterrupt:
            aborted = True
        turn = replace(turn, answer="".join(told), aborted=aborted)
        if turn.answer or not aborted:
            self.turns, self.attached = [*self.turns, turn], []
        return turn, answer

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.turns, self.attached = [], []

    def _messages(self, last: Turn) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in (*self.turns, last):
            parts = [{"type": "image", "image": picture.embedding} for picture in turn.pictures]
            messages.append({"role": "user", "content": [*parts, {"type": "text", "text": turn.question}]})
            if turn is not last:
                messages.append({"role": "assistant", "content": turn.answer})
        return messages


# --- one line after the other -----------------------------------------------------------------------------------------


class Leave(Exception):
    """The user wants to leave."""


def obey(talk: Conversation, line: str) -> None:
    """Do what a line says: a command, or a question. Raises RkvlmError, and Leave."""
    if not line.strip():
        return
    if not line.startswith("/"):
        _ask(talk, line.strip())
        return
    name, *rest = line.split(maxsplit=1)
    command = COMMANDS.get(name)
    if command is None:
        raise RequestError(f"There is no command {name}; /help lists the commands.")
    command(talk, "".join(rest).strip())


def _ask(talk: Conversation, question: str) -> None:
    ends = ["\n"]

    def show(piece: str) -> None:
        tell(piece)
        ends.append(piece[-1:])

    try:
        turn, answer = talk.tell(question, show)
    except RkvlmError:
        if ends[-1] != "\n":
            print(flush=True)
        raise
    if ends[-1] != "\n" or not turn.answer:
        print(flush=True)
    note(_figures(turn, answer))


def _figures(turn: Turn, answer: Answer | None) -> str:
    """What an answer took, as far as the runtime says."""
    if answer is None:
        return "aborted"
    rate, first = answer.tokens_per_second, answer.ttft_ms
    encode_ms = (answer.encode_ms or 0) + sum(picture.encode_ms for picture in turn.pictures)
    parts = [
        "aborted" if turn.aborted else "",
        "cut off at --max-new-tokens" if answer.finish_reason == "length" and not turn.aborted else "",
        f"{answer.tokens} tokens" if answer.tokens is not None else "",
        f"{rate:.1f} tokens/s" if rate is not None else "",
        f"first text after {first:.0f} ms" if first is not None else "",
        f"pictures encoded in {encode_ms:.0f} ms" if round(encode_ms) else "",  # less is only finding one kept
    ]
    return ", ".join(filter(None, parts))


def _image(talk: Conversation, rest: str) -> None:
    if not rest:
        talk.attached = []
        note("No picture goes with the next question.")
        return
    talk.show(_path(rest))
    note(f"{talk.attached[-1].name} goes with the next question.")


def _path(text: str) -> str:
    """The path that was typed: as it stands, or with the quotes and backslashes of one dropped on the terminal."""
    if not os.path.exists(os.path.expanduser(text)):
        try:
            words = shlex.split(text)
        except ValueError:
            words = []
        if len(words) == 1:
            text = words[0]
    return os.path.expanduser(text)


def _clear(talk: Conversation, _: str) -> None:
    talk.clear()
    note("Forgotten.")


def _system(talk: Conversation, rest: str) -> None:
    talk.system = rest
    note("The system message is set." if rest else "The model's own system message, if it has one.")


def _history(talk: Conversation, _: str) -> None:
    if talk.system:
        say(talk.system, role="system")
    for turn in talk.turns:
        say(_with_names(turn.pictures, turn.question), role="user")
        say(turn.answer + (" (aborted)" if turn.aborted else ""), role="assistant")
    if talk.attached:
        say(_with_names(tuple(talk.attached), "(not asked yet)"), role="user")
    if not (talk.system or talk.turns or talk.attached):
        say("Nothing was said yet.")


def _with_names(pictures: tuple[Picture, ...], text: str) -> str:
    return " ".join([*(f"[{picture.name}]" for picture in pictures), text])


def _help(_: Conversation, __: str) -> None:
    say(HELP)


def _exit(_: Conversation, __: str) -> None:
    raise Leave


COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    "/image": _image,
    "/clear": _clear,
    "/system": _system,
    "/history": _history,
    "/show": _history,
    "/help": _help,
    "/exit": _exit,
}


def _fail(exc: RkvlmError) -> None:
    advice = " /clear begins a new conversation." if isinstance(exc, ContextTooLongError) else ""
    say("vlm: " + " ".join(str(exc).split()) + advice)


# --- where the lines come from ----------------------------------------------------------------------------------------


def _from_script(talk: Conversation) -> int:
    """Read questions and commands from standard input. Returns the exit code: the first error's, or 0."""
    code = 0
    if sys.stdin is None:
        return code
    for line in iter(sys.stdin.readline, ""):
        try:
            obey(talk, line)
        except Leave:
            break
        except RkvlmError as exc:
            _fail(exc)
            code = code or exc.exit_code
    return code


def _from_terminal(talk: Conversation) -> int:
    """Read questions and commands from a terminal. Returns 0: whoever made an error has seen it."""
    note(f"{talk.model.name}: ask, /image PATH shows a picture, /help lists the commands.")
    with Keyboard(_completions) as keyboard:
        talk.interrupted = lambda: keyboard.interrupted
        while (line := keyboard.read(_mark(talk))) is not None:
            try:
                with keyboard.working():
                    obey(talk, line)
            except Leave:
                break
            except RkvlmError as exc:
                _fail(exc)
            except KeyboardInterrupt:
                note("aborted")
    return 0


def _mark(talk: Conversation) -> str:
    number = len(talk.attached)
    return f"[{number} picture{'s' if number > 1 else ''}] > " if number else "> "


def _completions(before: str, word: str) -> list[str]:
    """What Tab offers: commands, and the paths of pictures."""
    if not before:
        return [f"{name} " for name in COMMANDS if word.startswith("/") and name.startswith(word)]
    if before.strip() != "/image":
        return []
    found = sorted(glob.glob(glob.escape(os.path.expanduser(word)) + "*"))
    return [path + "/" if os.path.isdir(path) else path for path in found]
