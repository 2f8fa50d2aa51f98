"""The model's process: reads requests from one end of a socket, answers on it, and leaves when it is closed.

Started by `vlm.engine.process` as `python -m vlm.engine.child SOCKET LIFELINE`, two file descriptors. The main thread
reads requests, a thread for each question reads the model's answer, and one thread sends.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import vlm
from vlm import Thought
from vlm.engine.faults import to_fault
from vlm.engine.messages import (
    Ask,
    Begun,
    CacheFigures,
    Cancel,
    Ended,
    Event,
    Figures,
    ImagePart,
    ModelFacts,
    Open,
    Opened,
    Refused,
    Request,
    TextPart,
    Told,
    Turn,
)
from vlm.engine.wire import RECEIVE, Frames, frame
from vlm.errors import EngineCrashedError, OptionError, RkvlmError, RunTimeoutError
from vlm.memory import keep_pages
from vlm.options import RunOptions

_log = logging.getLogger(__name__)


class Outbox:
    """Events on their way to the parent. Those that wait together travel in one frame."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._told: dict[int, Told] = {}
        self._sending = False
        threading.Thread(target=self._send, name="engine-outbox", daemon=True).start()

    def put(self, event: Event) -> None:
        """Have an event sent."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def tell(self, number: int, piece: str) -> None:
        """Have a piece of an answer sent, together with those of its kind that still wait."""
        thoughts, piece = isinstance(piece, Thought), str(piece)
        with self._changed:
            waiting = self._told.get(number)
            if waiting is not None and waiting.thoughts == thoughts:
                waiting.pieces.append(piece)
                return
            self._told[number] = told = Told(number, [piece], thoughts)
            self._events.append(told)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._events and not self._sending)

    def _send(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._events)
                events, self._events, self._told = self._events, [], {}
                self._sending = True
            try:
                self._connection.sendall(frame(events))
            except OSError:  # nobody is there any more
                os._exit(1)
            except BaseException:
                _log.exception("Events cannot be sent")
                os._exit(1)


class _Cancelled(Exception):
    """Nobody wants the answer any more."""


class Job:
    """One question's thread."""

    def __init__(self, model: vlm.VLM, ask: Ask, outbox: Outbox) -> None:
        self._model, self._ask, self._outbox = model, ask, outbox
        self._stream: vlm.Stream | None = None
        self._cancelled = False
        self.thread = threading.Thread(target=self._run, name=f"question-{ask.id}", daemon=True)
        self.thread.start()

    def cancel(self) -> None:
        """Have the answer end, or not begin. Returns at once."""
        self._cancelled = True
        if self._stream is not None:
            self._stream.abort()

    def _run(self) -> None:
        figures, fault, fatal = None, None, False
        try:
            figures = self._answer()
        except _Cancelled:
            pass
        except MemoryError:
            error = EngineCrashedError("The model's process ran out of memory with this question; it is restarted.")
            fault, fatal = to_fault(error), True
        except RkvlmError as exc:
            # A run that never returned holds the model for good.
            fault, fatal = to_fault(exc), isinstance(exc, RunTimeoutError)
        except BaseException as exc:  # whatever it is, the asker has to be told
            _log.exception("Question %d failed", self._ask.id)
            fault = to_fault(exc)
        self._outbox.put(Ended(self._ask.id, figures, fault, _cache(self._model), fatal))

    def _check_wanted(self) -> None:
        if self._cancelled:
            raise _Cancelled

    def _answer(self) -> Figures:
        number, options = self._ask.id, self._ask.options
        unknown = sorted(options.keys() - RunOptions.model_fields.keys())
        if unknown:
            raise OptionError(f"Option {unknown[0]} is not known. Known: {', '.join(RunOptions.model_fields)}.")
        messages = [_message(turn) for turn in self._ask.turns]
        self._check_wanted()
        if self._ask.embed is not None:
            return self._embedding(self._ask.embed)
        check = self._check_wanted
        with self._model.chat_stream(messages, tools=self._ask.tools, check=check, **options) as stream:
            self._stream = stream
            self._check_wanted()
            self._outbox.put(Begun(number))
            for piece in stream:
                self._outbox.tell(number, piece)
        answer = stream.answer
        return Figures(
            answer.finish_reason,
            answer.encode_ms,
            answer.ttft_ms,
            answer.prompt_tokens,
            answer.tokens,
            answer.tokens_per_second,
            answer.tool_calls,
        )

    def _embedding(self, pooling: str) -> Figures:
        """The embedding of the last turn."""
        content = self._ask.turns[-1].content
        images = [part.data for part in content if isinstance(part, ImagePart)]
        text = "".join(part.text for part in content if isinstance(part, TextPart))
        self._outbox.put(Begun(self._ask.id))
        made = self._model.embed(
            images,
            text,
            pooling=pooling,  # type: ignore[arg-type]
            check=self._check_wanted,
            **self._ask.options,
        )
        return Figures("stop", None, None, None, None, None, embedding=tuple(made.tolist()))


