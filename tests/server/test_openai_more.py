"""Tools, thoughts, embeddings and adapters, asked for with the clients that people have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import ollama
import openai
import pytest
from service_rig import LIGHT, STAR, Served, serve, wait_until
from standin import build
from test_openai_client import part

import vlm

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


def words_of(folder: Path, profile: str, *more: object) -> list[object]:
    llm = folder / "model.rkllm"
    llm.touch()
    return ["--model", profile, "--llm", llm, "--library", build("1.3.0"), "--no-pictures", *more]


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model that knows tools, with two adapters."""
    folder = tmp_path_factory.mktemp("model")
    for name in ("calm", "loud"):
        (folder / f"{name}.rkllm").touch()
    adapters = ["--lora", folder / "calm.rkllm", "--lora", f"loud={folder}/loud.rkllm@0.5"]
    with serve(*words_of(folder, "qwen3-vl-2b", *adapters)) as served:
        yield served.ready()


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(*words_of(tmp_path_factory.mktemp("model"), "qwen3.5-0.8b")) as served:
        yield served.ready()


@pytest.fixture(scope="module")
def clients() -> Iterator[ExitStack]:
    """What is closed when all is over."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def client(clients: ExitStack) -> Callable[[Served], openai.OpenAI]:
    """OpenAI's client of a service."""

    def made(served: Served) -> openai.OpenAI:
        asker = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        return clients.enter_context(asker)

    return made


@pytest.fixture
def ollamas(clients: ExitStack) -> Callable[[Served], ollama.Client]:
    """Ollama's client of a service."""

    def made(served: Served) -> ollama.Client:
        asker = ollama.Client(served.url)
        clients.callback(asker._client.close)
        return asker

    return made


def test_tools_there_and_back(client, knowing: Served) -> None:
    messages: list[dict[str, object]] = [{"role": "user", "content": "[call=weather] Is it raining?"}]
    asked = {"model": "qwen3-vl-2b", "tools": [WEATHER]}
    first = client(knowing).chat.completions.create(messages=messages, **asked).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"place": "Oslo"})
    messages += [first.message.model_dump(exclude_none=True)]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    second = client(knowing).chat.completions.create(messages=messages, **asked).choices[0]
    assert (second.message.content, second.finish_reason) == ("It is rain.", "stop")


def called(*names: str) -> list[dict[str, object]]:
    """A question, and the calls that the model answered it with."""
    function = {"name": "weather", "arguments": '{"place": "Oslo"}'}
    calls = [{"id": name, "type": "function", "function": function} for name in names]
    return [{"role": "user", "content": "[call=weather]"}, {"role": "assistant", "content": "", "tool_calls": calls}]


def result(name: str, content: str) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": name, "content": content}


@pytest.mark.parametrize("results", [["one", "two"], ["two", "one"]])
def test_what_tools_gave_is_put_in_the_order_of_the_calls(client, knowing: Served, results: list[str]) -> None:
    """The stand-in tells the first result that its prompt has."""
    messages = [*called("one", "two"), *(result(name, f"the result of {name}") for name in results)]
    answer = client(knowing).chat.completions.create(model="qwen3-vl-2b", messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "It is the result of one."


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([*called("one"), result("other", "x")], "tool_call_id 'other' is of no call .* its calls: 'one'"),
        ([*called("one"), result("one", "x"), *called("two"), result("one", "x")], "tool_call_id 'one' is of no call"),
        ([*called("one", "two"), result("two", "x")], "Call 'one' has no message of role tool"),
        ([*called("one"), result("one", "x"), result("one", "y")], "Call 'one' has more than one"),
        ([*called("one"), {"role": "tool", "content": "x"}], "needs the tool_call_id"),
    ],
)
def test_a_result_of_no_call_is_refused(client, knowing: Served, messages: list[dict[str, object]], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client(knowing).chat.completions.create(model="qwen3-vl-2b", messages=messages, tools=[WEATHER])
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "PromptError")


def test_tools_in_a_stream(client, knowing: Served) -> None:
    stream = client(knowing).chat.completions.create(
        model="qwen3-vl-2b", messages=[{"role": "user", "content": "[call=weather]"}], tools=[WEATHER], stream=True
    )
    *_, last = [chunk.choices[0] for chunk in stream]
    assert (last.delta.tool_calls[0].function.name, last.finish_reason) == ("weather", "tool_calls")
    assert last.delta.tool_calls[0].index == 0


def test_a_call_that_is_none_is_text(client, knowing: Served) -> None:
    answer = client(knowing).chat.completions.create(
        model="qwen3-vl-2b", messages=[{"role": "user", "content": "[badcall]"}], tools=[WEATHER]
    )
    assert answer.choices[0].message.content == 'Well: <tool_call>\n{"name": }\n</tool_call>'
    assert answer.choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tool_choice": "required"}, "tool_choice is auto or none"),
        ({"tools": [{"type": "retrieval"}]}, "tools"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "needs the tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "a"}]}, "tool_call_id 'a' is of no call"),
        ({"messages": [{"role": "user"}]}, "needs content"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0: Input tag 'audio'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: Input should be a valid string"),
    ],
)
def test_what_is_wrong_with_tools_is_said(knowing: Served, more: dict[str, object], said: str) -> None:
    body = {"model": "qwen3-vl-2b", "messages": [{"role": "user", "content": "a"}], "tools": [WEATHER], **more}
    answer = httpx.post(f"{knowing.url}/v1/chat/completions", json=body)
    assert answer.status_code in (400, 422)
    assert said in answer.json()["error"]["message"]


