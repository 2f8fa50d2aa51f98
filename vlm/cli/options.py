"""Options that commands share. The fields of a pydantic model become the options of a command, declared once there."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args, get_origin

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
Release = Annotated[str | None, typer.Option("--release", help="Release of the RKLLM runtime, if it cannot be read.")]


def takes(
    model: type[BaseModel], into: str, *, panel: str = "Answering", show_defaults: bool = False
) -> Callable[[F], F]:
    """Give a command one option for each field of `model`; those given arrive as a dict in the parameter `into`.

    panel: their heading in the command's help. show_defaults: the model's defaults hold where they are not given.
    """

    def wrap(function: F) -> F:
        signature = inspect.signature(function, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != into]
        fields = [_parameter(name, field, panel, show_defaults) for name, field in model.model_fields.items()]

        @functools.wraps(function)
        def call(**arguments: Any) -> Any:
            values = {name: arguments.pop(name) for name in model.model_fields}
            given = {name: value for name, value in values.items() if value not in (None, [])}
            return function(**arguments, **{into: given})

        call.__signature__ = signature.replace(parameters=[*own, *fields])  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in (*own, *fields)}
        return call  # type: ignore[return-value]

    return wrap


def _parameter(name: str, field: Any, panel: str, show_defaults: bool) -> inspect.Parameter:
    if get_origin(field.annotation) is tuple:
        kind: Any = list[get_args(field.annotation)[0]]  # type: ignore[misc]
    else:
        kind = next((kind for kind in get_args(field.annotation) if kind is not type(None)), field.annotation)
    flag = f"--{name.replace('_', '-')}"
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=f"{field.description}",
        show_default=str(field.default) if show_defaults and field.default is not None else False,
        rich_help_panel=panel,
    )
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
