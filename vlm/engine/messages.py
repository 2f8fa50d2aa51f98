"""What goes over the wire to the model's process and back, and what a question is made of. Data only.

Every frame to the child is one `Request`; every frame from it is a list of `Event`. Anything here is plain values, so
that neither side can be made to run code by the other.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from vlm import ToolCall


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """Some text of a turn."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """A picture of a turn: its file's bytes, not decoded."""

    data: bytes


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation. role: "system", "user", "assistant" or "tool". calls: the assistant's."""

    role: str
    content: tuple[TextPart | ImagePart, ...]
    calls: tuple[ToolCall, ...] = ()


class Question(msgspec.Struct, frozen=True):
    """A conversation whose last turn is to be answered.

    options: fields of `vlm.options.RunOptions`. deadline_s: seconds from the asking until the answer must be complete;
    None, and anything longer, is the engine's own limit. tools: functions that the model may call, as OpenAI defines
    them. embed: how to pool an embedding of the last turn (`vlm.options.Pooling`), where that is wanted and no answer.
    """

    turns: tuple[Turn, ...]
    options: dict[str, Any] = {}
    deadline_s: float | None = None
    tools: tuple[dict[str, Any], ...] = ()
    embed: str | None = None


# --- to the child -----------------------------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Open the model; the first message. arguments: those of `vlm.load`."""

    arguments: dict[str, Any]


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Answer a question. id: unique for the life of the engine. The rest is the question's."""

    id: int
    turns: tuple[Turn, ...]
    options: dict[str, Any]
    tools: tuple[dict[str, Any], ...] = ()
    embed: str | None = None


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Nobody wants that answer any more. One that is over is left alone."""

    id: int


Request: TypeAlias = Open | Ask | Cancel


# --- from the child ---------------------------------------------------------------------------------------------------


class Fault(msgspec.Struct, frozen=True):
    """An error on its way to the parent. kind: the name of its class in `vlm.errors`; facts: its attributes."""

    kind: str
    text: str
    facts: dict[str, str | int | None] = {}


class ModelFacts(msgspec.Struct, frozen=True):
    """What the surfaces may say of the model.

    options: what a question that gives none is answered with. pictures: whether it takes any. release: of the RKLLM
    runtime; runtime: "host", or the library's file name. cores: the NPU core plan in words, None where there is no NPU.
    adapters: LoRA adapters to choose from. tools, thinking: whether the model knows how to.
    """

    name: str
    family: str
    description: str
    max_context_len: int
    options: dict[str, Any]
    pictures: bool
    release: str
    runtime: str
    cores: str | None = None
    adapters: tuple[str, ...] = ()
    tools: bool = False
    thinking: bool = False


class CacheFigures(msgspec.Struct, frozen=True):
    """Lookups of embeddings that found one and that did not, and what is kept."""

    hits: int = 0
    misses: int = 0
    entries: int = 0
    bytes: int = 0


class Figures(msgspec.Struct, frozen=True):
    """What an answer took; the fields of `vlm.Answer` of these names."""

    finish_reason: str
    encode_ms: float | None
    ttft_ms: float | None
    prompt_tokens: int | None
    tokens: int | None
    tokens_per_second: float | None
    tool_calls: tuple[ToolCall, ...] = ()
    embedding: tuple[float, ...] | None = None


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The model is open."""

    facts: ModelFacts


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The model could not be opened; the child ends."""

    fault: Fault


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The pictures are encoded and it is this question's turn: the language model has it now."""

    id: int


class Told(msgspec.Struct, frozen=True, tag="told"):
    """Pieces of an answer, in order. thoughts: they are what the model thinks before it answers."""

    id: int
    pieces: list[str]
    thoughts: bool = False


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """An answer is over, in one way or the other. fatal: the child cannot be used any more."""

    id: int
    figures: Figures | None
    fault: Fault | None
    cache: CacheFigures
    fatal: bool = False


Event: TypeAlias = Opened | Refused | Begun | Told | Ended
