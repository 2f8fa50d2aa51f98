"""Messages to the runtime's prompt: the profile's Jinja template over the whole conversation, one `<image>` an image.

What people type cannot pose as the template: the tags that have a meaning in a prompt are escaped or refused wherever
they are in a message, whoever it is from, and the finished prompt is checked once more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from vlm.errors import OptionError, PromptError
from vlm.speech import ToolCall

if TYPE_CHECKING:
    from jinja2 import Template

    from vlm.profile import Profile

Role = Literal["system", "user", "assistant", "tool"]
OnControl = Literal["escape", "refuse"]
_ROLES = ("system", "user", "assistant", "tool")
IMAGE_TAG = "<image>"
"""What stands for one image in the runtime's prompt, whatever the model."""


class ImageMark(Enum):
    """The type of IMAGE."""

    IMAGE = "image"

    def __repr__(self) -> str:
        return "IMAGE"


IMAGE: Final = ImageMark.IMAGE
"""Stands for an image among the parts of a message."""

Part = str | ImageMark


@dataclass(frozen=True, init=False)
class Message:
    """One message of a conversation, checked when made.

    role: "system", "user", "assistant", or "tool" for what a function gave. content: a text, or a sequence of parts,
    each a text or IMAGE; kept as a tuple in which neighbouring texts are one and empty ones are gone. calls: the
    functions that the assistant called in it. Raises PromptError for an unknown role, a part of another type, an image
    outside a user's message, calls of another than the assistant, a NUL, and characters that UTF-8 cannot hold.
    """

    role: Role
    content: tuple[Part, ...]
    calls: tuple[ToolCall, ...]

    def __init__(self, role: str, content: str | Sequence[Part], calls: Sequence[ToolCall] = ()) -> None:
        if role not in _ROLES:
            raise PromptError(f"The role of a message is one of {', '.join(_ROLES)}; got {role!r}.")
        parts = _joined((content,) if isinstance(content, str) else content)
        if role != "user" and IMAGE in parts:
            raise PromptError(f"An image can be in a user's message only; this one is in the {role}'s.")
        for part in parts:
            if part is not IMAGE:
                _check_text(part, f"A {role} message")
        object.__setattr__(self, "role", role)
        if calls and role != "assistant":
            raise PromptError(f"Only the assistant calls tools; got calls in the {role}'s message.")
        for call in calls:
            _check_text(call.to_json(), "A call of a tool")
        object.__setattr__(self, "content", parts)
        object.__setattr__(self, "calls", tuple(calls))

    @property
    def images(self) -> int:
        """How many images the message holds."""
        return self.content.count(IMAGE)

    @property
    def text(self) -> str:
        """The message's texts, without its images."""
        return "".join(part for part in self.content if part is not IMAGE)


@dataclass(frozen=True)
class RenderedPrompt:
    """A finished prompt. images: how many `<image>` it holds, in the order of the conversation's images."""

    text: str
    images: int


