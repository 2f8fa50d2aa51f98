"""`vlm.describe`: one call, with the model kept open for the next one."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path
from typing import Any

from vlm.answer import Answer
from vlm.options import DEFAULT_PROMPT
from vlm.pipeline import VLM, load

_last: tuple[object, VLM] | None = None
_last_lock = threading.Lock()


def describe(image: object, prompt: str = DEFAULT_PROMPT, *, model: str | Path | None = None, **options: Any) -> Answer:
    """Answer one question about a picture (or a list of pictures) with the named or the default model.

    The model stays open for the next call; another name closes it and opens that one. Calls from several threads wait
    for one another. `vlm.close()` closes it, as does the end of the program. Raises RkvlmError.
    """
    with _last_lock:
        return _opened(model).describe(image, prompt, **options)


def _opened(model: str | Path | None) -> VLM:
    global _last  # noqa: PLW0603 - the one object that outlives a call of describe()
    if _last is None or _last[0] != model:
        _close_last()
        _last = (model, load(model))
        atexit.register(close)
    return _last[1]


def _close_last() -> None:
    global _last
    kept, _last = _last, None
    if kept is not None:
        kept[1].close()


def close() -> None:
    """Close the model that `describe` keeps open, if any."""
    with _last_lock:
        atexit.unregister(close)
        _close_last()
