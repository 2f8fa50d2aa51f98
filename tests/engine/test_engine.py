"""Questions and answers through a model's process: the same as without it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_rig import LONG_S, answers_again, question, standin_choice, told, wait_until
from sample_pictures import PICTURES

import vlm
from vlm.errors import (
    ContextTooLongError,
    EngineQueueFullError,
    EngineStoppingError,
    ImageError,
    NotSupportedByRuntime,
    OptionError,
    PromptError,
    RkvlmError,
    RunError,
)

STAR, LIGHT, ROW = ((PICTURES / name).read_bytes() for name in ("blue-star.jpg", "traffic-light.jpg", "wide-row.webp"))


@pytest.fixture(scope="module")
def engine() -> Iterator[vlm.Engine]:
    """The demo model, in a process of its own."""
    with vlm.Engine(vlm.ModelChoice(model="demo")) as made:
        made.wait_ready()
        yield made


def same(ours: vlm.Answer, theirs: vlm.Answer) -> bool:
    names = ("text", "model", "finish_reason", "prompt_tokens", "tokens")
    return all(getattr(ours, name) == getattr(theirs, name) for name in names)


@pytest.mark.parametrize("pictures", [[STAR], [LIGHT], [ROW], [STAR, LIGHT], []])
def test_an_answer_is_the_one_without_an_engine(engine: vlm.Engine, demo: vlm.VLM, pictures: list[bytes]) -> None:
    text = "What is in the picture?" if pictures else "Hello!"
    encoded = engine.health().cache.misses
    answer = engine.ask(question(text, *pictures)).finish()
    assert same(answer, demo.describe(pictures, text))
    assert answer.text
    assert answer.queue_ms is not None
    assert (answer.encode_ms is not None) == (engine.health().cache.misses > encoded)


def test_a_conversation_and_its_options_are_passed_on(engine: vlm.Engine, demo: vlm.VLM) -> None:
    turns = (
        vlm.Turn("user", (vlm.ImagePart(STAR), vlm.TextPart("What is in the picture?"))),
        vlm.Turn("assistant", (vlm.TextPart("There is a blue star."),)),
        vlm.Turn("user", (vlm.TextPart("What colour is the star?"),)),
    )
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": STAR}, {"type": "text", "text": turns[0].content[1].text}],
        },
        {"role": "assistant", "content": "There is a blue star."},
        {"role": "user", "content": "What colour is the star?"},
    ]
    options: dict[str, Any] = {"max_new_tokens": 4, "stop": ["blue"], "seed": 7, "temperature": 2, "top_k": 5}
    assert same(engine.ask(vlm.Question(turns)).finish(), demo.chat(messages))
    limited = engine.ask(vlm.Question(turns, options)).finish()
    assert same(limited, demo.chat(messages, **options))
    assert "blue" not in limited.text


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (question("What is it?", b"no picture"), ImageError),
        (question("Hello!", max_new_tokens=0), OptionError),
        (question("Hello!", messages=[]), OptionError),
        (question("Hello!", max_new_tokens=4000), ContextTooLongError),
        (question("Hello!\0"), PromptError),
        (vlm.Question((vlm.Turn("nobody", (vlm.TextPart("Hello!"),)),)), PromptError),
        (vlm.Question(()), PromptError),
    ],
)
def test_an_error_is_the_one_without_an_engine(
    engine: vlm.Engine, demo: vlm.VLM, asked: vlm.Question, kind: type[RkvlmError]
) -> None:
    reply = engine.ask(asked)
    with pytest.raises(kind) as caught:
        reply.finish()
    assert type(caught.value) is kind
    assert reply.error is caught.value
    assert reply.done
    if "messages" not in asked.options:
        messages = [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part.text}
                    if isinstance(part, vlm.TextPart)
                    else {"type": "image", "image": part.data}
                    for part in turn.content
                ],
            }
            for turn in asked.turns
        ]
        with pytest.raises(kind) as direct:
            demo.chat(messages, **asked.options)
        assert str(direct.value) == str(caught.value)
    assert engine.ask(question("Hello!")).finish().text == demo.describe([], "Hello!").text


def test_an_option_that_is_no_plain_value_is_refused_at_once(engine: vlm.Engine) -> None:
    with pytest.raises(OptionError, match="cannot be passed"):
        engine.ask(question("Hello!", stop=object()))


def test_a_text_that_is_no_text_is_refused_at_once(engine: vlm.Engine) -> None:
    with pytest.raises(OptionError, match="surrogates"):
        engine.ask(question("Hello \ud800!"))
    with pytest.raises(OptionError, match="cannot be passed"):
        vlm.Engine(vlm.ModelChoice(model="demo", options={"stop": object()}))


def test_a_second_question_about_a_picture_finds_its_embedding(engine: vlm.Engine) -> None:
    picture = (PICTURES / "three-triangles.png").read_bytes()
    before = engine.health().cache
    for text in ("What is in the picture?", "How many triangles are there?"):
        engine.ask(question(text, picture)).finish()
    after = engine.health().cache
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 1)
    assert after.entries >= 1


def test_health_says_what_there_is(engine: vlm.Engine) -> None:
    answered = engine.health().totals.answers
    engine.ask(question("Hello!")).finish()
    wait_until(lambda: engine.health().state == "ready")
    health = engine.health()
    assert health.model is not None
    assert (health.model.name, health.model.pictures, health.model.release) == ("demo", True, "1.3.0")
    assert health.model.options["max_new_tokens"] == 96
    assert health.totals.answers == answered + 1
    assert (health.waiting, health.in_flight, health.last_error) == (0, 0, None)
    assert health.pid is not None
    assert health.rss_bytes > 10 << 20
    assert health.answering


def test_an_error_keeps_what_it_knows(tmp_path: Path) -> None:
    with vlm.Engine(standin_choice(tmp_path, release="1.1.4", pictures=True)) as old:
        reply = old.ask(question("[tokens=1]", STAR, LIGHT))
        with pytest.raises(NotSupportedByRuntime) as caught:
            reply.finish()
        assert (caught.value.release, caught.value.first) == ("1.1.4", "1.2.1b1")


def test_a_failed_run_is_an_error_after_the_pieces_before_it(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin()
    reply = engine.ask(question("[id=e][tokens=9][error=2]"))
    pieces: list[str] = []
    with pytest.raises(RunError):
        pieces += reply
    assert "".join(reply.answer.text) == told("e", 2)
    assert engine.health().totals.errors == {"RunError": 1}
    answers_again(engine)


def test_many_threads_ask_at_once(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin(in_flight=3)
    texts: dict[str, str] = {}

    def ask(name: str) -> None:
        texts[name] = engine.ask(question(f"[id={name}][tokens=20][pace=1]")).finish().text

    names = [f"n{number}" for number in range(9)]
    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert texts == {name: told(name, 20) for name in names}


def test_the_line_moves_up_and_says_so(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin(in_flight=1)
    first = engine.ask(question("[id=a][tokens=300][pace=10]"))
    second, third = (engine.ask(question(f"[id={name}][tokens=2]")) for name in "bc")
    seen: list[int | None] = []
    third.listen(lambda: seen.append(third.position))
    assert (first.position, second.position, third.position) == (0, 1, 2)
    assert engine.health().waiting == 2
    assert engine.health().state == "busy"
    first.close()
    assert third.finish().text == told("c", 2)
    wait_until(lambda: None in seen)
    assert [at for at, before in zip(seen, [-1, *seen], strict=False) if at != before] == [2, 1, 0, None]
    assert (second.finish().text, second.position) == (told("b", 2), None)


def test_a_listener_takes_everything_without_waiting(standin: Callable[..., vlm.Engine]) -> None:
    reply = standin().ask(question("[id=l][tokens=200]", max_new_tokens=90))
    taken: list[str] = []
    over = threading.Event()

    def listen() -> None:
        taken.extend(reply.take())
        if reply.done:
            over.set()

    reply.listen(listen)
    assert over.wait(LONG_S)
    assert "".join(taken) == told("l", 90) == reply.answer.text
    assert reply.answer.finish_reason == "length"
    assert reply.error is None


def test_a_listener_that_fails_harms_nobody(standin: Callable[..., vlm.Engine], caplog: Any) -> None:
    engine = standin()
    reply = engine.ask(question("[id=l][tokens=20][pace=5]"))
    with pytest.raises(ZeroDivisionError):
        reply.listen(lambda: 1 / 0)  # called once by listen itself, and then by the engine
    assert reply.finish().text == told("l", 20)
    answers_again(engine)
    assert "A listener failed" in caplog.text


def test_a_full_queue_refuses_and_says_when_to_come_back(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin(queue=2, in_flight=1, queue_bytes=5000)
    running = engine.ask(question("[id=a][tokens=900][pace=10]"))
    waiting = [engine.ask(question(f"[id={name}][tokens=1]")) for name in "bc"]
    assert engine.health().state == "busy"
    assert not engine.health().answering
    with pytest.raises(EngineQueueFullError, match="2 questions") as caught:
        engine.ask(question("[tokens=1]"))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1
    waiting.pop().close()
    with pytest.raises(EngineQueueFullError, match="bytes"):
        engine.ask(question("[tokens=1]" + "x" * 5000))
    waiting.append(engine.ask(question("[id=c][tokens=1]")))
    running.close()
    assert [reply.finish().text for reply in waiting] == [told("b", 1), told("c", 1)]
    answers_again(engine)


def test_close_lets_the_running_answer_finish_and_nothing_else(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin(in_flight=1)
    running = engine.ask(question("[id=a][tokens=40][pace=10]"))
    next(running)
    waiting = engine.ask(question("[id=b][tokens=1]"))
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(EngineStoppingError) as caught:
        waiting.finish()
    assert caught.value.retry_after
    with pytest.raises(EngineStoppingError):
        engine.ask(question("[tokens=1]"))
    assert engine.health().state == "stopping"
    assert running.finish().text == told("a", 40)
    closing.join(LONG_S)
    assert engine.health().pid is None
    engine.close()


def test_close_does_not_wait_beyond_its_grace(standin: Callable[..., vlm.Engine]) -> None:
    engine = standin(kill_s=1)
    stuck = engine.ask(question("[hang]"))
    wait_until(lambda: stuck.position == 0)
    engine.close(0.2)
    with pytest.raises(EngineStoppingError):
        stuck.finish()
    assert engine.health().pid is None
