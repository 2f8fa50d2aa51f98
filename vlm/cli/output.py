"""Standard output, kept for answers."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def tell(piece: str) -> None:
    """Print a piece of an answer. What a model thinks before it answers is no part of it, and goes to stderr."""
    from vlm import Thought

    print(piece, end="", flush=True, file=sys.stderr if isinstance(piece, Thought) else sys.stdout)


@contextmanager
def answers_only() -> Iterator[None]:
    """Let nothing but Python's own prints reach stdout in the block; what C libraries print there goes to stderr.

    Nothing is done where stdout is a terminal, which shows both anyway, or not the process's own.
    """
    if not _separable():
        yield
        return
    python = sys.stdout
    python.flush()
    _flush_c()
    answers = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = ours = os.fdopen(answers, "w", encoding=python.encoding, errors=python.errors)
    try:
        yield
        ours.flush()
    finally:
        _flush_c()
        os.dup2(answers, 1)
        sys.stdout = python
        # What could not be written, because nobody reads it any more, must not fail a second time.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), answers)
        ours.close()


def _separable() -> bool:
    try:
        os.fstat(2)
        return sys.stdout.fileno() == 1 and not os.isatty(1)
    except (AttributeError, OSError, ValueError):
        return False


def _flush_c() -> None:
    libc = ctypes.CDLL(None)
    libc.fflush(ctypes.c_void_p.in_dll(libc, "stdout"))
