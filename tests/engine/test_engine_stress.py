"""Many answers at once, a quarter of them left early: none lost, none mixed up, nothing left behind."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable

import pytest
from engine_rig import LONG_S, answers_again, open_files, question, told, wait_until

import vlm

CLIENTS = 8
LEAVE_AFTER = 5


def ask(engine: vlm.Engine, rng: random.Random, name: str, wrong: list[str]) -> None:
    """One client's question; what is not as it should be goes into `wrong`."""
    count = rng.randrange(1, 60)
    end = rng.choice(("now", "now", "later", "text", "again"))  # "now": the end in the same instant as the last token
    words = f"[id={name}][tokens={count}][finish={end}]" + rng.choice(("", "[thread]", "[ghost]"))
    limit = count if rng.random() < 0.5 else 256
    reply = engine.ask(question(words, max_new_tokens=limit))
    if rng.random() < 0.25:
        text = ""
        for _, piece in zip(range(LEAVE_AFTER), reply, strict=False):
            text += piece
        reply.close()
        right = told(name, count).startswith(text) and len(text.split()) == min(count, LEAVE_AFTER)
    else:
        text = reply.finish().text
        right = text == told(name, count)
    if not right:
        wrong.append(f"{words}: {text}")


def many(engine: vlm.Engine, answers: int) -> None:
    wrong: list[str] = []
    done: list[int] = []

    def client(who: int) -> None:
        rng = random.Random(who)
        for number in range(answers // CLIENTS):
            ask(engine, rng, f"c{who}n{number}", wrong)
        done.append(who)

    threads = [threading.Thread(target=client, args=(who,), daemon=True) for who in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S * 4)
    assert wrong == []
    assert sorted(done) == list(range(CLIENTS))
    wait_until(lambda: engine.health().in_flight == 0)
    totals = engine.health().totals
    assert (totals.questions, totals.answers + totals.aborted) == (answers, answers)
    assert (totals.errors, totals.restarts) == ({}, 0)


@pytest.mark.parametrize("answers", [304, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_token_is_lost_or_anothers(standin: Callable[..., vlm.Engine], answers: int) -> None:
    many(standin(), answers)


@pytest.mark.parametrize("rounds", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_nothing_is_left_behind_by_restarts_and_answers(standin: Callable[..., vlm.Engine], rounds: int) -> None:
    engine = standin(restart_s=0)
    before = threading.active_count(), open_files()
    for number in range(rounds):
        engine.ask(question("[tokens=900][pace=5]")).close()
        answers_again(engine, f"r{number}")
        pid = engine.health().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda number=number: engine.health().totals.restarts == number + 1)
        answers_again(engine, f"s{number}")
        assert (threading.active_count(), open_files()) == before
