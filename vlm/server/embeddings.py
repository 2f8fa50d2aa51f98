"""OpenAI's /v1/embeddings, of texts and of pictures, from the language model's last hidden layer."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from vlm import Question, TextPart, Turn
from vlm.options import Pooling
from vlm.server.bridge import whole
from vlm.server.openai import ChatMessage, Content, turn_of
from vlm.server.service import service_of

router = APIRouter(tags=["OpenAI"])

Input = str | Annotated[list[Content], Field(min_length=1)]
"""One input: a text, or the parts of a message (text and image_url), which OpenAI does not have."""


class EmbeddingRequest(BaseModel):
    """Inputs to make an embedding of, each. pooling: the mean over all tokens, or the last one's; not OpenAI's.

    `dimensions` is refused: a model's last hidden layer has the width that it has.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"model": "demo", "input": ["A blue star.", "A red circle."]}}
    )

    model: str
    input: str | Annotated[list[Input], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    pooling: Pooling = "mean"
    user: str | None = None


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
    """Make one embedding of each input, of length 1."""
    service = service_of(request)
    name = service.check_model(body.model)
    data = []
    for index, given in enumerate([body.input] if isinstance(body.input, str) else body.input):
        turn = Turn("user", (TextPart(given),)) if isinstance(given, str) else await _turn(given, service)
        reply = service.ask(request, Question((turn,), service.options_for(name), embed=body.pooling))
        answer = await whole(request, reply)
        data.append({"object": "embedding", "index": index, "embedding": _written(answer.embedding or (), body)})
    return {"object": "list", "data": data, "model": name, "usage": None}


async def _turn(parts: list[Content], service: Any) -> Turn:
    return await turn_of(ChatMessage(role="user", content=parts), service)


def _written(embedding: tuple[float, ...], body: EmbeddingRequest) -> list[float] | str:
    if body.encoding_format == "float":
        return list(embedding)
    return base64.b64encode(np.asarray(embedding, "<f4").tobytes()).decode("ascii")
