"""Options that commands share. The fields of a pydantic model become the options of a command, declared once there."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A profile's name, a profile file, or a model directory.", show_default=False),
]
Encoder = Annotated[str | None, typer.Option("--encoder", help="Vision encoder of your own: a .onnx or .rknn file.")]
Llm = Annotated[
    str | None, typer.Option("--llm", help="Language model of your own: a .rkllm file, or a directory of ONNX files.")
]
Library = Annotated[str | None, typer.Option("--library", help="librkllmrt.so, or the directory it lies in.")]
Root = Annotated[
    Path, typer.Option("--root", help="Root of the system to look at: a mounted card's, or one made for a test.")
]
Release = Annotated[str | None, typer.Option("--release", help="Release of the RKLLM runtime, if it cannot be read.")]
Lora = Annotated[
    str | None, typer.Option("--lora", help="LoRA adapter to answer with: a .rkllm file, as FILE or FILE@SCALE.")
]
Server = Annotated[
    str | None,
    typer.Option("--server", envvar="VLM_SERVER", help="Ask a running service, as http://board:8080, instead."),
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="VLM_API_KEY", help="The service's key.", show_envvar=True)
]


def takes(
    *models: type[BaseModel], into: str, but: Sequence[str] = (), show_defaults: bool = False
) -> Callable[[F], F]:
    """Give a command one option for each field of `models`; those given arrive as a dict in the parameter `into`.

    A model's title is the heading of its options in the command's help. but: fields that become none. show_defaults:
    the models' defaults hold where they are not given.
    """

    def wrap(function: F) -> F:
        signature = inspect.signature(function, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != into]
        fields = [
            _parameter(name, field, model.model_config.get("title"), show_defaults)
            for model in models
            for name, field in model.model_fields.items()
            if name not in but
        ]

        @functools.wraps(function)
        def call(**arguments: Any) -> Any:
            values = {field.name: arguments.pop(field.name) for field in fields}
            given = {name: value for name, value in values.items() if value not in (None, [])}
            return function(**arguments, **{into: given})

        call.__signature__ = signature.replace(parameters=[*own, *fields])  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in (*own, *fields)}
        return call  # type: ignore[return-value]

    return wrap


def _parameter(name: str, field: Any, heading: str | None, show_defaults: bool) -> inspect.Parameter:
    kind: Any
    if get_origin(field.annotation) is tuple:
        kind = list[get_args(field.annotation)[0]]  # type: ignore[misc]
    elif get_origin(field.annotation) is Literal:
        kind = str
    else:
        kind = next((kind for kind in get_args(field.annotation) if kind is not type(None)), field.annotation)
    kind = str if get_origin(kind) is Annotated else kind  # what the words of it are is the model's to check
    words = name.replace("_", "-")
    negative = f"/--no-{words}" if kind is bool and not words.startswith("no-") else ""
    option = typer.Option(
        f"--{words}{negative}",
        *(["-m"] if name == "model" else []),  # as every command has it
        help=f"{field.description}",
        show_default=str(field.default) if show_defaults and field.default is not None else False,
        rich_help_panel=heading,
    )
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
