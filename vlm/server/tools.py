"""Tools in OpenAI's protocol: the functions that a model may call, its calls, and what they gave."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from vlm import ToolCall
from vlm.errors import OptionError, PromptError

if TYPE_CHECKING:
    from vlm.server.openai import ChatMessage


class Function(BaseModel):
    """A function. parameters: JSON schema, handed to the model as it is."""

    model_config = ConfigDict(extra="allow")

    name: str


class Tool(BaseModel):
    """A tool; functions are all there are."""

    type: Literal["function"]
    function: Function


class CalledFunction(BaseModel):
    """What was called. arguments: a JSON object, as text."""

    name: str
    arguments: str = "{}"


class Called(BaseModel):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


def offered(tools: Sequence[Tool] | None, choice: Any) -> tuple[dict[str, Any], ...]:
    """The functions to offer. Raises OptionError for a choice that no model can be held to."""
    if choice not in (None, "auto", "none"):
        raise OptionError(f"tool_choice is auto or none here: no model can be made to call; got {choice!r:.100}.")
    return () if choice == "none" else tuple(tool.model_dump(exclude_none=True) for tool in tools or ())


def call_of(called: Called) -> ToolCall:
    """A call in our terms. Raises PromptError."""
    try:
        arguments = json.loads(called.function.arguments or "{}")
    except (ValueError, RecursionError) as exc:
        raise PromptError(f"The arguments of call {called.id!r:.60} are not JSON: {exc}.") from exc
    if not isinstance(arguments, dict):
        raise PromptError(f"The arguments of call {called.id!r:.60} are a JSON object; got {arguments!r:.100}.")
    return ToolCall(called.function.name, arguments)


def in_order(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages, what tools gave in the order of the calls: a prompt has no ids, and tells them by their places.

    Raises PromptError for a result of no call in the message before, and where some calls have one and others none.
    """
    ordered: list[ChatMessage] = []
    for from_tools, group in groupby(messages, lambda message: message.role == "tool"):
        if from_tools:
            calls = ordered[-1].tool_calls if ordered else None
            ordered += _results([call.id for call in calls or ()], list(group))
        else:
            ordered += group
    return ordered


def _results(calls: list[str], results: list[ChatMessage]) -> list[ChatMessage]:
    given = [result.tool_call_id or "" for result in results]
    if "" in given:
        raise PromptError("A tool's message needs the tool_call_id of the call that it answers.")
    for name in given:
        if name not in calls:
            known = ", ".join(map(repr, calls)) or "none"
            raise PromptError(
                f"tool_call_id {name!r:.100} is of no call in the assistant's message before; its calls: {known:.300}."
            )
    missing, twice = Counter(calls) - Counter(given), Counter(given) - Counter(calls)
    if missing or twice:
        name, how = (next(iter(missing)), "has no") if missing else (next(iter(twice)), "has more than one")
        raise PromptError(f"Call {name!r:.100} {how} message of role tool; each call needs one.")
    return sorted(results, key=lambda result: calls.index(result.tool_call_id or ""))


def calls_json(calls: Sequence[ToolCall], *, numbered: bool = False) -> list[dict[str, Any]]:
    """The calls of an answer. numbered: with their places, as a stream has them."""
    return [
        {
            **({"index": index} if numbered else {}),
            "id": f"call_{uuid.uuid4().hex}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for index, call in enumerate(calls)
    ]
