"""Ctrl-C in the middle of a long run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether to stop. Both are wishes that the run looks at between two pictures, so that nothing is cut in two.

    asked: finish what is being told; set by the first Ctrl-C or SIGTERM. at_once: not even that; by the second.
    """

    def __init__(self) -> None:
        self.asked, self.at_once = threading.Event(), threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM as wishes in the block. Elsewhere than in the main thread, nobody presses Ctrl-C."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()
