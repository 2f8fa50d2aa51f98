"""`vlm serve`: the service."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from vlm.cli.options import Library, Release, takes
from vlm.options import RunOptions
from vlm.settings import ServeSettings, load_serve_settings

OF_THE_MODEL = ("rkllm_lib", "rkllm_release")
"""Settings that have an option of another name, the one of every command."""


@takes(ServeSettings, into="given", but=OF_THE_MODEL)
@takes(RunOptions, into="options")
def serve(
    *,
    library: Library = None,
    release: Release = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Open the encoder too, or the language model alone.")
    ] = True,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make an API key, print it, and exit.")] = False,
    given: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Answer questions over HTTP: OpenAI's protocol, Ollama's, that of the vendor's guide, our own, and a page.

    Every option is a setting too: VLM_NAME in the environment, or a line of vlm.toml (docs/settings.md).
    """
    from vlm.server import auth, run

    if new_key:
        key = auth.new_key()
        print(key)
        print(f'Keep it: only its hash is stored. In vlm.toml: api_keys = ["{auth.hashed(key)}"]', file=sys.stderr)
        return
    named = {"rkllm_lib": library, "rkllm_release": release}
    settings = load_serve_settings(**given, **{name: value for name, value in named.items() if value is not None})
    run.serve(settings, pictures=pictures, options=options)
