"""Tells a picture's format by its content, and reads its header before anything is decoded.

Every limit can be checked on what is found here. What the decoder is given afterwards holds no metadata: EXIF, XMP,
colour profiles and comments are a decoder's weakest spots, and Pillow reports oddities in them through Python's
process-wide `warnings`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from encoders.errors import ImageError
from encoders.tiff import MAX_FRAMES, exif_orientation, read_tiff

READ_FORMATS = ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF")
# A progressive JPEG has about ten scans. Each costs a pass over the whole picture, so a small file with thousands
# would keep a core busy for hours.
_MAX_SCANS = 100


@dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    kind: one of READ_FORMATS. height, width: as stored, before the EXIF orientation (1 to 8). frames: pictures in
    the file, counted up to 1000. sampling: each channel's (horizontal, vertical) sampling factor, of a JPEG. The
    decoder reads `head` and then the file from byte `resume` on.
    """

    kind: str
    height: int
    width: int
    orientation: int = 1
    frames: int = 1
    sampling: tuple[tuple[int, int], ...] = ()
    head: bytes = b""
    resume: int = 0


def read_header(data: bytes) -> Header:
    """Read the header of a picture file.

    Raises ImageError for another format (by name), for what is not a picture, and for a damaged or truncated header.
    """
    if not data:
        raise ImageError("the file is empty.")
    for matches, read in _READERS:
        if matches(data):
            try:
                return read(data)
            except (IndexError, struct.error) as exc:
                raise _truncated("the file ends before the picture does") from exc
    raise ImageError(_refusal(data))


def _truncated(why: str) -> ImageError:
    return ImageError(f"the picture is truncated: {why}. Copy or download it again.")


