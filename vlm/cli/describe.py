"""`vlm describe`: one question about one or more pictures."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from vlm.cli.opening import Where, opened
from vlm.cli.options import ApiKey, Encoder, Library, Llm, Lora, Model, Release, Server, takes
from vlm.cli.output import answers_only, tell
from vlm.options import NpuOptions, RunOptions

OF_OTHERS = ("text", "tool_calls", "embedding")
"""Fields of an answer that have another name in the JSON, or that a description never has."""


@takes(RunOptions, NpuOptions, into="options")
def describe(
    image: Annotated[str, typer.Argument(help="The picture: a path, or - for standard input.")],
    prompt: Annotated[str | None, typer.Argument(help="The question; a description if there is none.")] = None,
    *,
    more: Annotated[list[str] | None, typer.Option("--image", "-i", help="One more picture; may be repeated.")] = None,
    model: Model = None,
    encoder: Encoder = None,
    llm: Llm = None,
    library: Library = None,
    release: Release = None,
    lora: Lora = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer and its figures as JSON.")] = False,
    options: dict[str, Any],
) -> None:
    """Answer a question about a picture, or about several in the order given.

    The answer is printed as it is told. Example: vlm describe photo.jpg "What colour is the car?"
    """
    sources: list[str | bytes] = [_source(name) for name in (image, *(more or ()))]
    with (
        answers_only(),
        opened(Where(model, encoder, llm, library, release, server, api_key, lora=lora), options) as vlm,
    ):
        question = [prompt] if prompt is not None else []
        with vlm.stream(sources, *question) as stream:
            for piece in stream:
                if not as_json:
                    tell(piece)
            answer = stream.answer
    if as_json:
        figures = {name: value for name, value in vars(answer).items() if name not in OF_OTHERS}
        print(json.dumps({"answer": answer.text, **figures}, ensure_ascii=False))
    else:
        print()


def _source(name: str) -> str | bytes:
    return sys.stdin.buffer.read() if name == "-" else name
