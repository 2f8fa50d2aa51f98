"""`vlm embed`: one embedding of a text, of pictures, or of both."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from vlm.cli.opening import Where, opened
from vlm.cli.options import ApiKey, Encoder, Library, Llm, Lora, Model, Release, Server, takes
from vlm.cli.output import answers_only
from vlm.errors import OptionError
from vlm.options import NpuOptions, Pooling


@takes(NpuOptions, into="options")
def embed(
    text: Annotated[str, typer.Argument(help="The text; may be left out where there is a picture.")] = "",
    *,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", help="A picture: a path, or - for standard input; may be repeated."),
    ] = None,
    pooling: Annotated[
        Pooling, typer.Option(help="The mean of the last hidden layer over all tokens, or its last token.")
    ] = "mean",
    model: Model = None,
    encoder: Encoder = None,
    llm: Llm = None,
    library: Library = None,
    release: Release = None,
    lora: Lora = None,
    server: Server = None,
    api_key: ApiKey = None,
    options: dict[str, Any],
) -> None:
    """Print an embedding from the language model's last hidden layer: a JSON array of numbers, of length 1 together.

    Example: vlm embed "a red car" --image photo.jpg
    """
    if not text and not image:
        raise OptionError("There is nothing to embed; give a text, or a picture with --image.")
    sources = [sys.stdin.buffer.read() if name == "-" else name for name in image or ()]
    pictures = bool(sources or server)
    where = Where(model, encoder, llm, library, release, server, api_key, pictures=pictures, lora=lora)
    with answers_only(), opened(where, options) as vlm:
        numbers = vlm.embed(sources, text, pooling=pooling)
        print(json.dumps([float(f"{number:.7g}") for number in numbers.tolist()]))
