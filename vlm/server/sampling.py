"""How other protocols' words about sampling become ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEAST = {"temperature": 0.01, "top_p": 0.0001}
"""The least that the runtimes take; with less, the likeliest token is the only one in any case."""


def with_sampling(given: dict[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The options `given` with temperature and top_p as OpenAI and Ollama mean them: 0 is greedy, and more is not.

    usual: the options of a question that gives none. A model that is greedy by itself chooses among all tokens once it
    is asked to sample, unless top_k says otherwise.
    """
    small = [name for name, least in LEAST.items() if 0 <= given.get(name, least) < least]
    if small:
        return {**{name: value for name, value in given.items() if name not in small}, "top_k": 1}
    if given.keys() & LEAST.keys() and "top_k" not in given and usual.get("top_k") == 1:
        return {**given, "top_k": 0}
    return given
