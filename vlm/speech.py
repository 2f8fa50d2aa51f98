"""What a model marks in its answer, told apart as it comes: what it thinks before it answers, and calls of tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vlm.profile_tables import ReasoningKeys, ToolKeys

Kind = Literal["text", "thought", "call"]


class Thought(str):
    """A piece of what the model thought before it answered; it comes only where `thinking` was asked for."""

    __slots__ = ()


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called. arguments: as it gave them, not checked against the function."""

    name: str
    arguments: dict[str, Any]

    def to_json(self) -> str:
        """The call as models write it."""
        return json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)


class Speech:
    """Sorts an answer's pieces, however it is cut. reasoning, tools: None where nothing of that is looked for.

    A piece is passed on at once, save the shortest end that may be the beginning of a mark. A call that is not what
    the profile says a call is, or has no end, is passed on as text, marks and all.
    """

    def __init__(self, reasoning: ReasoningKeys | None, tools: ToolKeys | None) -> None:
        self._reasoning, self._tools = reasoning, tools
        self._kind: Kind = "thought" if reasoning is not None and reasoning.opened else "text"
        self._held = ""
        self._begun = False  # something but spaces has been passed on of this kind
        self.calls: list[ToolCall] = []

    def feed(self, piece: str) -> list[str]:
        """What may be passed on after a piece: texts, and Thoughts."""
        self._held += piece
        return list(self._sorted())

    def flush(self) -> list[str]:
        """What is left at the end of the answer."""
        kind, rest, self._held = self._kind, self._held, ""
        if kind == "call":
            return list(self._call(rest, ""))
        return list(self._told(rest))

    def _sorted(self) -> Iterator[str]:
        while True:
            marks = self._marks()
            found = min(((at, mark) for mark in marks if (at := self._held.find(mark)) >= 0), default=None)
            if found is None:
                keep = len(self._held) if self._kind == "call" else _open_end(self._held, marks)
                told, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
                yield from self._told(told)
                return
            at, mark = found
            before, self._held = self._held[:at], self._held[at + len(mark) :]
            yield from self._call(before, mark) if self._kind == "call" else self._told(before)
            self._kind, self._begun = marks[mark], False

    def _marks(self) -> dict[str, Kind]:
        """The marks that mean something now, and what comes after each."""
        if self._kind == "thought":
            return {self._reasoning.end: "text"} if self._reasoning else {}
        if self._kind == "call":
            return {self._tools.end: "text"} if self._tools else {}
        marks: dict[str, Kind] = {}
        if self._reasoning is not None:
            marks[self._reasoning.start] = "thought"
        if self._tools is not None:
            marks[self._tools.start] = "call"
        return marks

    def _told(self, text: str) -> Iterator[str]:
        """A text without the empty lines between it and the mark before it."""
        if not self._begun and (self._reasoning is not None or self.calls):
            text = text.lstrip()
        if text:
            self._begun = True
            yield Thought(text) if self._kind == "thought" else text

    def _call(self, text: str, end: str) -> Iterator[str]:
        call = _parsed(text)
        if call is not None:
            self.calls.append(call)
        elif self._tools is not None:
            yield f"{self._tools.start}{text}{end}"


def _parsed(text: str) -> ToolCall | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("name"), str) or not data["name"]:
        return None
    arguments = data.get("arguments", {})
    return ToolCall(data["name"], arguments) if isinstance(arguments, dict) else None


def _open_end(text: str, marks: dict[str, Kind]) -> int:
    """How many characters at the end of a text may be the beginning of a mark."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(m.startswith(text[-n:]) for m in marks)), 0)
