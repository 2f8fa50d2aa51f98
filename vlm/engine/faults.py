"""Errors across the wire: by the name of their class and their text, and the same class again on the other side."""

from __future__ import annotations

from vlm import errors
from vlm.engine.messages import Fault
from vlm.errors import EngineError, RkvlmError


def to_fault(error: BaseException) -> Fault:
    """An error as data. One that is none of ours becomes an EngineError that names its class alone: its text may hold
    anything.
    """
    for kind in type(error).__mro__:
        if kind.__name__ in errors.__all__ and getattr(errors, kind.__name__) is kind:
            plain = {
                name: _sendable(value) if isinstance(value, str) else value
                for name, value in vars(error).items()
                if isinstance(value, (str, int, type(None)))
            }
            return Fault(kind.__name__, _sendable(str(error)), plain)
    return Fault(
        EngineError.__name__,
        f"Something went wrong in the model's process that should not: {type(error).__name__}. Its log says more.",
        {"retry_after": None},
    )


def to_error(fault: Fault) -> RkvlmError:
    """The error again, of the same class; of RkvlmError itself where the other side knows a class that we do not."""
    kind = getattr(errors, fault.kind) if fault.kind in errors.__all__ else RkvlmError
    error: RkvlmError = kind.__new__(kind)
    error.args = (fault.text,)  # not by its constructor, which may make the text of other things
    vars(error).update(fault.facts)
    return error


def _sendable(text: str) -> str:
    """The text in characters that UTF-8 has: a file's name may hold bytes that are none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
