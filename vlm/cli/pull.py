"""`vlm pull`: a model from the Hugging Face hub into the model directory."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer


def pull(
    what: Annotated[str, typer.Argument(help="A profile that names a public conversion, or owner/repo.")],
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Of owner/repo: the profile that it is for.")
    ] = None,
    files: Annotated[
        list[str] | None, typer.Option("--file", help="A file, or a pattern like '*rk3588*'; may be repeated.")
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was fetched as JSON.")] = False,
) -> None:
    """Fetch a model, check its checksums, and go on where it was interrupted.

    HF_ENDPOINT names a mirror, HF_TOKEN a token. Example: vlm pull qwen2-vl-2b
    """
    from vlm import pull as hub

    done = hub.pull(
        what, model=model, files=files or (), revision=revision, say=lambda text: print(text, file=sys.stderr)
    )
    if as_json:
        print(json.dumps(vars(done), default=str))
    else:
        print(f"{done.repo} is in {done.directory}; `vlm describe --model {done.directory}` uses it.")