# --- JPEG ------------------------------------------------------------------------------------------------------------

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Tables, restart interval, arithmetic conditioning.
_JPEG_KEPT = _SOF | {0xC4, 0xCC, 0xDB, 0xDD}


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each header segment; the last is the start of the first scan."""
    position = 2
    while True:
        position = data.find(b"\xff", position)  # Some cameras leave filling between segments.
        if position < 0:
            raise IndexError
        while data[position] == 0xFF:
            position += 1
        marker, start = data[position], position - 1
        position += 1
        if marker in {0x00, 0x01} or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9:
            raise ImageError("the JPEG ends before any picture begins.")
        end = position + int(struct.unpack_from(">H", data, position)[0])
        if end > len(data):
            raise IndexError
        yield marker, start, end
        if marker == 0xDA:
            return
        position = end


def _read_jpeg(data: bytes) -> Header:
    head, size, exif, resume = [b"\xff\xd8"], None, None, 0
    sampling: tuple[tuple[int, int], ...] = ()
    in_first_scan, progressive = 0, False
    for marker, start, end in _jpeg_segments(data):
        body = data[start + 4 : end]
        if marker == 0xDA:
            resume, in_first_scan = start, body[0]
        elif marker in _SOF:
            if size is not None:
                raise ImageError("the JPEG gives its size twice; the file is damaged.")
            *size, channels = struct.unpack_from(">HHB", body, 1)
            sampling = tuple((body[7 + 3 * index] >> 4, body[7 + 3 * index] & 15) for index in range(channels))
            if not all(1 <= factor <= 4 for pair in sampling for factor in pair):
                raise ImageError("the JPEG has an impossible colour sampling; the file is damaged.")
            progressive = marker not in {0xC0, 0xC1}
        elif marker == 0xE1 and exif is None and body[:6] == b"Exif\0\0":
            exif = body
        # JFIF and Adobe say which colours the numbers stand for.
        adobe = (marker == 0xE0 and body[:5] == b"JFIF\0") or (marker == 0xEE and body[:5] == b"Adobe")
        if marker in _JPEG_KEPT or adobe:
            head.append(data[start:end])
    if size is None:
        raise ImageError("the JPEG does not say how large the picture is; the file is damaged.")
    if progressive or in_first_scan < len(sampling):  # Otherwise the first scan is the whole picture.
        _check_scans(data, resume)
    orientation = exif_orientation(exif) if exif else 1
    return Header("JPEG", size[0], size[1], orientation, sampling=sampling, head=b"".join(head), resume=resume)


def _check_scans(data: bytes, start: int) -> None:
    end = data.find(b"\xff\xd9", start)  # Phones put a film or a second picture behind the end.
    scans = data.count(b"\xff\xda", start, end if end >= 0 else len(data))
    if scans > _MAX_SCANS:
        raise ImageError(f"the JPEG has {scans} scans, and more than {_MAX_SCANS} are not read; save it anew.")


# --- PNG -------------------------------------------------------------------------------------------------------------

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def _read_png(data: bytes) -> Header:
    position, kept = 8, [_PNG_SIGNATURE]
    size, orientation, frames = (0, 0), 1, 1
    seen: set[bytes] = set()
    depth = colour = 0
    while b"IEND" not in seen:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _truncated(f"the file ends inside a {kind.decode('latin-1')!r} chunk")
        body = data[position + 8 : end - 4]
        if (kind == b"IHDR") != (not seen):
            raise ImageError("the PNG does not begin with one header; the file is damaged.")
        if kind in _PNG_KEPT:
            if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
                raise ImageError(f"the checksum of the PNG's {kind.decode()} chunk is wrong; the file is damaged.")
            if kind == b"IHDR":
                width, height, depth, colour = struct.unpack_from(">IIBB", body)
                size = (height, width)
            chunk = data[position:end]
            kept.append(_scaled_transparency(body, depth, colour) or chunk if kind == b"tRNS" else chunk)
        elif kind == b"acTL":
            frames = max(1, min(int(struct.unpack_from(">I", body)[0]), MAX_FRAMES))
        elif kind == b"eXIf":
            orientation = exif_orientation(body)
        seen.add(kind)
        position = end
    if colour == 3 and b"PLTE" not in seen:
        raise ImageError("the PNG has no palette, but its pixels need one; the file is damaged.")
    return Header("PNG", *size, orientation, frames, head=b"".join(kept), resume=len(data))


def _scaled_transparency(body: bytes, depth: int, colour: int) -> bytes | None:
    """The tRNS chunk in 8-bit values, where Pillow compares it with pixels that it has brought to 8 bits.

    That is grey of 1, 2 and 4 bits, and RGB of 16, where colours with the same high bytes become transparent too.
    """
    if colour == 0 and depth < 8:
        (value,) = struct.unpack_from(">H", body)
        body = struct.pack(">H", (value & (2**depth - 1)) * (255 // (2**depth - 1)))
    elif colour == 2 and depth == 16:
        body = struct.pack(">3H", *(value >> 8 for value in struct.unpack_from(">3H", body)))
    else:
        return None
    return struct.pack(">I", len(body)) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))


# --- GIF -------------------------------------------------------------------------------------------------------------


def _colour_table(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, position: int) -> int:
    """The position after a chain of data blocks and its terminator."""
    while data[position]:
        position += data[position] + 1
    return position + 1


def _read_gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _colour_table(flags)
    tables, control, first, frames = data[10:position], b"", b"", 0
    try:
        while frames < MAX_FRAMES and data[position] != 0x3B:
            start, block = position, data[position]
            if block == 0x21:
                position = _after_blocks(data, position + 2)
                if data[start + 1] == 0xF9 and not first:
                    control = data[start:position]
            elif block == 0x2C:
                left, top, wide, high, flags = struct.unpack_from("<4HB", data, position + 1)
                position = _after_blocks(data, position + 11 + _colour_table(flags))
                if not first:
                    first = data[start:position]
                    # A frame may reach beyond the screen; browsers then enlarge the screen.
                    width, height = max(width, left + wide), max(height, top + high)
                frames += 1
            else:
                raise ImageError(f"the GIF has an unknown block (0x{block:02x}); the file is damaged.")
    except (IndexError, struct.error, ImageError):
        if not first:
            raise
        # A damaged later frame does not matter; the first is used.
    if not first:
        raise ImageError("the GIF holds no picture.")
    clean = data[:6] + struct.pack("<HH", width, height) + tables + control + first + b"\x3b"
    return Header("GIF", height, width, frames=frames, head=clean, resume=len(data))


# --- WebP, BMP, TIFF -------------------------------------------------------------------------------------------------


def _read_webp(data: bytes) -> Header:
    end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if end > len(data) + 1:
        raise _truncated(f"it says it has {end} bytes, and has {len(data)}")
    size, orientation, frames, position = None, 1, 0, 12
    while position + 8 <= min(end, len(data)):
        kind, length = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if kind == b"VP8X":
            wide, high = (int.from_bytes(data[at : at + 3], "little") for at in (body + 4, body + 7))
            size = size or (high + 1, wide + 1)
        elif kind == b"VP8 ":
            wide, high = struct.unpack_from("<HH", data, body + 6)
            size = size or (high & 0x3FFF, wide & 0x3FFF)
        elif kind == b"VP8L":
            bits = struct.unpack_from("<I", data, body + 1)[0]
            size = size or ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
        elif kind == b"ANMF":
            frames = min(frames + 1, MAX_FRAMES)
        elif kind == b"EXIF":
            orientation = exif_orientation(data[body : body + length])
        position = body + length + length % 2
    if size is None:
        raise ImageError("the WebP holds no picture.")
    return Header("WebP", *size, orientation, max(frames, 1))


def _read_bmp(data: bytes) -> Header:
    layout = "<HH" if struct.unpack_from("<I", data, 14)[0] == 12 else "<ii"
    width, height = struct.unpack_from(layout, data, 18)
    return Header("BMP", abs(height), width)  # A negative height: the first row is the top one.


def _read_tiff(data: bytes) -> Header:
    if data[8:10] == b"CR":
        raise ImageError("this is a Canon raw file; convert it to JPEG or PNG first.")
    found = read_tiff(data)
    return Header("TIFF", found.height, found.width, found.orientation, found.pages, head=found.clean, resume=len(data))


def _starts(*prefixes: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(prefixes)


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Header]], ...] = (
    (_starts(b"\xff\xd8\xff"), _read_jpeg),
    (_starts(_PNG_SIGNATURE), _read_png),
    (_starts(b"GIF87a", b"GIF89a"), _read_gif),
    (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _read_webp),
    (lambda data: data[:2] == b"BM" and data[15:18] == b"\0\0\0", _read_bmp),
    (_starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _read_tiff),
)


# --- What is not read ------------------------------------------------------------------------------------------------

_OTHERS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"\0\0\0\x0cjP  ", b"\xffO\xffQ"), "a JPEG 2000 picture"),
    ((b"\0\0\0\x0cJXL ", b"\xff\x0a"), "a JPEG XL picture"),
    ((b"II\xbc",), "a JPEG XR picture"),
    ((b"8BPS",), "a Photoshop document"),
    ((b"gimp xcf",), "a GIMP document"),
    ((b"%PDF",), "a PDF document"),
    ((b"%!PS",), "a PostScript document"),
    ((b"\0\0\1\0", b"\0\0\2\0"), "a Windows icon"),
    ((b"icns",), "a macOS icon"),
    ((b"v/1\x01",), "an OpenEXR picture"),
    ((b"#?RADIANCE", b"#?RGBE"), "a Radiance HDR picture"),
    ((b"DDS ",), "a DDS texture"),
    ((b"qoif",), "a QOI picture"),
    ((b"BPG\xfb",), "a BPG picture"),
    ((b"FLIF",), "a FLIF picture"),
    ((b"SIMPLE  =",), "a FITS picture"),
    ((b"\xd7\xcd\xc6\x9a",), "a Windows metafile"),
    ((b"\x93NUMPY",), "a NumPy file; load it and pass the array"),
    ((b"PK\3\4",), "a ZIP archive"),
    ((b"\x1f\x8b",), "a gzip archive"),
    ((b"7z\xbc\xaf",), "a 7-Zip archive"),
    ((b"Rar!",), "a RAR archive"),
    ((b"\x7fELF",), "a Linux program"),
    ((b"\x1aE\xdf\xa3",), "a Matroska or WebM film"),
    ((b"OggS",), "an Ogg file"),
    ((b"RKNN",), "an .rknn model"),
    ((b"version https://git-lfs",), "a Git LFS pointer; run `git lfs pull` to get the picture"),
    ((b"data:",), "a data URL; decode it first"),
    ((b"/9j/", b"iVBORw0KGgo"), "base64 text; decode it first"),
    ((b"http://", b"https://"), "a web address; download the picture first"),
)
_BRANDS = {b"avif": "an AVIF picture", b"avis": "an AVIF picture", b"crx ": "a Canon raw file"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC picture"
)

_TEXTS = (
    ((b"<svg", b"<?xml"), "an SVG or XML document"),
    ((b"<!doctype html", b"<html"), "a web page, not the picture on it"),
)


def _name(data: bytes) -> str | None:
    """What the content is, if it is something known."""
    for prefixes, name in _OTHERS:
        if data.startswith(prefixes):
            return name
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "an MP4 or QuickTime film")
    if data[:4] == b"RIFF":
        return f"a RIFF file of type {data[8:12].decode('latin-1')!r}"
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "a PNM picture"
    text = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((name for prefixes, name in _TEXTS if text.startswith(prefixes)), None)


def _refusal(data: bytes) -> str:
    """Why a file that is none of READ_FORMATS is refused."""
    known = _name(data)
    read = ", ".join(READ_FORMATS[:-1]) + f" and {READ_FORMATS[-1]}"
    if known:
        return f"this is {known}. Read are {read}."
    return f"this is not a picture that is known here (it begins with {data[:8].hex(' ')}). Read are {read}."