def render(
    profile: Profile,
    messages: Sequence[Message],
    *,
    thinking: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
    on_control: OnControl = "escape",
) -> RenderedPrompt:
    """Render a conversation with the profile's template, up to where the assistant's answer begins.

    messages: at most one system message, which comes first; the last one is the user's and not empty, or a tool's.
    Without a system message the profile's own is used; an empty one means none at all. tools: OpenAI's function
    definitions, plain values. on_control: what becomes of a control
    tag in a message: "escape" puts a space after its first character, "refuse" raises PromptError.

    Raises PromptError for a conversation of another form and when the template fails or the prompt would not be safe;
    OptionError when thinking or tools are asked of a model without them.
    """
    if thinking and not profile.thinking:
        raise OptionError(f"Model {profile.name} has no thinking mode; ask without it.")
    if profile.tools is None and (tools or any(message.role == "tool" or message.calls for message in messages)):
        raise OptionError(f"Model {profile.name} knows no tools; ask without them.")
    listed = [json.dumps(tool, ensure_ascii=False) for tool in tools]
    for tool in listed:
        _check_text(tool, "A tool")
    turns = _with_system(profile, _checked(messages))
    control = _control_pattern(profile.control_tags)
    guard = _escape if on_control == "escape" else _refuse
    text = _run_template(profile, turns, listed, thinking, lambda part: guard(control, part))
    plain = _run_template(profile, turns, listed, thinking, lambda part: "x" if part.strip() else part)
    images = sum(message.images for message in turns)
    _check_prompt(control, text, plain, images)
    return RenderedPrompt(text, images)


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Join neighbouring texts, so that no tag can hide on the border of two parts."""
    joined: list[Part] = []
    for part in parts:
        if part is IMAGE:
            joined.append(part)
        elif not isinstance(part, str):
            raise PromptError(f"A part of a message is a text or IMAGE; got a {type(part).__name__}.")
        elif joined and joined[-1] is not IMAGE:
            joined[-1] += part
        elif part:
            joined.append(part)
    return tuple(joined)


def _check_text(text: str, what: str) -> None:
    if "\0" in text:
        raise PromptError(f"{what} holds a NUL character, where the runtime would cut the prompt off; remove it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise PromptError(
            f"{what} holds half of a surrogate pair, {exc.object[exc.start]!r}, which is no text."
        ) from exc


def _checked(messages: Sequence[Message]) -> list[Message]:
    """Check the form of a conversation."""
    if not messages:
        raise PromptError("A conversation needs at least one message.")
    for index, message in enumerate(messages):
        if message.role == "system" and index > 0:
            raise PromptError(f"A system message can only come first; message {index + 1} is one.")
        if message.role == "user" and not message.images and not message.text.strip():
            raise PromptError(f"Message {index + 1}, from the user, is empty; give it a text or an image.")
        if message.role == "tool" and (
            index == 0 or not (messages[index - 1].calls or messages[index - 1].role == "tool")
        ):
            raise PromptError(f"Message {index + 1} is a tool's, and the one before it calls none.")
    if messages[-1].role not in ("user", "tool"):
        raise PromptError(f"The last message must be from the user; it is from the {messages[-1].role}.")
    return list(messages)


def _with_system(profile: Profile, messages: list[Message]) -> list[Message]:
    if messages[0].role != "system":
        return [Message("system", profile.system), *messages] if profile.system else messages
    return messages if messages[0].text.strip() else messages[1:]


@lru_cache(maxsize=64)
def _control_pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    """Match the first character of each tag; the tag is group 1 and the character group 2."""
    return re.compile(rf"(?=({'|'.join(map(re.escape, tags))}))(.)", re.DOTALL)


def _escape(control: re.Pattern[str], text: str) -> str:
    # No tag holds a space, so what is between two of the new spaces was in the text before, and is no tag.
    return control.sub(r"\2 ", text)


def _refuse(control: re.Pattern[str], text: str) -> str:
    found = control.search(text)
    if found:
        raise PromptError(f"A message holds {found[1]!r}, which means something to the model; remove it.")
    return text


def _run_template(
    profile: Profile, turns: Sequence[Message], tools: list[str], thinking: bool, guard: Callable[[str], str]
) -> str:
    from jinja2 import TemplateError

    images = 0
    messages = []
    for turn in turns:
        content: list[dict[str, object]] = []
        for part in turn.content:
            if part is IMAGE:
                images += 1
                content.append({"type": "image", "number": images})
            else:
                content.append({"type": "text", "text": guard(part)})
        calls = [guard(call.to_json()) for call in turn.calls]
        messages.append({"role": turn.role, "content": content, "calls": calls})
    try:
        return _compiled(profile.chat_template).render(
            messages=messages,
            images=images,
            tools=[guard(tool) for tool in tools],
            enable_thinking=thinking,
            add_generation_prompt=True,
        )
    except TemplateError as exc:
        where = f" (line {exc.lineno})" if getattr(exc, "lineno", None) else ""  # type: ignore[attr-defined]
        raise PromptError(f"The chat template of {profile.name} failed{where}: {exc.message}.") from exc
    except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
        raise PromptError(f"The chat template of {profile.name} failed: {type(exc).__name__}: {exc}.") from exc


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)


def _check_prompt(control: re.Pattern[str], text: str, plain: str, images: int) -> None:
    """Compare the finished prompt with one whose texts are harmless: the same tags must be in it, in the same order."""
    _check_text(text, "The finished prompt")
    rendered = text.count(IMAGE_TAG)
    if rendered != images:
        raise PromptError(f"The prompt must hold {IMAGE_TAG} once an image; expected {images}, got {rendered}.")
    if [found[1] for found in control.finditer(text)] != [found[1] for found in control.finditer(plain)]:
        raise PromptError("A message's text and the chat template together form a control tag; word it differently.")
