"""The model's process ends, at any moment and in any way: its questions are told, and the next one is answered."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_rig import DEAF, answers_again, question, standin_choice, told, wait_until

import vlm
from vlm.errors import EngineCrashedError, EngineFailedError, RunTimeoutError

Start = Callable[..., vlm.Engine]


def pid_of(engine: vlm.Engine) -> int:
    pid = engine.health().pid
    assert pid is not None
    return pid


def crashed(reply: vlm.Reply) -> str:
    with pytest.raises(EngineCrashedError) as caught:
        reply.finish()
    assert caught.value.retry_after is not None
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "wait_for"),
    [
        ("[tokens=4][prefill=60000]", lambda reply: reply.position == 0),
        ("[tokens=900][pace=20]", lambda reply: reply.take()),
        ("[tokens=1900][pace=1]", lambda reply: reply.take()),
        ("[hang]", lambda reply: reply.position == 0),
        ("[tokens=1][finish=later][pace=60000]", lambda reply: reply.take()),
    ],
    ids=["prefill", "telling", "frames-on-their-way", "hanging", "finishing"],
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_with_an_answer_in_it(standin: Start, words: str, wait_for: Any, number: signal.Signals) -> None:
    engine = standin()
    reply = engine.ask(question(f"[id=a]{words}", max_new_tokens=1900))
    behind, queued = engine.ask(question("[id=b]")), engine.ask(question("[id=q][tokens=2]"))
    wait_until(lambda: wait_for(reply))
    os.kill(pid_of(engine), number)
    assert number.name in crashed(reply)
    assert told("a", 1900).startswith(reply.answer.text)
    assert number.name in crashed(behind)
    assert queued.finish().text == told("q", 2)
    answers_again(engine)
    assert engine.health().totals.errors == {"EngineCrashedError": 2}


def test_killed_with_nothing_in_it(standin: Start) -> None:
    engine = standin()
    for restarts in range(1, 3):
        os.kill(pid_of(engine), signal.SIGKILL)
        wait_until(lambda restarts=restarts: engine.health().totals.restarts == restarts)
        answers_again(engine, f"r{restarts}")
    assert engine.health().state == "ready"


def test_what_was_answered_before_the_crash_is_an_answer(standin: Start) -> None:
    """The process ends right after the last token: what it had sent is delivered before anybody is told of a crash."""
    engine = standin()
    for number in range(3):
        reply = engine.ask(question(f"[id=a{number}][tokens=2]"))
        wait_until(lambda reply=reply: reply.done)
        os.kill(pid_of(engine), signal.SIGKILL)
        assert reply.finish().text == told(f"a{number}", 2)
        wait_until(lambda number=number: engine.health().totals.restarts == number + 1)


def test_signals_to_the_whole_group_are_for_the_parent(standin: Start) -> None:
    engine = standin()
    pid = pid_of(engine)
    reply = engine.ask(question("[id=a][tokens=30][pace=10]"))
    next(reply)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert reply.finish().text == told("a", 30)
    assert pid_of(engine) == pid
    assert os.getsid(pid) == pid  # so that Ctrl-C in a terminal does not reach it at all


def test_out_of_memory(standin: Start) -> None:
    engine = standin()
    pid = pid_of(engine)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (20 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
    assert crashed(engine.ask(question("x" * (64 << 20))))
    answers_again(engine)
    assert pid_of(engine) != pid


def test_a_process_that_has_grown_is_replaced_between_answers(standin: Start) -> None:
    limit = standin().health().rss_bytes + (12 << 20)
    engine = standin(rss_bytes=limit)
    pid = pid_of(engine)
    running = engine.ask(question("[id=long][tokens=60][pace=10]"))
    next(running)
    grow = engine.ask(question("[tokens=1]" + "x" * (24 << 20)))
    queued = engine.ask(question("[id=q][tokens=2]"))
    assert running.finish().text == told("long", 60)
    assert grow.finish().text == told("t", 1)
    assert queued.finish().text == told("q", 2)
    answers_again(engine)
    health = engine.health()
    assert health.pid != pid
    assert (health.totals.recycled, health.totals.errors) == (1, {})
    assert "grown beyond" in (health.last_error or "")


class Unkillable(subprocess.Popen[bytes]):
    """A process stuck in a driver: signals do nothing until it comes back."""

    stuck = True

    def kill(self) -> None:
        if not self.stuck:
            super().kill()

    def wait(self, timeout: float | None = None) -> int:
        if self.stuck:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return super().wait(timeout)


def test_no_second_process_while_one_cannot_be_killed(tmp_path: Path) -> None:
    made: list[Unkillable] = []

    def popen(*args: Any, **options: Any) -> Unkillable:
        made.append(Unkillable(*args, **options))
        return made[-1]

    limits = vlm.EngineLimits(abort_s=0.2, kill_s=0.2, in_flight=1)
    engine = vlm.Engine(standin_choice(tmp_path), limits, popen=popen)
    engine.start()
    engine.wait_ready()
    stuck, queued = engine.ask(question(DEAF)), engine.ask(question("[id=q]"))
    next(stuck)
    stuck.close()
    with pytest.raises(EngineFailedError, match="not available"):
        queued.finish()
    assert engine.health().state == "failed"
    with pytest.raises(EngineFailedError):
        engine.ask(question("[id=no]"))
    with pytest.raises(EngineFailedError, match=r"stuck in a driver.* Restart the machine"):
        engine.wait_ready()
    assert len(made) == 1
    made[0].stuck = False
    made[0].kill()  # the driver lets go of it after all
    wait_until(lambda: engine.health().state == "ready")
    answers_again(engine)
    assert len(made) == 2
    made[1].stuck = True
    engine.close(0)  # gives up on it, and comes back
    made[1].stuck = False
    made[1].wait(60)


def first_runs(code: str) -> tuple[list[subprocess.Popen[bytes]], Any]:
    """The processes made, and what starts them: the first one runs `code`, with the same arguments."""
    made: list[subprocess.Popen[bytes]] = []

    def popen(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if not made:
            words = [words[0], "-c", code, *words[3:]]
        made.append(subprocess.Popen(words, **options))
        return made[-1]

    return made, popen


def test_a_process_that_talks_nonsense_is_ended(tmp_path: Path) -> None:
    made, popen = first_runs("import os, sys, time; os.write(int(sys.argv[1]), bytes(9)); time.sleep(600)")
    with vlm.Engine(standin_choice(tmp_path), popen=popen) as engine:
        answers_again(engine)
        assert "closed its connection" in (engine.health().last_error or "")
        assert (len(made), made[0].poll()) == (2, -signal.SIGKILL)


STUCK = """
import socket, sys, time
from vlm.engine.messages import Ask, CacheFigures, Ended, Fault, ModelFacts, Opened, Request
from vlm.engine.wire import RECEIVE, Frames, frame

