"""Picture files made for the tests: every format and mode, odd ones, and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

EXIF_ORIENTATION = 0x0112


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Smooth colours with a bright corner: survives JPEG, and shows which way up it is."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(seed)
    pixels = np.stack([255 * x / width, 255 * y / height, np.full(x.shape, int(rng.integers(40, 90)))], axis=2)
    pixels[: height // 4, : width // 4] = 250
    return Image.fromarray(pixels.astype(np.uint8))


def exif(orientation: int, order: str = "<") -> bytes:
    """EXIF data (without the "Exif" prefix) that says only how the picture is to be turned."""
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(order + "HHIHH", EXIF_ORIENTATION, 3, 1, orientation, 0)
    return mark + struct.pack(order + "HIH", 42, 8, 1) + entry + struct.pack(order + "I", 0)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: `rows` are packed pixels, `extra` chunks come before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def tiff(fields: list[tuple[int, int, list[int]]], pixels: bytes, order: str = "<", big: bool = False) -> bytes:
    """A TIFF written by hand: pixels at byte 16, then one directory of (tag, type, values); 273 is filled in."""
    sizes = {1: "B", 3: "H", 4: "I", 16: "Q"}
    count, entry, offset, room = (
        (order + "Q", order + "HHQ", order + "Q", 8) if big else (order + "H", order + "HHI", order + "I", 4)
    )
    start = 16 + len(pixels) + len(pixels) % 2
    after = start + struct.calcsize(count) + len(fields) * (struct.calcsize(entry) + room) + room
    directory, values = struct.pack(count, len(fields)), b""
    for tag, kind, numbers in sorted(fields):
        raw = struct.pack(f"{order}{len(numbers)}{sizes[kind]}", *(numbers if tag != 273 else [16] * len(numbers)))
        if len(raw) > room:
            place, values = struct.pack(offset, after + len(values)), values + raw
        else:
            place = raw.ljust(room, b"\0")
        directory += struct.pack(entry, tag, kind, len(numbers)) + place
    mark = b"II" if order == "<" else b"MM"
    head = mark + (struct.pack(order + "HHHQ", 43, 8, 0, start) if big else struct.pack(order + "HI", 42, start))
    return head.ljust(16, b"\0") + pixels + b"\0" * (len(pixels) % 2) + directory + struct.pack(offset, 0) + values


def grey_tiff(
    pixels: bytes, width: int, height: int, bits: int = 8, zero_is_black: bool = True, **layout: Any
) -> bytes:
    fields = [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, [bits]),
        (259, 3, [1]),
        (262, 3, [int(zero_is_black)]),
        (273, 4, [16]),
        (277, 3, [1]),
        (278, 3, [height]),
        (279, 4, [len(pixels)]),
    ]
    return tiff(fields, pixels, **layout)


def every_mode() -> Iterator[tuple[str, bytes]]:
    """(name, file) of each format in each colour mode that it can hold."""
    kinds = {
        "JPEG": ("L", "RGB", "CMYK"),
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "WebP": ("RGB", "RGBA"),
        "BMP": ("1", "L", "P", "RGB"),
        "GIF": ("1", "L", "P"),
        "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    }
    for kind, modes in kinds.items():
        for mode in modes:
            if mode == "I;16":
                picture = Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 257)
            elif mode == "LAB":
                picture = Image.merge("LAB", scene().split())
            elif mode == "F":
                picture = Image.fromarray(np.asarray(scene().convert("L")).astype(np.float32) / 255)
            else:
                picture = (
                    scene().convert("RGB" if mode == "YCbCr" else "L" if mode in {"I", "LA"} else "RGB").convert(mode)
                )
            yield f"{kind} {mode}", encoded(picture, kind)
    yield "progressive", encoded(scene(), "JPEG", progressive=True)
    yield "4:4:4", encoded(scene(), "JPEG", subsampling=0)
    yield "lossless WebP", encoded(scene(), "WebP", lossless=True)
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"TIFF {packing}", encoded(scene(), "TIFF", compression=packing)
    frames = [scene(seed=seed) for seed in range(3)]
    for kind in ("GIF", "WebP", "PNG", "TIFF"):
        yield f"animated {kind}", encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that would be very large pictures, or very much work."""
    row = bytes(60_000)
    yield "PNG bomb", png(60_000, 20_000, 8, 0, [row] * 40)
    yield "PNG 2^31", png(2**31 - 1, 2**31 - 1, 8, 2, [])
    yield "PNG long side", png(2**30, 1, 1, 0, [])
    yield "PNG nothing", png(0, 10, 8, 0, [])
    header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    again = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    yield "PNG two headers", png(16, 16, 8, 0, [bytes(16)] * 16, (b"IHDR", again))
    yield "PNG same header", png(16, 16, 8, 0, [bytes(16)] * 16, (b"IHDR", header))
    text = zlib.compress(bytes(80_000_000), 9)
    yield "PNG text bomb", png(16, 16, 8, 0, [bytes(16)] * 16, (b"zTXt", b"Comment\0\0" + text))
    yield "PNG profile bomb", png(16, 16, 8, 0, [bytes(16)] * 16, (b"iCCP", b"p\0\0" + text))
    yield "PNG deflate bomb", png(16, 16, 8, 0, [bytes(40_000_000)])
    gif = encoded(scene().convert("P"), "GIF")
    yield "GIF huge screen", gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:]
    place = gif.index(struct.pack("<B4H", 0x2C, 0, 0, 64, 48))
    yield "GIF frame outside", gif[: place + 1] + struct.pack("<4H", 60000, 60000, 64, 48) + gif[place + 9 :]
    yield "GIF many frames", gif[:-1] + gif[place:-1] * 3000 + b";"
    jpeg = encoded(scene(), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    for height, width in ((65535, 65535), (0, 64), (4000, 2000), (48, 0)):
        size = struct.pack(">HH", height, width)
        yield f"JPEG says {height} x {width}", jpeg[: frame + 5] + size + jpeg[frame + 9 :]
    slow = encoded(scene(), "JPEG", progressive=True)
    scan = slow.rindex(b"\xff\xda")
    yield "JPEG many scans", slow[:scan] + slow[scan:-2] * 5000 + slow[-2:]
    bmp = encoded(scene(), "BMP")
    for height, width in ((100_000, 100_000), (-48, 64), (48, -64), (2**31 - 1, 1), (2000, 2000)):
        yield f"BMP says {height} x {width}", bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
    webp = encoded(scene().convert("RGBA"), "WebP", lossless=True, exif=exif(1))
    canvas = webp.index(b"VP8X") + 12
    yield "WebP huge canvas", webp[:canvas] + b"\xff\xff\xff\xff\xff\xff" + webp[canvas + 6 :]
    yield "TIFF huge", grey_tiff(b"", 60_000, 60_000)
    yield "TIFF rows beyond", grey_tiff(b"", 1000, 1000)
    yield "TIFF a million strips", tiff([(256, 3, [8]), (257, 3, [8]), (273, 4, [16] * 2_000_000)], bytes(64))
    yield "TIFF huge tiles", tiff([(256, 3, [8]), (257, 3, [8]), (322, 4, [90_000]), (323, 4, [90_000])], bytes(64))
    loop = bytearray(grey_tiff(bytes(64), 8, 8))
    loop[-4:] = struct.pack("<I", 16 + 64)
    yield "TIFF pages in a loop", bytes(loop)


def not_pictures() -> Iterator[tuple[str, bytes]]:
    """(name, content) of what is no picture, or another kind of it."""
    yield "empty", b""
    for size in (1, 2, 3, 8, 100, 100_000):
        yield f"{size} zeros", bytes(size)
        yield f"{size} ones", b"\xff" * size
    begins = {
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(40),
        "AVIF": b"\0\0\0\x18ftypavif" + bytes(40),
        "MP4": b"\0\0\0\x18ftypisom" + bytes(40),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
        "JPEG XL": b"\xff\x0a" + bytes(20),
        "PSD": b"8BPS\0\1" + bytes(40),
        "PDF": b"%PDF-1.7\n",
        "SVG": b"\xef\xbb\xbf <svg xmlns='http://www.w3.org/2000/svg'/>",
        "HTML": b"<!DOCTYPE html><html>404</html>",
        "ICO": b"\0\0\1\0\1\0" + bytes(40),
        "PNM": b"P6\n2 2\n255\n" + bytes(12),
        "AVI": b"RIFF\x24\0\0\0AVI LIST",
        "ZIP": b"PK\3\4" + bytes(30),
        "ELF": b"\x7fELF\2\1\1" + bytes(30),
        "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "base64": b"/9j/4AAQSkZJRgABAQAAAQABAAD",
        "URL": b"https://example.org/cat.jpg",
        "text": b"a picture of a cat",
        "DNG": tiff([(256, 3, [8]), (257, 3, [8]), (273, 4, [16]), (50706, 1, [1, 4, 0, 0])], bytes(64)),
    }
    yield from begins.items()
    marks = {
        "JPEG": b"\xff\xd8\xff",
        "PNG": b"\x89PNG\r\n\x1a\n",
        "GIF": b"GIF89a",
        "WebP": b"RIFF\x40\0\0\0WEBPVP8 ",
        "BMP": b"BM\x40\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
        "TIFF": b"MM\0*\0\0\0\x08",
        "BigTIFF": b"II+\0\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
    }
    rng = np.random.default_rng(1)
    for name, mark in marks.items():
        yield f"only the mark of {name}", mark
        yield f"mark of {name}, then noise", mark + rng.bytes(5000)
        yield f"mark of {name}, then zeros", mark + bytes(5000)


def _damaged(whole: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Each file cut at a random place, and with random bytes changed."""
    rng = np.random.default_rng(2)
    for name, data in whole:
        for _ in range(2):
            cut = int(rng.integers(1, len(data)))
            yield f"{name}, cut at {cut} of {len(data)}", data[:cut]
        for changes in (1, 20):
            changed = bytearray(data)
            for place in rng.integers(0, len(data), changes):
                changed[place] = int(rng.integers(0, 256))
            yield f"{name}, {changes} bytes changed", bytes(changed)
        yield f"{name}, with bytes behind", data + rng.bytes(100)


def hostile() -> Iterator[tuple[str, bytes]]:
    """More than 200 odd and hostile picture files, the same ones each time."""
    whole = list(every_mode())
    yield from whole
    yield from _bombs()
    yield from not_pictures()
    yield from _damaged(whole)


def orientation_savers() -> dict[str, Callable[[Image.Image, int], bytes]]:
    """How each format that can say its orientation is saved with one."""
    return {
        "JPEG": lambda picture, turn: encoded(picture, "JPEG", quality=95, exif=b"Exif\0\0" + exif(turn, ">")),
        "PNG": lambda picture, turn: encoded(picture, "PNG", exif=exif(turn)),
        "WebP": lambda picture, turn: encoded(picture, "WebP", lossless=True, exif=exif(turn, ">")),
        "TIFF": lambda picture, turn: encoded(picture, "TIFF", tiffinfo={EXIF_ORIENTATION: turn}),
    }
