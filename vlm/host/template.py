"""Chat templates of the host runtime: the model's own (Jinja), one set by `rkllm_set_chat_template`, or none.

A template gives the text of a turn in two forms: `first` for an empty cache, `following` for one that already holds the
conversation up to the last answer and, if `ended`, that answer's end-of-sequence token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vlm.errors import PromptError

_MARK, _PROMPT = "\x02answer\x03", "\x02prompt\x03"  # stand for texts whose surroundings are looked for


@dataclass(frozen=True)
class Turn:
    """A turn to render: the prompt, its role ("user" or "tool"), and whether the model is to think first."""

    prompt: str
    role: str = "user"
    thinking: bool = False


class Template(Protocol):
    """How a turn's text is made. Both methods raise PromptError when the template cannot render it."""

    def first(self, turn: Turn) -> str:
        """The text of a conversation's first turn."""
        ...

    def following(self, turn: Turn, *, ended: bool = True) -> str:
        """The text that follows an answer. ended: the answer's end-of-sequence token is in the cache already."""
        ...

    def system(self) -> str:
        """What `first` begins with whatever the prompt is: the system prompt, or nothing."""
        ...


class NoTemplate:
    """The prompt is handed on as it is; the caller has rendered the conversation."""

    def first(self, turn: Turn) -> str:
        """The prompt itself."""
        return turn.prompt

    def following(self, turn: Turn, *, ended: bool = True) -> str:
        """The prompt itself."""
        return turn.prompt

    def system(self) -> str:
        """Nothing."""
        return ""


@dataclass(frozen=True)
class Affixes:
    """What `rkllm_set_chat_template` sets: text before the conversation, before each prompt, and after it."""

    system_prompt: str
    prefix: str
    postfix: str

    def first(self, turn: Turn) -> str:
        """System prompt, prefix, prompt, postfix."""
        return self.system_prompt + self.following(turn)

    def following(self, turn: Turn, *, ended: bool = True) -> str:
        """Prefix, prompt, postfix."""
        return self.prefix + turn.prompt + self.postfix

    def system(self) -> str:
        """The system prompt as it was set."""
        return self.system_prompt


@dataclass
class JinjaTemplate:
    """The model's own template, rendered in a sandbox. tokens: bos_token and eos_token, by name.

    Raises PromptError when `source` is not a Jinja template.
    """

    source: str
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(self.source)
        except jinja2.TemplateError as exc:
            raise PromptError(f"The model's chat template is not valid Jinja: {exc}") from exc

    def first(self, turn: Turn) -> str:
        """The template over one message."""
        return self._render([_message(turn)], turn.thinking, generate=True)

    def following(self, turn: Turn, *, ended: bool = True) -> str:
        """What the template puts after an earlier answer, less the end of that answer where the cache holds it."""
        earlier = [{"role": "user", "content": ""}, {"role": "assistant", "content": _MARK}]
        text = self._render([*earlier, _message(turn)], turn.thinking, generate=True)
        _, found, rest = text.partition(_MARK)
        if not found:
            raise PromptError("The model's chat template leaves earlier answers out; run with keep_history 0.")
        return rest.removeprefix(self.tokens.get("eos_token", "")) if ended else rest

    def system(self) -> str:
        """What stands before a first prompt but not before a later one; nothing where that cannot be told."""
        return self._system

    @cached_property
    def _system(self) -> str:
        try:
            first = self.first(Turn(_PROMPT)).partition(_PROMPT)[0]
            later = self.following(Turn(_PROMPT)).partition(_PROMPT)[0].lstrip()
        except PromptError:  # a template for single turns
            return ""
        return first.removesuffix(later) if later and first.endswith(later) else ""

    def _render(self, messages: list[dict[str, str]], thinking: bool, *, generate: bool) -> str:
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=generate, enable_thinking=thinking, tools=None, **self.tokens
            )
        except Exception as exc:  # templates run code of their own, which may raise anything
            raise PromptError(f"The model's chat template cannot render this: {exc}") from exc


def _message(turn: Turn) -> dict[str, str]:
    return {"role": turn.role, "content": turn.prompt}


def _refuse(message: str) -> Any:
    raise jinja2.TemplateError(message)
