"""What a model thinks before it answers, on the page: folded away above the answer, and no part of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from browser import axe_faults
from page_rig import Visit
from playwright.sync_api import expect
from service_rig import Served, serve
from standin import build

RED = "[think=Is <b>it</b> red? It is.][say=Red.]"
SLOW = f"[think={'and then ' * 100}][say=Red.][pace=10][piece=9]"


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The stand-in with the profile of a model that thinks."""
    llm = tmp_path_factory.mktemp("model") / "model.rkllm"
    llm.touch()
    words = ("--model", "qwen3.5-0.8b", "--llm", llm, "--library", build("1.3.0"), "--no-pictures", "--thinking")
    with serve(*words) as served:
        yield served.ready()


def test_thoughts_are_folded_above_the_answer(visit: Visit, thinking: Served) -> None:
    me = visit(thinking)
    assert me.asked(RED) == "Red."
    thoughts, label = me.turn.locator("details p"), me.turn.locator("summary")
    expect(label).to_have_text("Thoughts")
    expect(thoughts).to_be_hidden()
    assert me.turn.locator(".answer > *").first.evaluate("(it) => it.tagName") == "DETAILS"
    label.focus()
    me.page.keyboard.press("Enter")
    expect(thoughts).to_be_visible()
    assert thoughts.inner_text().strip() == "Is <b>it</b> red? It is."  # text is never markup
    assert axe_faults(me.page) == []
    me.asked("And now?")
    assert json.loads(me.sent()[-1]["history"]) == [
        {"role": "user", "content": RED},
        {"role": "assistant", "content": "Red."},
    ]
    me.page.get_by_role("button", name="New").click()
    me.page.get_by_role("button", name="History").click()
    me.page.get_by_role("dialog", name="History").get_by_role("button", name=re.compile("2 answers")).click()
    first = me.page.get_by_role("article").first
    first.locator("summary").click()
    expect(first.locator("details p")).to_contain_text("Is <b>it</b> red? It is.")
    expect(first.locator(".told")).to_have_text("Red.")


def test_thoughts_are_told_as_they_come_and_stopped(visit: Visit, thinking: Served) -> None:
    me = visit(thinking)
    me.ask(SLOW)
    expect(me.turn.locator(".progress")).to_have_text("Thinking")
    expect(me.page.locator("#spoken")).to_have_text("Thinking.")
    me.turn.locator("summary").click()
    expect(me.turn.locator("details p")).to_contain_text("and then and then and then")
    expect(me.told).to_be_empty()
    me.page.keyboard.press("Escape")
    expect(me.turn.locator(".progress")).to_have_text("Stopped.")
    expect(me.turn.locator("details p")).to_be_visible()
    me.asked(RED)
    assert "history" not in me.sent()[-1]  # nothing was answered


def test_thoughts_that_come_to_no_answer_are_unfolded(visit: Visit, thinking: Served) -> None:
    me = visit(thinking)
    me.ask("[say=Is it red?]")
    expect(me.turn.locator("details p")).to_have_text("Is it red?")
    expect(me.turn.locator("details p")).to_be_visible()
    expect(me.told).to_be_empty()


def test_a_model_that_does_not_think_shows_no_thoughts(visit: Visit) -> None:
    me = visit()
    me.asked("What do you know?")
    expect(me.turn.locator("summary")).to_be_hidden()
