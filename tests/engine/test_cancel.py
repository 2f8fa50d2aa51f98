"""Answers that nobody wants any more, in every state that a question can be in; and those that come too late."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from engine_rig import DEAF, answers_again, question, told, wait_until

import vlm
from vlm.errors import EngineCrashedError, EngineDeadlineError

Start = Callable[..., vlm.Engine]


def running(engine: vlm.Engine, words: str = "[id=first][tokens=900][pace=10]") -> vlm.Reply:
    """An answer that is being told."""
    reply = engine.ask(question(words, max_new_tokens=900))
    next(reply)
    return reply


def test_in_the_queue(standin: Start) -> None:
    engine = standin(in_flight=1)
    first, second, third = running(engine), engine.ask(question("[id=b]")), engine.ask(question("[id=c][tokens=2]"))
    second.close()
    assert (second.done, second.error, second.position, third.position) == (True, None, None, 1)
    assert list(second) == []
    first.close()
    assert third.finish().text == told("c", 2)


@pytest.mark.parametrize(
    ("words", "wait_for"),
    [
        ("[tokens=4][prefill=400]", lambda reply: reply.position == 0),
        ("[tokens=900][pace=10]", lambda reply: reply.take()),
        ("[tokens=900][pace=10][deaf=2]", lambda reply: reply.take()),
        ("[tokens=900][pace=10][abort=error]", lambda reply: reply.take()),
        ("[tokens=900]", lambda reply: reply.take()),
        ("[tokens=1][finish=later][pace=300]", lambda reply: reply.take()),
        ("[tokens=1][finish=late]", lambda reply: reply.take()),
    ],
    ids=["prefill", "telling", "deaf", "abort-is-an-error", "unpaced", "finishing", "finishing-late"],
)
def test_in_the_model(standin: Start, words: str, wait_for: Callable[[vlm.Reply], object]) -> None:
    engine = standin()
    pid = engine.health().pid
    for _ in range(3):
        reply = engine.ask(question(words, max_new_tokens=900))
        wait_until(lambda reply=reply: wait_for(reply))
        reply.close()
        assert (reply.done, list(reply)) == (True, []) or reply.answer.finish_reason != "abort"
        answers_again(engine)
    assert engine.health().pid == pid
    assert engine.health().totals.restarts == 0


def test_sent_and_not_begun(standin: Start) -> None:
    """Waiting behind a long answer in the model's process is no hang, however long it takes."""
    engine = standin(in_flight=2, abort_s=0.3)
    first = running(engine, "[id=a][tokens=100][pace=10]")
    second = engine.ask(question("[id=b][tokens=900][pace=10]", max_new_tokens=900))
    assert second.position == 0
    second.close()
    assert second.done
    assert first.finish().text == told("a", 100)
    answers_again(engine)
    assert engine.health().totals.restarts == 0
    assert engine.health().totals.aborted == 1


def test_left_by_the_with_block_and_closed_twice(standin: Start) -> None:
    engine = standin()
    with engine.ask(question("[id=a][tokens=900][pace=10]", max_new_tokens=900)) as reply:
        assert next(reply) == "a:0 "
    reply.close()
    answers_again(engine)
    assert engine.health().totals.aborted == 1
    assert reply.answer.text.startswith("a:0 ")
    assert reply.answer.finish_reason == "abort"


def test_closing_after_the_end_changes_nothing(standin: Start) -> None:
    engine = standin()
    reply = engine.ask(question("[id=a][tokens=2]"))
    wait_until(lambda: reply.done)
    reply.close()
    assert reply.answer.finish_reason == "stop"
    assert engine.health().totals.aborted == 0


def test_a_run_that_does_not_end_costs_the_process(standin: Start) -> None:
    engine = standin(abort_s=0.3)
    pid = engine.health().pid
    stuck = running(engine, DEAF)
    behind = engine.ask(question("[id=b]"))  # in the process too
    queued = engine.ask(question("[id=q][tokens=2]"))
    wait_until(lambda: engine.health().in_flight == 2)
    stuck.close()
    assert stuck.done
    with pytest.raises(EngineCrashedError, match="did not end a run within") as caught:
        behind.finish()
    assert caught.value.retry_after is not None
    assert queued.finish().text == told("q", 2)
    health = engine.health()
    assert health.pid != pid
    assert health.totals.restarts == 1
    assert "did not end a run" in (health.last_error or "")


def test_a_deadline_in_the_queue(standin: Start) -> None:
    engine = standin(in_flight=1)
    first, second = running(engine), engine.ask(question("[id=b]", deadline_s=0.2))
    with pytest.raises(EngineDeadlineError, match="waiting"):
        second.finish()
    assert not first.done
    first.close()
    answers_again(engine)


def test_a_deadline_while_an_answer_is_told(standin: Start) -> None:
    engine = standin()
    pid = engine.health().pid
    reply = engine.ask(question("[id=a][tokens=900][pace=10]", max_new_tokens=900, deadline_s=1.5))
    with pytest.raises(EngineDeadlineError, match="being answered"):
        reply.finish()
    assert reply.answer.text
    assert told("a", 900).startswith(reply.answer.text)
    answers_again(engine)
    assert engine.health().pid == pid


def test_a_deadline_that_a_hang_passes(standin: Start) -> None:
    engine = standin(deadline_s=2, abort_s=0.2)
    with pytest.raises(EngineDeadlineError):
        engine.ask(question(DEAF, deadline_s=1000)).finish()
    wait_until(lambda: engine.health().totals.restarts == 1)
    wait_until(lambda: engine.health().state == "ready")


def test_a_deadline_before_the_model_is_open(standin: Start) -> None:
    engine = standin("[slow=2000]", ready=False)
    reply = engine.ask(question("[id=a]", deadline_s=0.1))
    with pytest.raises(EngineDeadlineError):
        reply.finish()
    assert engine.health().state == "starting"
