"""The protocol of the vendor's guide, with a client that reads it as the guide's does."""

from __future__ import annotations

import json

import httpx
import pytest
from sample_pictures import TRUTH
from service_rig import LIGHT, Served, told
from test_openai_client import part, user, words


def guide_client(served: Served, text: object) -> tuple[str, list[dict[str, object]]]:
    """What the guide's client prints: the deltas up to the one whose finish_reason is "stop", and all objects."""
    body = {
        "model": "your_model_deploy_with_RKLLM_Server",
        "messages": [{"role": "user", "content": text}],
        "stream": True,
    }
    printed, objects = "", []
    with httpx.stream("POST", served.url + "/rkllm_chat", json=body, timeout=60) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line:
                objects.append(json.loads(line))
                if objects[-1]["choices"][-1]["finish_reason"] != "stop":
                    printed += objects[-1]["choices"][-1]["delta"]["content"]
    return printed, objects


def test_a_stream(standin_service: Served) -> None:
    printed, objects = guide_client(standin_service, "[id=a][tokens=9][pace=2]")
    assert printed == told("a", 9)
    assert [entry["choices"][-1]["finish_reason"] for entry in objects] == [None] * 9 + ["stop"]  # type: ignore[index]


def test_an_answer(standin_service: Served) -> None:
    body = {"messages": [{"role": "user", "content": "[id=a][tokens=3]"}]}
    answer = standin_service.post("/rkllm_chat", json=body).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": told("a", 3)}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 3


def test_a_picture(demo_service: Served) -> None:
    messages = user(part(LIGHT), words("Describe the picture."))
    printed, _ = guide_client(demo_service, messages[0]["content"])
    assert printed == TRUTH[LIGHT.name]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}], "model": "other"}, 404),
        ({"model": "demo"}, 400),
        ({"messages": []}, 400),
        ([], 400),
    ],
)
def test_errors(demo_service: Served, body: object, status: int) -> None:
    answer = demo_service.post("/rkllm_chat", json=body)
    assert answer.status_code == status
    assert answer.json()["status"] == "error"
    assert answer.json()["message"]
