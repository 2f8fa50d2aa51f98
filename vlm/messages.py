"""Messages as callers of Python write them, in the prompt's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm.errors import PromptError
from vlm.prompt import IMAGE, Message, Part
from vlm.speech import ToolCall


def message_of(message: Mapping[str, Any], pictures: list[Any]) -> Message:
    """A message, see `vlm.VLM.chat`; its pictures are added to `pictures` in order. Raises PromptError."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise PromptError(f'A message is {{"role": ..., "content": ...}}; got {message!r:.100}.')
    content, calls = message["content"], tuple(message.get("calls") or ())
    if not all(isinstance(call, ToolCall) for call in calls):
        raise PromptError(f"The calls of a message are ToolCalls; got {calls!r:.100}.")
    if isinstance(content, str):
        return Message(message["role"], content, calls)
    if not isinstance(content, (list, tuple)):
        raise PromptError(f"The content of a message is a text or a list of parts; got {type(content).__name__}.")
    return Message(message["role"], [_part(part, pictures) for part in content], calls)


def _part(part: object, pictures: list[Any]) -> Part:
    """A part of a message in the prompt's terms; a picture is added to `pictures`."""
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(part, Mapping) and part.get("type") == "image" and "image" in part:
        pictures.append(part["image"])
        return IMAGE
    raise PromptError(
        'A part of a message is {"type": "text", "text": ...} or {"type": "image", "image": ...}; '
        f"got {part!r:.100}."
    )
