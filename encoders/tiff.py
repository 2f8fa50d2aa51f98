"""The part of TIFF that pictures need: EXIF orientation, and a TIFF file stripped to the tags that its pixels need.

Layout facts: TIFF 6.0 and the BigTIFF design. EXIF, in any file type, is a small TIFF whose tag 274 says how the
picture is to be turned.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from encoders.errors import ImageError

ORIENTATION = 274
_WIDTH, _HEIGHT = 256, 257
_DNG_VERSION = 50706
MAX_FRAMES = 1000
_MAX_VALUES = 1 << 20
_MAX_TILE = 4096

# What reading past the end of the file raises; OverflowError where a BigTIFF's offset is no offset in memory.
_OUTSIDE = (struct.error, OverflowError)

# Bytes of one value, by field type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

# What the pixels need. One value each: size, compression, photometric, fill order, samples, rows per strip, planes,
# fax options, predictor, tile size, inks. Several: bits, strips, tiles, palette, extra samples, sample format, JPEG
# tables and its old form, YCbCr coefficients, subsampling, positioning, reference black and white.
_SINGLE = {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332}
_SEVERAL = {258, 273, 279, 320, 324, 325, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532}


@dataclass(frozen=True)
class TiffHeader:
    """What a TIFF says of its first picture: size as stored, EXIF orientation, pages (counted up to 1000).

    clean: the same file with only the tags that decoding needs.
    """

    height: int
    width: int
    orientation: int
    pages: int
    clean: bytes


@dataclass(frozen=True)
class _Entry:
    tag: int
    kind: int
    count: int
    value: int
    """Where the value lies in the file, in bytes."""


class _Reader:
    """Walks the directories of one TIFF, classic or Big, in either byte order."""

    def __init__(self, data: bytes) -> None:
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        version = struct.unpack_from(f"{order}H", data, 2)[0] if order else 0
        if order is None or version not in (42, 43):
            raise ImageError("the TIFF header is damaged.")
        self.data, self.order, self.big = data, order, version == 43
        # Number of entries, one entry up to its value, an offset.
        self.count_format, self.entry_format, self.offset_format = (
            (f"{order}Q", f"{order}HHQ", f"{order}Q") if self.big else (f"{order}H", f"{order}HHI", f"{order}I")
        )
        self.room = struct.calcsize(self.offset_format)
        self.entry_size = struct.calcsize(self.entry_format) + self.room
        self.first = self._unpack(self.offset_format, 8 if self.big else 4)

    def _unpack(self, layout: str, position: int) -> int:
        return int(struct.unpack_from(layout, self.data, position)[0])

    def entries(self, directory: int) -> Iterator[_Entry]:
        """Each field of the directory; struct.error where the file ends too early."""
        start = directory + struct.calcsize(self.count_format)
        for index in range(self._unpack(self.count_format, directory)):
            position = start + index * self.entry_size
            tag, kind, count = struct.unpack_from(self.entry_format, self.data, position)
            value = position + self.entry_size - self.room
            if count * _SIZES.get(kind, 1) > self.room:
                value = self._unpack(self.offset_format, value)
            yield _Entry(tag, kind, count, value)

    def pages(self) -> int:
        """How many pictures the file chains together; a loop or a break ends the count."""
        seen: set[int] = set()
        directory = self.first
        while directory and directory not in seen and len(seen) < MAX_FRAMES:
            seen.add(directory)
            try:
                count = self._unpack(self.count_format, directory)
                after = directory + struct.calcsize(self.count_format) + count * self.entry_size
                directory = self._unpack(self.offset_format, after)
            except _OUTSIDE:
                break
        return len(seen)

    def integer(self, entry: _Entry) -> int:
        """The first value of a field of whole numbers."""
        if entry.kind not in _INTEGERS or entry.count < 1:
            raise ImageError(f"TIFF tag {entry.tag} is not a whole number; the file is damaged.")
        return self._unpack(self.order + _INTEGERS[entry.kind], entry.value)

    def integers(self, entry: _Entry) -> tuple[int, ...]:
        """All values of a field of whole numbers."""
        self.integer(entry)
        return struct.unpack_from(f"{self.order}{entry.count}{_INTEGERS[entry.kind]}", self.data, entry.value)


def exif_orientation(exif: bytes) -> int:
    """The orientation (1 to 8) in a block of EXIF data, with or without its "Exif" prefix; 1 where it says nothing."""
    exif = exif[6:] if exif[:4] == b"Exif" else exif
    try:
        reader = _Reader(exif)
        for entry in reader.entries(reader.first):
            if entry.tag == ORIENTATION:
                return valid_orientation(reader.integer(entry))
    except (ImageError, *_OUTSIDE):
        pass  # Damaged metadata does not make the picture unusable.
    return 1


def valid_orientation(value: object) -> int:
    """`value` if it is an EXIF orientation, else 1 (upright)."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read_tiff(data: bytes) -> TiffHeader:
    """Read the first directory of a TIFF. Raises ImageError when it is damaged, or is a camera's raw file."""
    kept: dict[int, _Entry] = {}
    orientation = 1
    try:
        reader = _Reader(data)
        for entry in reader.entries(reader.first):
            if entry.tag == _DNG_VERSION:
                raise ImageError("this is a DNG raw file; convert it to JPEG or PNG first.")
            if entry.tag == ORIENTATION and entry.kind in _INTEGERS and entry.count:
                orientation = valid_orientation(reader.integer(entry))
            elif entry.tag in _SINGLE or entry.tag in _SEVERAL:
                kept[entry.tag] = _checked(entry, len(data))
        if _WIDTH not in kept or _HEIGHT not in kept:
            raise ImageError("the TIFF does not say how large the picture is; the file is damaged.")
        height, width = reader.integer(kept[_HEIGHT]), reader.integer(kept[_WIDTH])
        _check_pixels(reader, kept)
        clean = _rewrite(reader, kept)
    except _OUTSIDE as exc:
        raise ImageError("the TIFF is truncated: its directory points past the end of the file.") from exc
    return TiffHeader(height, width, orientation, reader.pages(), clean)


