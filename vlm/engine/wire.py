"""Frames: four bytes of length, big-endian, and so many bytes of msgpack."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

MAX_FRAME = 1 << 30  # more than any question whose pictures are within their limits
RECEIVE = 1 << 18  # bytes to ask the system for at once

_LENGTH = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")


class WireError(Exception):
    """The other side sent something that is no frame, or no message of the expected type. The connection is lost."""


def frame(message: Any) -> bytearray:
    """A message as a frame. Raises WireError for one that is too long, or that msgpack has no type for."""
    made = bytearray(_LENGTH.size)
    try:
        _encoder.encode_into(message, made, _LENGTH.size)
    except (TypeError, OverflowError, ValueError, RecursionError) as exc:
        raise WireError(f"The message cannot be sent: {exc}.") from exc
    length = len(made) - _LENGTH.size
    if length > MAX_FRAME:
        raise WireError(f"A frame of {length} bytes is too long; the most is {MAX_FRAME}.")
    _LENGTH.pack_into(made, 0, length)
    return made


class Frames(Generic[T]):
    """Messages of one type from bytes that come in pieces of any size."""

    def __init__(self, type_: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(type_).decode
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """Take some bytes; yields the messages that are complete now. Raises WireError."""
        self._held += data
        start = 0
        try:
            while len(self._held) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._held, start)
                if length > MAX_FRAME:
                    raise WireError(f"A frame of {length} bytes was announced; the most is {MAX_FRAME}.")
                end = start + _LENGTH.size + length
                if len(self._held) < end:
                    break
                with memoryview(self._held) as whole, whole[start + _LENGTH.size : end] as body:
                    message: T = self._message(body)
                start = end
                yield message
        finally:
            del self._held[:start]

    def _message(self, body: memoryview) -> Any:
        try:
            return self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise WireError(f"A frame of {len(body)} bytes is no message: {exc}.") from exc
