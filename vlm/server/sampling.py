"""How other protocols' words about sampling become ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEAST = 0.01
"""The least temperature that the runtimes take; below it the likeliest token is the only one in any case."""


def temperature(value: float | None, given: dict[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The options `given` with a temperature as OpenAI and Ollama mean it: 0 is greedy, and more is not.

    usual: the options of a question that gives none. A model that is greedy by itself chooses among all tokens once it
    is asked to sample, by a temperature or by top_p, unless top_k says otherwise.
    """
    if value is not None and value < LEAST:
        return {**given, "top_k": 1}
    options = dict(given) if value is None else {**given, "temperature": value}
    if options.keys() & {"temperature", "top_p"} and "top_k" not in options and usual.get("top_k") == 1:
        options["top_k"] = 0
    return options
