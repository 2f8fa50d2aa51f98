"""The built-in profiles as tables, and tables as TOML, for tests that break them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from vlm.errors import ProfileError
from vlm.keys import Key, keys_of
from vlm.profile import Profile, parse_profile
from vlm.resources import configs_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUILT_IN = [
    "deepseek-ocr",
    "demo",
    "internvl2-1b", "internvl2-2b", "internvl2-4b", "internvl3-1b", "internvl3-2b", "internvl3.5-1b", "internvl3.5-2b",
    "janus-1.3b", "janus-pro-1b",
    "minicpm-v-2.6",
    "qwen2-vl-2b", "qwen2-vl-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen3-vl-2b", "qwen3-vl-4b",
    "qwen3.5-0.8b", "qwen3.5-2b",
    "smolvlm-256m", "smolvlm-500m",
]  # fmt: skip
KEYS = list(keys_of(Profile))
_WRONG = {"string": 7, "integer": "7", "number": "x", "boolean": "yes", "array": "x", "one of": "sideways", "table": 3}


def table_of(name: str) -> dict[str, Any]:
    """A built-in profile as its file has it."""
    return tomllib.loads((configs_dir() / f"{name}.toml").read_text(encoding="utf-8"))


def toml(table: dict[str, Any], prefix: str = "") -> str:
    """Write a table as TOML: what JSON writes for plain values is TOML too."""
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{json.dumps(key)}]", toml(value, f"{prefix}{json.dumps(key)}.")]
    return "\n".join(lines) + "\n"


def wrong_value(key: Key) -> object:
    """A value of another type than the key's."""
    return next(value for start, value in _WRONG.items() if key.type.startswith(start))


def problem(text: str) -> str:
    """Return what is said of a profile that must be refused."""
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, "my.toml")
    assert str(caught.value).startswith("my.toml: ")
    return str(caught.value)