connection, frames = socket.socket(fileno=int(sys.argv[1])), Frames(Request)
connection.sendall(frame([Opened(ModelFacts("demo", "demo", "", 2048, {}, False, "1.3.0", "host"))]))
while True:
    for request in frames.feed(connection.recv(RECEIVE)):
        if isinstance(request, Ask):
            fault = Fault("RunTimeoutError", "It never returned.")
            connection.sendall(frame([Ended(request.id, None, fault, CacheFigures(), fatal=True)]))
"""


def test_a_process_that_calls_itself_useless_is_replaced(tmp_path: Path) -> None:
    made, popen = first_runs(STUCK)
    with vlm.Engine(standin_choice(tmp_path), popen=popen) as engine:
        with pytest.raises(RunTimeoutError, match="It never returned"):
            engine.ask(question("[id=a]")).finish()
        wait_until(lambda: len(made) == 2)
        answers_again(engine)
        assert "It never returned" in (engine.health().last_error or "")


def test_a_process_that_leaves_another_behind_has_ended_all_the_same(tmp_path: Path) -> None:
    """Something that a library started holds the connection and the output open."""
    made, popen = first_runs(
        "import subprocess, sys\n"
        "from vlm.engine.child import main\n"
        "subprocess.Popen(['sleep', '600'], pass_fds=[int(sys.argv[1])])\n"
        "main()"
    )
    with vlm.Engine(standin_choice(tmp_path), popen=popen) as engine:
        reply = engine.ask(question("[id=a][tokens=900][pace=10]", max_new_tokens=900))
        next(reply)
        made[0].kill()
        assert "SIGKILL" in crashed(reply)
        answers_again(engine)
    left = [thread.name for thread in threading.enumerate() if str(made[0].pid) in thread.name]
    assert left == [f"engine-{made[0].pid}-listen"]
    os.killpg(made[0].pid, signal.SIGKILL)
