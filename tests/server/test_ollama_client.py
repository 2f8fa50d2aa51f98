"""Ollama's own Python client, unmodified, against the service."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import ollama
import pytest
from sample_pictures import TRUTH
from service_rig import LIGHT, STAR, Served, told


def client_of(served: Served) -> Iterator[ollama.Client]:
    client = ollama.Client(host=served.url)
    yield client
    client._client.close()  # it has no close of its own


@pytest.fixture
def demo(demo_service: Served) -> Iterator[ollama.Client]:
    yield from client_of(demo_service)


@pytest.fixture
def standin(standin_service: Served) -> Iterator[ollama.Client]:
    yield from client_of(standin_service)


def user(text: str, *images: object) -> dict[str, object]:
    return {"role": "user", "content": text, "images": list(images)}


def test_a_picture(demo: ollama.Client) -> None:
    answer = demo.chat("demo", [user("Describe the picture.", LIGHT)])
    assert answer.message.content == TRUTH[LIGHT.name]
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert answer.eval_count > 10
    assert answer.prompt_eval_count > 49
    assert answer.total_duration > answer.eval_duration > 1e6


def test_several_pictures_and_turns(demo: ollama.Client) -> None:
    first = user("Which picture has more shapes?", STAR, LIGHT)
    answer = demo.chat("demo:latest", [first])
    assert answer.message.content == "The second picture has more shapes, three against one."
    other = [user("What colour is the star?", STAR), {"role": "assistant", "content": "The star is blue."}]
    assert demo.chat("demo", [*other, user("Describe the picture.")]).message.content == TRUTH[STAR.name]


def test_a_stream(demo: ollama.Client) -> None:
    lines = list(demo.chat("demo", [user("Describe the picture.", LIGHT)], stream=True))
    assert "".join(line.message.content for line in lines) == TRUTH[LIGHT.name]
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert len(lines) > 10


def test_generate(demo: ollama.Client) -> None:
    answer = demo.generate("demo", "Describe the picture.", images=[str(LIGHT)])
    assert answer.response == TRUTH[LIGHT.name]
    lines = demo.generate("demo", "Describe the picture.", images=[LIGHT.read_bytes()], stream=True)
    assert "".join(line.response for line in lines) == TRUTH[LIGHT.name]


def test_options(demo: ollama.Client) -> None:
    def ask(**options: object) -> ollama.ChatResponse:
        return demo.chat("demo", [user("Describe the picture.", LIGHT)], options=options, keep_alive="5m")

    whole = TRUTH[LIGHT.name]
    assert ask(stop=[" large yellow"], num_ctx=4096, seed=-1).message.content == whole.partition(" large yellow")[0]
    cut = ask(num_predict=3)
    assert (cut.done_reason, cut.eval_count) == ("length", 3)
    assert ask(temperature=0, num_predict=-1).message.content == whole
    hot = [ask(temperature=2, seed=7, num_predict=20).message.content for _ in range(2)]
    assert hot[0] == hot[1] != whole


def test_loading_is_no_question(demo: ollama.Client) -> None:
    assert demo.generate("demo", keep_alive=-1).done_reason == "load"
    assert demo.chat("demo").done_reason == "load"


def test_what_there_is(demo: ollama.Client) -> None:
    (listed,) = demo.list().models
    assert (listed.model, listed.size) == ("demo:latest", None)
    shown = demo.show("demo")
    assert shown.capabilities == ["completion", "vision"]
    assert shown.modelinfo["demo.context_length"] == 2048
    (running,) = demo.ps().models
    assert running.context_length == 2048


@pytest.mark.parametrize(
    ("model", "more", "status", "said"),
    [
        ("llava", {}, 404, "no model 'llava' here"),
        ("demo", {"options": {"min_p": 0.5}}, 400, "min_p"),
        ("demo", {"options": {"top_p": 7}}, 400, "top_p"),
        ("demo", {"format": "json"}, 400, "format"),
        ("demo", {"think": True}, 400, "think"),
    ],
)
def test_errors(demo: ollama.Client, model: str, more: dict[str, object], status: int, said: str) -> None:
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match=said) as caught:
            list(demo.chat(model, [user("Hi")], stream=stream, **more))
        assert caught.value.status_code == status


def test_a_broken_picture(demo: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        demo.chat("demo", [user("Hi", b"this is no picture")])
    assert caught.value.status_code == 422


def test_over_the_stand_in(standin: ollama.Client) -> None:
    answer = standin.chat("demo", [user("[id=a][tokens=4]", STAR)])
    assert (answer.message.content, answer.eval_count) == (told("a", 4), 4)
    lines = standin.chat("demo", [user("[id=b][tokens=9][pace=2]")], stream=True)
    assert "".join(line.message.content for line in lines) == told("b", 9)


def test_a_stream_that_is_left_and_one_that_fails(standin: ollama.Client) -> None:
    stream = standin.chat("demo", [user("[id=a][tokens=1500][pace=20]")], stream=True)
    assert next(stream).message.content == "a:0 "
    stream.close()
    with pytest.raises(ollama.ResponseError, match="The model failed"):
        list(standin.chat("demo", [user("[id=b][tokens=9][error=3][pace=5]")], stream=True))
    assert standin.chat("demo", [user("[id=c][tokens=2]")]).message.content == told("c", 2)


def test_curl_says_that_its_body_is_a_form(demo_service: Served) -> None:
    """As in Ollama's own examples."""
    body = '{"model": "demo", "prompt": "Hello", "stream": false}'
    words = ["curl", "-sS", "--fail-with-body", demo_service.url + "/api/generate", "-d", body]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert '"done":true' in done.stdout