def _checked(entry: _Entry, size: int) -> _Entry:
    """The entry, cut to one value where it may have only one; refused if it is absurd or lies outside the file."""
    count = 1 if entry.tag in _SINGLE else entry.count
    if entry.kind not in _SIZES or not 0 < count <= _MAX_VALUES:
        raise ImageError(f"TIFF tag {entry.tag} has type {entry.kind} and {entry.count} values; the file is damaged.")
    if entry.value + count * _SIZES[entry.kind] > size:
        raise ImageError(f"the TIFF is truncated: tag {entry.tag} points past the end of the file.")
    return _Entry(entry.tag, entry.kind, count, entry.value)


def _check_pixels(reader: _Reader, kept: dict[int, _Entry]) -> None:
    """Refuse tiles much larger than the picture, whose memory no limit would see, and pixels outside the file.

    Behind its end stands the new directory, which would be read as pixels.
    """
    for tile, side in ((322, _WIDTH), (323, _HEIGHT)):
        if tile in kept and reader.integer(kept[tile]) > max(_MAX_TILE, reader.integer(kept[side])):
            raise ImageError("the TIFF has tiles that are larger than the picture; the file is damaged.")
    for places, sizes in ((273, 279), (324, 325)):
        if places in kept and sizes in kept:
            ends = (
                sum(pair) for pair in zip(reader.integers(kept[places]), reader.integers(kept[sizes]), strict=False)
            )
            if max(ends) > len(reader.data):
                raise ImageError("the TIFF is truncated: its pixels end past the end of the file.")


def _rewrite(reader: _Reader, entries: dict[int, _Entry]) -> bytes:
    """The file with a new directory of these entries at its end; the pixels stay where their offsets say.

    Pillow warns, through Python's process-wide `warnings`, of anything odd in a directory. It sees none of it. The new
    directory is classic TIFF, because Pillow does not read a big-endian BigTIFF.
    """
    data, order = reader.data, reader.order
    directory = len(data) + len(data) % 2
    after = directory + 2 + 12 * len(entries) + 4
    fields, values = [struct.pack(f"{order}H", len(entries))], b""
    for tag in sorted(entries):
        entry = entries[tag]
        if _INTEGERS.get(entry.kind) == "Q":
            kind, raw = 4, struct.pack(f"{order}{entry.count}I", *reader.integers(entry))
        else:
            kind, raw = entry.kind, data[entry.value : entry.value + entry.count * _SIZES[entry.kind]]
        if len(raw) > 4:
            place = struct.pack(f"{order}I", after + len(values))
            values += raw + b"\0" * (len(raw) % 2)
        else:
            place = raw.ljust(4, b"\0")
        fields.append(struct.pack(f"{order}HHI", tag, kind, entry.count) + place)
    start = data[:2] + struct.pack(f"{order}HI", 42, directory)
    return b"".join([start, data[8:], b"\0" * (len(data) % 2), *fields, b"\0" * 4, values])
