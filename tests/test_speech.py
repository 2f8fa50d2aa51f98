"""What a model marks in its answer: thoughts and calls of tools, however the answer is cut into pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm.profile_tables import ReasoningKeys, ToolKeys
from vlm.speech import Speech, Thought, ToolCall

REASONING = ReasoningKeys(start="<think>", end="</think>")
OPENED = ReasoningKeys(start="<think>", end="</think>", opened=True)
TOOLS = ToolKeys(start="<tool_call>", end="</tool_call>")


def heard(speech: Speech, pieces: list[str]) -> tuple[str, str]:
    """The text and the thoughts of an answer."""
    told = [part for piece in pieces for part in speech.feed(piece)] + speech.flush()
    assert all(told)
    return (
        "".join(part for part in told if not isinstance(part, Thought)),
        "".join(part for part in told if isinstance(part, Thought)),
    )


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.parametrize(
    ("said", "text", "thought"),
    [
        ("<think>\nwell\n</think>\n\nRed.", "Red.", "well\n"),
        ("Red.", "Red.", ""),
        ("A <b>bold</b> < word", "A <b>bold</b> < word", ""),
        ("<think>never ends", "", "never ends"),
        ("", "", ""),
        ("<thin", "<thin", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_thoughts_are_told_apart(said: str, text: str, thought: str, size: int) -> None:
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    assert heard(Speech(REASONING, None), pieces) == (text, thought)


def test_thoughts_that_the_prompt_begins() -> None:
    assert heard(Speech(OPENED, None), ["hm", "</thi", "nk>\n", "\nRed."]) == ("Red.", "hm")
    assert heard(Speech(None, None), ["<think>a</think>b"]) == ("<think>a</think>b", "")


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_calls_are_told_apart(size: int) -> None:
    said = f"I look.\n{call('weather', place='Oslo')}\n{call('time')}"
    speech = Speech(None, TOOLS)
    text, thought = heard(speech, [said[at : at + size] for at in range(0, len(said), size)])
    assert (text.strip(), thought) == ("I look.", "")
    assert speech.calls == [ToolCall("weather", {"place": "Oslo"}), ToolCall("time", {})]


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "{",
        "[]",
        "3",
        '{"name": 3}',
        '{"name": ""}',
        '{"arguments": {}}',
        '{"name": "a", "arguments": [1]}',
        "[" * 99999,
    ],
)
def test_what_is_no_call_stays_text(inside: str) -> None:
    for said in (f"<tool_call>{inside}</tool_call>", f"Well: <tool_call>{inside}"):
        speech = Speech(None, TOOLS)
        assert heard(speech, [said]) == (said, "")
        assert speech.calls == []


def test_a_call_whose_end_the_runtime_does_not_tell() -> None:
    speech = Speech(None, TOOLS)
    assert heard(speech, [call("weather").removesuffix("</tool_call>")]) == ("", "")
    assert speech.calls == [ToolCall("weather", {})]


SCRAPS = st.sampled_from(["<", "<think>", "</think>", "<tool_call>", "</tool_call>", "{", '{"name": "a"}', "a", "\n"])


@given(st.lists(SCRAPS), st.lists(st.integers(1, 9)))
def test_how_an_answer_is_cut_makes_no_difference(scraps: list[str], sizes: list[int]) -> None:
    said = "".join(scraps)
    whole, cut = Speech(REASONING, TOOLS), Speech(REASONING, TOOLS)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(said[at : at + size])
        at += size
    text, thought = heard(cut, [*filter(None, pieces), said[at:]])
    assert (text, thought) == heard(whole, [said])
    assert cut.calls == whole.calls
