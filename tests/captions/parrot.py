"""A model that is quick and does what it is told to: its answer is a digest of picture and prompt."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vlm import Answer, Question
from vlm.captions.records import Outcome, Result, Task
from vlm.captions.scan import Choice, find_pictures
from vlm.captions.stop import Stop
from vlm.captions.work import caption


class Parrot:
    """Answers at once. trouble: called with each picture's bytes, and may raise; asked: what it was asked about."""

    def __init__(self, trouble: Callable[[bytes], None] = lambda data: None) -> None:
        self.trouble = trouble
        self.asked: Counter[bytes] = Counter()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def ask(self, question: Question) -> Spoken:
        picture, prompt = question.turns[0].content
        data = picture.data  # type: ignore[union-attr]
        with self._lock:
            self.asked[data] += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        return Spoken(self, data, prompt.text)  # type: ignore[union-attr]

    def over(self) -> None:
        with self._lock:
            self._at_once -= 1


class Spoken:
    position = 0

    def __init__(self, parrot: Parrot, data: bytes, prompt: str) -> None:
        self._parrot, self._data, self._prompt = parrot, data, prompt

    def __iter__(self) -> Iterator[str]:
        self._parrot.trouble(self._data)
        yield said(self._data, self._prompt)

    @property
    def answer(self) -> Answer:
        return Answer(
            said(self._data, self._prompt), "parrot", "stop", encode_ms=None, ttft_ms=None, prompt_tokens=None,
            tokens=None, tokens_per_second=None, queue_ms=0.0,
        )  # fmt: skip

    def close(self) -> None:
        self._parrot.over()


def said(data: bytes, prompt: str = "Say.") -> str:
    return hashlib.sha256(data + prompt.encode()).hexdigest()[:20]


class Quiet:
    """Watches, and keeps the outcomes."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def begin(self, pictures: int, done: int, failed: int) -> None:
        pass

    def settled(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def at_work(self, names: Sequence[str]) -> None:
        pass


def told(folder: Path, parrot: Parrot, watcher: Quiet | None = None, **words: Any) -> Result:
    """Caption a folder by the parrot."""
    pictures = find_pictures([folder], folder, Choice(recursive=True))
    task = Task(folder, pictures, "parrot", words.pop("prompts", ("Say.",)), **words)
    return caption(task, lambda: nullcontext(parrot), watcher or Quiet(), Stop())
