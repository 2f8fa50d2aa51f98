"""The run over a folder: several pictures under way at once, and one thread that writes down what comes of them."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from vlm import Answer, ImagePart, Question, TextPart, Turn
from vlm.captions.journal import METADATA, locked
from vlm.captions.records import Failed, Outcome, Records, Result, Task, Told, label
from vlm.captions.scan import Found, Stamp
from vlm.captions.stop import Stop
from vlm.errors import (
    EmbeddingError,
    EngineCrashedError,
    EngineDeadlineError,
    EngineQueueFullError,
    ImageError,
    RequestTooLargeError,
    RkvlmError,
    RunError,
    RunTimeoutError,
    ServiceBusyError,
)

log = logging.getLogger(__name__)

WINDOW = 3
"""Pictures under way at once: one is told, the next is decoded and encoded, one more is read and waits."""

MAX_BYTES = 64 << 20
"""No more than this is read of a picture, and one byte more; a larger one is refused where pictures are decoded."""

LOST = (EngineCrashedError, EngineDeadlineError)
"""What may be another picture's fault: the model's process ended, and whatever was in it with it."""

HOPELESS = 10
"""After so many of those in a row, with no picture told in between, the run ends."""

ITS_OWN = (ImageError, EmbeddingError, RequestTooLargeError, RunError, RunTimeoutError, *LOST)
"""What a picture may be to blame for: a service may take smaller ones than we do. Any other error ends the run."""


class Telling(Protocol):
    """An answer as it is told: `vlm.Reply`, or that of a service."""

    @property
    def position(self) -> int | None:
        """Place in line; 0 is being worked on, None is over."""

    @property
    def answer(self) -> Answer:
        """The whole answer, once it is over."""

    def __iter__(self) -> Iterator[str]: ...

    def close(self) -> None:
        """Cancel; after the end it does nothing."""


class Asker(Protocol):
    """Who answers: `vlm.Engine`, or a service."""

    def ask(self, question: Question) -> Telling:
        """Ask; what ends the answer is raised by iterating over it. Raises EngineError."""


class Watcher(Protocol):
    """Who is told how it goes; called from one thread."""

    def begin(self, pictures: int, done: int, failed: int) -> None:
        """So many pictures there are, so many of them are over, and `failed` of those have no caption."""

    def settled(self, outcome: Outcome) -> None:
        """One more is over, and written down."""

    def at_work(self, names: Sequence[str]) -> None:
        """These are under way; called a few times a second."""


def caption(
    task: Task,
    open_asker: Callable[[], AbstractContextManager[Asker]],
    watcher: Watcher,
    stop: Stop,
) -> Result:
    """Caption the pictures that have no caption yet. `open_asker` is called only if there are any.

    Raises FolderError, whatever error is no single picture's, and KeyboardInterrupt where `stop` was asked for twice;
    what was told before is written down in every case.
    """
    with locked(task.root), ExitStack() as opened:
        records = Records(task)
        opened.callback(records.close)
        work = list(records.to_do())
        watcher.begin(len(task.pictures), len(task.pictures) - len(work), len(records.failed_before))
        try:
            if work:
                with open_asker() as asker, stop.listening():
                    began = time.monotonic()
                    _Run(task, records, asker, watcher, stop).over(work)
                    records.result.seconds = time.monotonic() - began
        finally:
            records.finish()
        return records.result


class _Run:
    """Pictures on their way through the model."""

    def __init__(self, task: Task, records: Records, asker: Asker, watcher: Watcher, stop: Stop) -> None:
        self._task, self._records, self._asker, self._watcher, self._stop = task, records, asker, watcher, stop
        self._lock = threading.Lock()
        self._contents: dict[str, Future[Outcome | None]] = {}
        self._answers: dict[str, Telling] = {}
        self._lost_in_a_row = 0

    def over(self, pictures: Sequence[Found]) -> None:
        """Tell them all, several at once; then those that the model's process ended under, one at a time."""
        lost = self._round(pictures, WINDOW)
        for _ in range(self._task.retries):
            if lost and not self._stop.asked.is_set():
                log.info("%d pictures are told again, one at a time: the model's process ended under them.", len(lost))
                lost = self._round([failed.found for failed in lost], 1)
        if not self._stop.asked.is_set():
            for failed in lost:
                self._settle(failed)

    def _round(self, pictures: Sequence[Found], window: int) -> list[Failed]:
        """Tell pictures, so many at once, and write down what comes of them. Returns those that may be told again."""
        waiting, lost, ends = iter(pictures), list[Failed](), list[RkvlmError]()
        running: dict[Future[Outcome | None], str] = {}
        pool = ThreadPoolExecutor(window, "caption")
        try:
            while True:
                while len(running) < window and not (self._stop.asked.is_set() or ends):
                    found = next(waiting, None)
                    if found is None:
                        break
                    running[pool.submit(self._tell, found)] = found.name
                if not running:
                    break
                self._watcher.at_work(list(running.values()))
                over, _ = wait(running, timeout=0.25, return_when=FIRST_COMPLETED)
                for future in over:
                    del running[future]
                    self._take(future, lost, ends)
                self._heed_stop()
        finally:
            self._withdraw(all_of_them=True)
            pool.shutdown(wait=False, cancel_futures=True)
        if ends:
            raise ends[0]
        return lost

    def _take(self, future: Future[Outcome | None], lost: list[Failed], ends: list[RkvlmError]) -> None:
        """Take what came of one picture."""
        try:
            outcome = future.result()
        except RkvlmError as exc:
            ends.append(exc)
            return
        if isinstance(outcome, Failed) and isinstance(outcome.error, LOST):
            lost.append(outcome)
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= HOPELESS:
                ends.append(outcome.error)
        elif outcome is not None:
            self._lost_in_a_row = 0
            self._settle(outcome)
        if outcome is not None:
            with self._lock:
                self._contents.pop(outcome.content_hash, None)

    def _settle(self, outcome: Outcome) -> None:
        self._records.write(outcome)
        self._watcher.settled(outcome)

    def _heed_stop(self) -> None:
        if self._stop.at_once.is_set():
            raise KeyboardInterrupt
        if self._stop.asked.is_set():
            self._withdraw()

    def _withdraw(self, all_of_them: bool = False) -> None:
        """Take back the questions that nobody works on yet, or all."""
        with self._lock:
            answers = list(self._answers.values())
        for answer in answers:
            if answer.position or all_of_them:
                answer.close()

    # --- in the threads of the pool -----------------------------------------------------------------------------------

    def _tell(self, found: Found) -> Outcome | None:
        """Read a picture and have it told. None where it was withdrawn. Raises what is no picture's own fault."""
        try:
            found, data = _read(self._task.root, found)
        except ImageError as exc:
            return Failed(found, exc)
        content_hash = hashlib.blake2b(data, digest_size=16).hexdigest()
        with self._lock:
            texts = self._records.texts_of(content_hash)
            same = self._contents.get(content_hash)
            if texts is None and same is None:
                mine = self._contents[content_hash] = Future[Outcome | None]()
        if texts is not None:
            return Told(found, content_hash, texts, 0.0, reused=True)
        if same is not None:
            return _likewise(same.result(), found)
        try:
            outcome = self._ask_all(found, data, content_hash)
        except BaseException as exc:
            mine.set_exception(exc)
            raise
        mine.set_result(outcome)
        return outcome

    def _ask_all(self, found: Found, data: bytes, content_hash: str) -> Outcome | None:
        """Ask every prompt, one after the other: the encoder runs once, and other pictures come in between."""
        texts, seconds, tokens = list[str](), 0.0, 0
        try:
            for prompt in self._task.prompts:
                began = time.monotonic()
                answer = self._ask(found.name, data, prompt)
                if answer is None:
                    return None
                texts.append(answer.text)
                tokens += answer.tokens or 0
                seconds += time.monotonic() - began - (answer.queue_ms or 0) / 1000
        except ITS_OWN as exc:
            return Failed(found, exc, content_hash)
        return Told(found, content_hash, texts, seconds, tokens)

    def _ask(self, name: str, data: bytes, prompt: str) -> Answer | None:
        turn = Turn("user", (ImagePart(data), TextPart(prompt)))
        question = Question((turn,), self._task.options)
        while not self._stop.asked.is_set():
            try:
                telling = self._asker.ask(question)
            except (EngineQueueFullError, ServiceBusyError) as exc:  # a service has other clients
                self._stop.asked.wait(exc.retry_after or 1)
                continue
            with self._lock:
                self._answers[name] = telling
            try:
                for _ in telling:
                    pass
            except EngineDeadlineError:
                if telling.answer.queue_ms is None:
                    continue  # it waited all the time, while the model's process was replaced: nobody looked at it
                raise
            else:
                return None if telling.answer.finish_reason == "abort" else telling.answer
            finally:
                telling.close()
                with self._lock:
                    del self._answers[name]
        return None


def _read(root: Path, found: Found) -> tuple[Found, bytes]:
    """A picture's bytes, and its stamp as it was then. Raises ImageError."""
    if label(found.name) != found.name or "\\" in found.name:
        raise ImageError(
            f"{label(found.name)!r}: a name with a backslash, or of bytes that are no UTF-8, cannot be written to "
            f"{METADATA} so that the picture is found again; rename it."
        )
    try:
        with open(root / found.name, "rb") as file:
            found = found._replace(stamp=Stamp.of(os.fstat(file.fileno())))
            return found, file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise ImageError(f"{found.name!r} cannot be read: {exc.strerror}.") from exc


def _likewise(outcome: Outcome | None, found: Found) -> Outcome | None:
    """What comes of a picture whose content has just been told under another name."""
    if isinstance(outcome, Told):
        return replace(outcome, found=found, tokens=0, reused=True)
    return outcome and replace(outcome, found=found)
