"""The keys of a settings model as dotted names: their documentation, suggestions for typing errors, errors in words.

Works on any pydantic model whose tables are models in turn. `python -m vlm.keys` writes the tables of the profiles'
keys (configs/README.md) and of the settings (docs/settings.md) anew, between their two markers.
"""

from __future__ import annotations

import datetime
import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticUndefined

TABLE_START = "<!-- keys: written by python -m vlm.keys -->"
TABLE_END = "<!-- /keys -->"

_TYPES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", Path: "path"}


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, its type and default in words, and what it means."""

    name: str
    type: str
    default: str
    description: str


def key_error(key: str, problem: str) -> PydanticCustomError:
    """Make the error that a validator raises about `key`, relative to the model that the validator belongs to."""
    return PydanticCustomError("key", "{problem}", {"key": key, "problem": problem})


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Yield every key of `model` in the order of its fields; the keys of a table follow in the table's place."""
    for name, field in model.model_fields.items():
        dotted = prefix + name
        table = _table_of(field.annotation)
        if table is not None:
            yield from keys_of(table, dotted + ".")
            continue
        default = "required" if field.is_required() else _toml(field.get_default(call_default_factory=True))
        yield Key(dotted, _type_in_words(field.annotation), default, field.description or "")


def key_table(model: type[BaseModel]) -> str:
    """Return the documentation of every key of `model` as a Markdown table."""
    rows = ["| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
    rows += [f"| `{key.name}` | {key.type} | {key.default} | {key.description} |" for key in keys_of(model)]
    return "\n".join(row.replace("\n", " ") for row in rows)


def did_you_mean(wrong: str, known: Sequence[str]) -> str:
    """Return ' (did you mean "x"?)' for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Say what is wrong, one sentence an error: the dotted key, what was expected and what was there."""
    known = [key.name for key in keys_of(model)]
    return [_explain_one(details, known) for details in error.errors(include_url=False)]


def _explain_one(details: ErrorDetails, known: list[str]) -> str:
    context = details.get("ctx", {})
    dotted = _dotted([*details["loc"], *([context["key"]] if details["type"] == "key" else [])])
    if details["type"] == "key":
        return f"{dotted}: {context['problem']}."
    if details["type"] == "missing":
        return f"{dotted}: missing; expected a value here."
    if details["type"] == "extra_forbidden":
        return f"{dotted}: unknown key{_suggest_key(dotted, known)}."
    expected = details["msg"].replace("Input should be", "expected").replace("valid tuple", "valid array")
    if "dictionary" in expected:
        expected = "expected a table"
    return f"{dotted}: {expected}; got {_actual(details['input'])}."


def _suggest_key(dotted: str, known: list[str]) -> str:
    parent, _, leaf = dotted.rpartition(".")
    beside = [name for name in known if name.rpartition(".")[0] == parent]
    elsewhere = [name for name in known if name.rpartition(".")[2] == leaf]
    # A key that exists in another table was most likely put into the wrong one.
    return f' (did you mean "{elsewhere[0]}"?)' if elsewhere else did_you_mean(dotted, beside or known)


def _dotted(location: Sequence[str | int]) -> str:
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")


def _actual(value: object) -> str:  # noqa: PLR0911 - one line a type of TOML
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, str):
        return f"the string {value[:60]!r}"
    if isinstance(value, int):
        return f"the integer {value}"
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, (tuple, list)):
        return f"an array of {len(value)}"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (datetime.date, datetime.time)):
        return f"the date or time {value}"
    return f"a {type(value).__name__}"


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        others = [arg for arg in get_args(annotation) if arg is not types.NoneType]
        if len(others) == 1:
            return others[0]
    return annotation


def _table_of(annotation: Any) -> type[BaseModel] | None:
    annotation = _without_none(annotation)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _type_in_words(annotation: Any) -> str:
    annotation = _without_none(annotation)
    arguments = get_args(annotation)
    if annotation in _TYPES:
        return _TYPES[annotation]
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in arguments)
    if get_origin(annotation) is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"array of {count}{_type_in_words(arguments[0])}s"
    if arguments and issubclass(get_origin(annotation), Mapping):
        return f"table of {_type_in_words(arguments[-1])}s"
    return _type_in_words(arguments[0]) if arguments else str(annotation)  # Annotated[...]


def _toml(value: object) -> str:
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return "`[" + ", ".join(_toml(item).strip("`") for item in value) + "]`"
    return "none" if value == {} else f"`{value}`"


def rewrite(text: str, model: type[BaseModel]) -> str:
    """Return `text` with what is between its two markers replaced by the table of `model`'s keys."""
    head, _, rest = text.partition(TABLE_START)
    _, _, tail = rest.partition(TABLE_END)
    return f"{head}{TABLE_START}\n\n{key_table(model)}\n\n{TABLE_END}{tail}"


if __name__ == "__main__":
    from vlm.profile import Profile
    from vlm.settings import ServeSettings

    for name, documented in (("configs/README.md", Profile), ("docs/settings.md", ServeSettings)):
        file = Path(__file__).parent.parent / name
        file.write_text(rewrite(file.read_text(encoding="utf-8"), documented), encoding="utf-8")
