"""OpenAI's own Python client, unmodified, against the service."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from sample_pictures import TRUTH
from service_rig import LIGHT, STAR, Served, told


def part(picture: Path) -> dict[str, object]:
    data = base64.b64encode(picture.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def user(*parts: dict[str, object] | dict[str, str]) -> list[dict[str, object]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.fixture
def demo(demo_service: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=demo_service.url + "/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def standin(standin_service: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=standin_service.url + "/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, messages: object, **options: object) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(model="demo", messages=messages, **options)  # type: ignore[call-overload,no-any-return]


def text_of(completion: openai.types.chat.ChatCompletion) -> str | None:
    return completion.choices[0].message.content


def test_a_picture_and_its_usage(demo: openai.OpenAI) -> None:
    answer = ask(demo, user(part(LIGHT), words("Describe the picture.")))
    assert text_of(answer) == TRUTH[LIGHT.name]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "demo"


def test_several_pictures_keep_their_order(demo: openai.OpenAI) -> None:
    question = words("Which picture has more shapes?")
    assert text_of(ask(demo, user(part(STAR), part(LIGHT), question))) == (
        "The second picture has more shapes, three against one."
    )
    assert text_of(ask(demo, user(part(LIGHT), part(STAR), question))) == (
        "The first picture has more shapes, three against one."
    )


def test_a_conversation(demo: openai.OpenAI) -> None:
    first = user(part(STAR), words("What colour is the star?"))
    answer = text_of(ask(demo, first))
    again = [*first, {"role": "assistant", "content": answer}, *user(words("Describe the picture."))]
    assert text_of(ask(demo, again)) == TRUTH[STAR.name]


def test_a_stream_is_the_same_answer_in_pieces(demo: openai.OpenAI) -> None:
    messages = user(part(LIGHT), words("Describe the picture."))
    usage = {"include_usage": True}
    chunks = list(ask(demo, messages, stream=True, stream_options=usage))  # type: ignore[call-overload]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(piece or "" for piece in pieces) == TRUTH[LIGHT.name]
    assert len(pieces) > 10
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 10


def test_stop_and_length(demo: openai.OpenAI) -> None:
    messages = user(part(LIGHT), words("Describe the picture."))
    whole = TRUTH[LIGHT.name]
    assert text_of(ask(demo, messages, stop=[" large yellow"])) == whole.partition(" large yellow")[0]
    cut = ask(demo, messages, max_completion_tokens=3)
    assert cut.choices[0].finish_reason == "length"
    assert whole.startswith(text_of(cut) or "-")
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 3


def test_sampling(demo: openai.OpenAI) -> None:
    """Temperature 0 is the greedy answer; a high one with a seed is another, the same each time."""
    messages = user(part(LIGHT), words("Describe the picture."))
    assert text_of(ask(demo, messages, temperature=0, top_p=0.5)) == TRUTH[LIGHT.name]
    hot = [text_of(ask(demo, messages, temperature=2, seed=7, max_tokens=20)) for _ in range(2)]
    assert hot[0] == hot[1] != TRUTH[LIGHT.name]


def test_a_plain_completion(demo: openai.OpenAI) -> None:
    answer = demo.completions.create(model="demo", prompt="What is in the picture?")
    assert answer.choices[0].text == text_of(ask(demo, user(words("What is in the picture?"))))
    pieces = demo.completions.create(model="demo", prompt="What is in the picture?", stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == answer.choices[0].text


def test_models(demo: openai.OpenAI) -> None:
    assert [model.id for model in demo.models.list()] == ["demo"]
    assert demo.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        demo.models.retrieve("other")


def test_an_unknown_model_is_not_replaced(demo: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o' here") as caught:
        demo.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="nothing at this address") as nowhere:
        demo.moderations.create(input="Hi")
    assert nowhere.value.code == "RequestError"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 2}, "More than one choice"),
        ({"logprobs": True}, "Log probabilities"),
        ({"logit_bias": {"5": 3}}, "Weights of single tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "knows no tools"),
        ({"response_format": {"type": "json_object"}}, "A format of the answer"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 10_000}, "4096"),
        ({"extra_body": {"top_kk": 3}}, "top_kk"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(demo: openai.OpenAI, options: dict[str, object], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        ask(demo, user(words("Hi")), **options)


def test_a_broken_picture(demo: openai.OpenAI) -> None:
    data = base64.b64encode(b"this is no picture").decode()
    broken = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError, match="picture"):
            ask(demo, user(broken, words("Hi")), stream=stream)


def test_over_the_stand_in(standin: openai.OpenAI, standin_service: Served) -> None:
    """Text, a picture, a stream and its end, on a board's library."""
    assert text_of(ask(standin, user(words("[id=a][tokens=4]")))) == told("a", 4)
    assert text_of(ask(standin, user(part(STAR), words("[id=b][tokens=4]")))) == told("b", 4)
    chunks = ask(standin, user(part(STAR), words("[id=c][tokens=9][pace=2]")), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == told("c", 9)  # type: ignore[attr-defined]


def test_usage_is_what_the_library_says(standin: openai.OpenAI) -> None:
    """The stand-in of every release from 1.2.1 says 7 tokens of prompt."""
    usage = ask(standin, user(words("[id=a][tokens=4]"))).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 4)


def test_a_board_has_no_seed(standin: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="seed") as caught:
        ask(standin, user(words("[id=a][tokens=4]")), seed=3)
    assert caught.value.status_code in (400, 501)


def test_a_stream_that_is_left_frees_the_model(standin: openai.OpenAI) -> None:
    with ask(standin, user(words("[id=a][tokens=1500][pace=20]")), stream=True) as stream:  # type: ignore[attr-defined]
        assert next(iter(stream)).choices[0].delta.content == "a:0 "
    assert text_of(ask(standin, user(words("[id=b][tokens=2]")), timeout=20)) == told("b", 2)


def test_a_failed_run_is_an_error_in_the_stream_too(standin: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="The model failed"):
        ask(standin, user(words("[fail]")))
    stream = ask(standin, user(words("[id=a][tokens=9][error=3][pace=5]")), stream=True)
    pieces: list[str] = []
    with pytest.raises(openai.APIError, match="The model failed"):
        pieces.extend(chunk.choices[0].delta.content or "" for chunk in stream)  # type: ignore[attr-defined]
    assert text_of(ask(standin, user(words("[id=b][tokens=2]")))) == told("b", 2)
