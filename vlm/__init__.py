"""rkvlm: ask questions about pictures on Rockchip NPUs, and on any PC in the same words.

    import vlm

    print(vlm.describe("photo.jpg", "What is in the picture?"))

    with vlm.load("qwen2-vl-2b") as model:
        embedding = model.encode("photo.jpg")
        for piece in model.stream(embedding, "How many people are there?"):
            print(piece, end="")

Importing this does no work: the names below are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoders.images import load_image
    from vlm.answer import Answer, Stream
    from vlm.client import RemoteStream, RemoteVLM, connect
    from vlm.engine.configuration import EngineLimits, ModelChoice
    from vlm.engine.engine import Engine
    from vlm.engine.health import Health
    from vlm.engine.messages import ImagePart, ModelFacts, Question, TextPart, Turn
    from vlm.engine.reply import Reply
    from vlm.errors import RkvlmError
    from vlm.kept import close, describe
    from vlm.locate import ModelInfo, model_name, models
    from vlm.pipeline import VLM, load
    from vlm.speech import Thought, ToolCall
    from vlm.turns import core_plan

_HOMES = {
    "load_image": "encoders.images",
    "RkvlmError": "vlm.errors",
    "ModelInfo": "vlm.locate",
    **dict.fromkeys(("model_name", "models"), "vlm.locate"),
    "Answer": "vlm.answer",
    "Stream": "vlm.answer",
    **dict.fromkeys(("RemoteStream", "RemoteVLM", "connect"), "vlm.client"),
    **dict.fromkeys(("EngineLimits", "ModelChoice"), "vlm.engine.configuration"),
    "Engine": "vlm.engine.engine",
    "Health": "vlm.engine.health",
    **dict.fromkeys(("ImagePart", "ModelFacts", "Question", "TextPart", "Turn"), "vlm.engine.messages"),
    "Reply": "vlm.engine.reply",
    "core_plan": "vlm.turns",
    **dict.fromkeys(("close", "describe"), "vlm.kept"),
    **dict.fromkeys(("VLM", "load"), "vlm.pipeline"),
    **dict.fromkeys(("Thought", "ToolCall"), "vlm.speech"),
}
__all__ = [
    "VLM",
    "Answer",
    "Engine",
    "EngineLimits",
    "Health",
    "ImagePart",
    "ModelChoice",
    "ModelFacts",
    "ModelInfo",
    "Question",
    "RemoteStream",
    "RemoteVLM",
    "Reply",
    "RkvlmError",
    "Stream",
    "TextPart",
    "Thought",
    "ToolCall",
    "Turn",
    "close",
    "connect",
    "core_plan",
    "describe",
    "load",
    "load_image",
    "model_name",
    "models",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
