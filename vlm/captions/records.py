"""What a folder's files say about its pictures, and what a run adds to them."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from vlm.captions.journal import ERRORS, METADATA, Caption, Entry, Failure, Journal, asked, now, write_beside
from vlm.captions.scan import Found, Stamp
from vlm.errors import FolderError, RkvlmError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is to be done. root: the folder of metadata.jsonl; model: the name of who answers.

    options: fields of `vlm.options.RunOptions`. asked_of: what else makes the answers what they are (files of the
    user's own). force: tell those too that have been. retries: how often a picture is told again, alone, after
    the model's process has ended under it.
    """

    root: Path
    pictures: Sequence[Found]
    model: str
    prompts: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    asked_of: dict[str, str] = field(default_factory=dict)
    force: bool = False
    retry_errors: bool = False
    txt: bool = False
    retries: int = 1

    @property
    def how(self) -> str:
        """Options and whatever else was chosen, as JSON in an order of its own."""
        return json.dumps({**self.options, **self.asked_of}, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Told:
    """A picture and its answers. tokens: as far as the runtime counts them; reused: the content was known."""

    found: Found
    content_hash: str
    texts: list[str]
    seconds: float
    tokens: int = 0
    reused: bool = False


@dataclass(frozen=True)
class Failed:
    """A picture, and why it has no caption."""

    found: Found
    error: RkvlmError
    content_hash: str = ""

    @property
    def message(self) -> str:
        """The error's words, without those that stand for the picture's name, which is written beside them."""
        return str(self.error).removeprefix("the given bytes: ")


Outcome: TypeAlias = Told | Failed


@dataclass
class Result:
    """What came of a run. failed: pictures of the folder without a caption, those of earlier runs among them.

    left: pictures that were not reached. kept_txt: .txt files that were somebody else's, and stay.
    """

    pictures: int = 0
    done_before: int = 0
    told: int = 0
    reused: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    left: int = 0
    tokens: int = 0
    seconds: float = 0.0
    kept_txt: int = 0


class Records:
    """Both files of a folder, and what they say about its pictures."""

    def __init__(self, task: Task) -> None:
        self.task, self.result = task, Result(pictures=len(task.pictures))
        self._asked = asked(task.model, task.prompts, task.how)
        self._known: dict[str, Entry] = {}
        self._nameless = {label(name) for name, _ in task.pictures if label(name) != name}
        stems = Counter(os.path.splitext(found.name)[0] for found in task.pictures)
        self._shared_stems = {stem for stem, count in stems.items() if count > 1}
        with ExitStack() as opened:
            self._captions = Journal(task.root / METADATA, Caption, self._learn)
            opened.callback(self._captions.close)
            self._failures = Journal(task.root / ERRORS, Failure)
            opened.callback(self._failures.close)
            self._opened = opened.pop_all()
        self._settle_doubles()
        self.failed_before: list[Found] = []

    def _learn(self, line: Caption, entry: Entry) -> None:
        if entry.asked == self._asked and not self.task.force:
            self._known[line.content_hash] = entry

    def _settle_doubles(self) -> None:
        """A picture with a line in both files, because a run was killed, keeps the one that holds."""
        for name in self._captions.index.keys() & self._failures.index.keys():
            stamp = _stamp(self.task.root / name)
            told, failed = self._captions.index[name].stamp == stamp, self._failures.index[name].stamp == stamp
            if stamp and (self._captions.holds(name, stamp, self._asked) or (told and not failed)):
                self._failures.forget(name)
            else:
                self._captions.forget(name)

    def to_do(self) -> Iterator[Found]:
        """The pictures that have to be told now; none of them is read for that."""
        for found in self.task.pictures:
            done = self._captions.holds(found.name, found.stamp, self._asked)
            failed = self._failures.holds(label(found.name), found.stamp, self._asked)
            if done and not self.task.force:
                self.result.done_before += 1
                if self.task.txt and not self._txt(found.name).exists():
                    self._write_txt(found.name, self._captions.read(self._captions.index[found.name]).text)
            elif failed and not self.task.force and not self.task.retry_errors:
                self.failed_before.append(found)
            else:
                yield found

    def texts_of(self, content_hash: str) -> list[str] | None:
        """The answers to the same prompts about a picture of the same content, if there are any."""
        entry = self._known.get(content_hash)
        return self._captions.read(entry).texts if entry is not None else None

    def write(self, outcome: Outcome) -> None:
        """Write down what came of a picture. Raises FolderError."""
        task, found = self.task, outcome.found
        about: dict[str, Any] = {
            "size_bytes": found.stamp.size,
            "modified_ns": found.stamp.modified_ns,
            "model": task.model,
        }
        about |= {"prompts": list(task.prompts), "options": task.how}
        if isinstance(outcome, Failed):
            name = label(found.name)
            kind = type(outcome.error).__name__
            self._failures.append(
                Failure(file_name=name, error=kind, message=outcome.message, failed_at=now(), **about)
            )
            self._captions.forget(found.name)
            return
        if task.txt:
            self._write_txt(found.name, outcome.texts[0])
        line = Caption(
            file_name=found.name, text=outcome.texts[0], texts=outcome.texts, content_hash=outcome.content_hash,
            told_at=now(), seconds=round(outcome.seconds, 3), **about,
        )  # fmt: skip
        self._known[outcome.content_hash] = self._captions.append(line)
        self._failures.forget(found.name)
        self.result.told += not outcome.reused
        self.result.reused += outcome.reused
        self.result.tokens += outcome.tokens

    def _txt(self, name: str) -> Path:
        stem = os.path.splitext(name)[0]
        return self.task.root / f"{name if stem in self._shared_stems else stem}.txt"

    def _write_txt(self, name: str, text: str) -> None:
        """Write the caption beside its picture, unless what is there was written by nobody here."""
        path, before = self._txt(name), self._captions.index.get(name)
        try:
            if path.exists():
                ours = {text, self._captions.read(before).text} if before else {text}
                if path.read_text("utf-8", "replace").removesuffix("\n") not in ours:
                    self.result.kept_txt += 1
                    log.warning("%s is not ours and stays as it is.", path)
                    return
            write_beside(path, f"{text}\n".encode())
        except OSError as exc:
            raise FolderError(f"{str(path)!r} cannot be written: {exc.strerror}.") from exc

    def finish(self) -> None:
        """Leave the files as the loader wants them: only pictures that are there, and each once."""
        root, result = self.task.root, self.result
        for name in [name for name in self._captions.index if not (root / name).exists()]:
            self._captions.forget(name)
        for name in [name for name in self._failures.index if not self._is_there(name)]:
            self._failures.forget(name)
        self._captions.compact()
        for found in self.task.pictures:
            entry = self._failures.index.get(label(found.name))
            if entry is not None:
                result.failed[self._failures.read(entry).error] += 1
        self._failures.compact()
        result.left = result.pictures - result.done_before - result.told - result.reused - result.failed.total()

    def _is_there(self, name: str) -> bool:
        return (self.task.root / name).exists() or name in self._nameless

    def close(self) -> None:
        """Close both files."""
        self._opened.close()


def label(name: str) -> str:
    """A picture's name as text; bytes that are no UTF-8 become \\x and two digits."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _stamp(path: Path) -> Stamp | None:
    try:
        return Stamp.of(path.stat())
    except OSError:
        return None