def serve(connection: socket.socket) -> None:
    """Open the model that the first message names, and answer until the parent closes the connection."""
    outbox = Outbox(connection)
    model: vlm.VLM | None = None
    jobs: dict[int, Job] = {}
    frames: Frames[Request] = Frames(Request)
    while data := connection.recv(RECEIVE):
        for request in frames.feed(data):
            jobs = {number: job for number, job in jobs.items() if job.thread.is_alive()}
            if isinstance(request, Open):
                model = _open(request, outbox)
            elif isinstance(request, Cancel):
                if request.id in jobs:
                    jobs[request.id].cancel()
            elif model is not None:
                jobs[request.id] = Job(model, request, outbox)
    if model is not None:
        model.close()


def _open(request: Open, outbox: Outbox) -> vlm.VLM:
    """Open the model and say so, or say why not and end."""
    try:
        model = vlm.load(**request.arguments)
    except Exception as exc:
        if not isinstance(exc, RkvlmError):
            _log.exception("The model could not be opened")
        fault = to_fault(exc)
    else:
        outbox.put(Opened(_facts(model, bool(request.arguments["pictures"]))))
        return model
    outbox.put(Refused(fault))
    outbox.flush()
    os._exit(1)


def _facts(model: vlm.VLM, pictures: bool) -> ModelFacts:
    profile, library = model.profile, model.library
    return ModelFacts(
        name=profile.name,
        family=profile.family,
        description=profile.description,
        max_context_len=profile.max_context_len,
        options=model.options.model_dump(),
        pictures=pictures,
        release=library.release,
        runtime=Path(library.origin).name,
        cores=str(model.plan) if model.plan else None,
        adapters=model.adapters,
        tools=profile.tools is not None,
        thinking=profile.thinking,
    )


def _cache(model: vlm.VLM) -> CacheFigures:
    return CacheFigures(**model.cache_stats._asdict())


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as `VLM.chat_stream` takes it."""
    parts = [
        {"type": "image", "image": part.data} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in turn.content
    ]
    return {"role": turn.role, "content": parts, "calls": turn.calls}


def _end_with_parent(lifeline: int) -> None:
    """Have the kernel end this process when the other end of a pipe is closed, whatever its threads are stuck in.

    Nothing is ever written to the pipe: the signal comes when its last writer is gone. Reading the socket would tell
    as much, but takes Python, and a library that hangs may hold the interpreter's lock.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    try:
        gone = os.read(lifeline, 1) == b""
    except BlockingIOError:
        gone = False
    if gone:  # before anybody was listening
        os._exit(1)


def _be_killed_first() -> None:
    """Where memory runs out, the kernel is to end this process rather than the one that can start it again."""
    try:
        file = Path("/proc/self/oom_score_adj")
        file.write_text(str(min(1000, int(file.read_text()) + 500)))
    except (OSError, ValueError) as exc:
        _log.debug("oom_score_adj was left alone: %s", exc)


def main() -> None:
    """Serve the connection given on the command line."""
    connection, lifeline = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    for fd in (connection.fileno(), lifeline):
        os.set_inheritable(fd, False)
    _end_with_parent(lifeline)
    # The parent says when to go; a signal to its whole group (Ctrl-C, a service manager) is for it to answer.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _be_killed_first()
    keep_pages()
    code = 1
    try:
        serve(connection)
        code = 0
    except Exception:  # a connection that is lost, a message that cannot be read, no memory for it
        _log.exception("The model's process ends")
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)  # threads that hang are no reason to stay


if __name__ == "__main__":
    main()
