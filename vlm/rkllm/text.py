"""Bytes and text as they come from a runtime, made whole: UTF-8 over several callbacks, and stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Utf8Joiner:
    """Joins the bytes of one stream into whole characters; what is not UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, chunk: bytes) -> str:
        """The text that is whole after `chunk`.

        A chunk that begins with the bytes still open starts the character anew instead of going on with it (no
        character can go on with a first byte): it then replaces them.
        """
        pending = self._decoder.getstate()[0]
        if pending and chunk.startswith(pending):
            self._decoder.reset()
        return self._decoder.decode(chunk)

    def flush(self) -> str:
        """The end of the stream: U+FFFD for a character never finished, else nothing."""
        return self._decoder.decode(b"", final=True)


class StopScanner:
    """Cuts a stream before the first of some stop strings, however the stream is cut into pieces.

    Text is passed on at once, save the shortest tail that might still be the beginning of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What may be passed on now; `stopped` is set once a stop string was met, and nothing comes after that."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = self._open_tail(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The tail held back, at the end of the stream: it was no stop string after all."""
        text, self._held = self._held, ""
        return text

    def _open_tail(self, text: str) -> int:
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        for size in range(longest, 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