def test_a_model_by_its_adapter(client, ollamas, knowing: Served) -> None:
    names = ["qwen3-vl-2b", "qwen3-vl-2b@calm", "qwen3-vl-2b@loud"]
    assert [each.id for each in client(knowing).models.list()] == names
    for _ in range(2):
        for name in names:
            answer = client(knowing).chat.completions.create(
                model=name, messages=[{"role": "user", "content": "[tokens=1]"}]
            )
            expected = "t:0 " if name == names[0] else f"t@{name.partition('@')[2]}:0 "
            assert (answer.choices[0].message.content, answer.model) == (expected, name)
    with pytest.raises(openai.NotFoundError, match="qwen3-vl-2b@loud"):
        client(knowing).chat.completions.create(model="qwen3-vl-2b@none", messages=[{"role": "user", "content": "a"}])
    told = ollamas(knowing).generate("qwen3-vl-2b@calm", "[tokens=1]")
    assert told.response == "t@calm:0 "
    with vlm.connect(knowing.url, model="qwen3-vl-2b@loud") as remote:
        assert "".join(remote.stream([], "[tokens=1]")) == "t@loud:0 "


def test_thoughts_in_every_protocols_own_field(client, ollamas, thinking: Served) -> None:
    name, question = "qwen3.5-0.8b", "[think=It is red.][say=Red.]"
    messages = [{"role": "user", "content": question}]
    whole = client(thinking).chat.completions.create(model=name, messages=messages, reasoning_effort="low")
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content) == ("Red.", "It is red.\n")
    stream = client(thinking).chat.completions.create(
        model=name, messages=messages, stream=True, extra_body={"thinking": True}
    )
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert "".join(delta.content or "" for delta in deltas) == "Red."
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "It is red.\n"
    for told in (
        ollamas(thinking).chat(name, messages, think=True).message,
        ollamas(thinking).generate(name, question, think=True),
    ):
        assert (told.thinking, getattr(told, "content", None) or told.response) == ("It is red.\n", "Red.")
    guide = httpx.post(f"{thinking.url}/rkllm_chat", json={"messages": messages, "enable_thinking": True}).json()
    assert guide["choices"][0]["message"]["reasoning_content"] == "It is red.\n"
    ours = httpx.post(f"{thinking.url}/v1/describe", data={"prompt": question, "thinking": "true"}, files={"a": b""})
    assert ours.status_code == 400  # a file that is no field
    with vlm.connect(thinking.url) as remote, remote.stream([], question, thinking=True) as told:
        assert {type(piece) for piece in told} == {str, vlm.Thought}
        assert (told.answer.text, told.answer.reasoning) == ("Red.", "It is red.\n")
    silent = client(thinking).chat.completions.create(model=name, messages=[{"role": "user", "content": "[say=Red.]"}])
    assert silent.choices[0].message.content == "Red."


def test_the_log_holds_no_thoughts_calls_and_embeddings(
    knowing: Served, thinking: Served, demo_service: Served
) -> None:
    """They tell what was asked; what an answer took is there."""
    thought = asking("qwen3.5-0.8b", "[think=Zaphod.][say=Yes.]", thinking=True)
    called = asking("qwen3-vl-2b", "[call=weather]", tools=[WEATHER])
    for served, route, body, secret in (
        (thinking, "/v1/chat/completions", thought, "Zaphod"),
        (knowing, "/v1/chat/completions", called, "Oslo"),
        (demo_service, "/v1/embeddings", {"model": "demo", "input": "A star."}, '"embedding"'),
    ):
        before = len(served.lines)
        assert served.post(route, json=body).status_code == 200
        wait_until(lambda served=served, before=before: len(served.lines) > before, "the log")
        lines = [json.loads(line) for line in served.lines[before:]]
        assert [line["finish_reason"] for line in lines if line["route"] == route] == ["stop"]
        assert secret not in "".join(served.lines[before:])


def asking(model: str, question: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": question}], **more}


def test_embeddings_of_texts(client, demo_service: Served) -> None:
    texts = ["How many stars?", "How many stars?", "What is red?"]
    for encoding in ("base64", "float"):  # the client asks for the former by itself, and decodes it
        made = client(demo_service).embeddings.create(model="demo", input=texts, encoding_format=encoding)
        if encoding == "float":
            one, same, other = (np.array(each.embedding) for each in made.data)
            assert one @ same > 0.99999 > one @ other
        assert [each.index for each in made.data] == [0, 1, 2]
    single = client(demo_service).embeddings.create(model="demo", input=texts[0])
    np.testing.assert_allclose(single.data[0].embedding, one, atol=1e-6)


def test_embeddings_of_pictures(demo_service: Served) -> None:
    inputs = [[part(path)] for path in (STAR, STAR, LIGHT)]
    body = {"model": "demo", "input": inputs, "pooling": "last"}
    answer = httpx.post(f"{demo_service.url}/v1/embeddings", json=body, timeout=60).json()
    one, same, other = (np.array(each["embedding"]) for each in answer["data"])
    assert one @ same > 0.99999 > one @ other
    nothing = httpx.post(f"{demo_service.url}/v1/embeddings", json={"model": "demo", "input": []}).json()
    assert nothing["error"]["message"].startswith("input: List should have at least 1 item")
    refused = httpx.post(f"{demo_service.url}/v1/embeddings", json={"model": "demo", "input": "a", "dimensions": 3})
    assert (refused.status_code, "dimensions" in refused.text) == (422, True) or refused.status_code == 400
