"""Decodes a picture file whose header has been read and checked, and brings any colour mode to RGB uint8."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from encoders.errors import ImageError, ImageTooLargeError
from encoders.formats import Header

# The classes are called directly. Image.open would compare the size with Image.MAX_IMAGE_PIXELS, which belongs to the
# whole process, and warn of it; our own limits have been checked by then.
_DECODERS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "GIF": GifImageFile,
}
_READ_BLOCK = 1 << 20
# A JPEG decoded at 1/8, 1/4 or 1/2 stays at least so many times larger than what is needed, so that the antialiased
# resize that follows decides what is seen; the second figure is for channels that are reduced further than the picture.
# Measured against full decode on quality-90 JPEGs with text, edges and 1/f texture, 3 and 12 megapixels, 4:4:4, 4:2:2
# and 4:2:0, so as to keep 47 dB.
_MARGINS = {8: (2.4, 2.8), 4: (2.2, 2.8), 2: (3.0, 2.2)}
# Pixels converted at a time: bounds the memory that a large picture takes besides itself.
_BAND = 1 << 20

_OPAQUE = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_WIDE = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})


class _JpegStream:
    """A JPEG without its metadata, as the decoder reads it.

    Reading past the end is an error here, so that a truncated picture is refused even where the application has told
    Pillow (ImageFile.LOAD_TRUNCATED_IMAGES) to fill it with grey.
    """

    def __init__(self, header: Header, data: bytes) -> None:
        self.head, self.data, self.resume, self.position = header.head, data, header.resume, 0

    def read(self, size: int) -> bytes:
        into = self.position - len(self.head)
        if into < 0:
            chunk = self.head[self.position : self.position + size]
        else:
            chunk = self.data[self.resume + into : self.resume + into + size]
        if not chunk:
            raise ImageError("the JPEG is truncated: the file ends before the picture does. Copy or download it again.")
        self.position += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (self.position if whence == 1 else 0)
        return self.position

    def tell(self) -> int:
        return self.position


def reduced_scale(header: Header, shrink: float) -> int:
    """The scale, 1, 2, 4 or 8, to decode a picture at that will be made `shrink` times smaller; 1 but for a JPEG."""
    if header.kind != "JPEG":
        return 1
    for scale, (margin, coarser) in _MARGINS.items():
        coarsest = _coarsest(header.sampling, scale)
        if shrink / scale >= margin and (coarsest * scale == 1 or shrink * coarsest >= coarser):
            return scale
    return 1


def _coarsest(sampling: tuple[tuple[int, int], ...], scale: int) -> float:
    """The coarsest channel's resolution at that scale, of the picture's, in the direction where it is coarser.

    libjpeg decodes a subsampled channel at a larger scale where that makes up for it in both directions (4:2:0), but
    not where it would in one only (4:2:2, 4:4:0): such a channel is reduced twice.
    """
    across, down = max(x for x, _ in sampling), max(y for _, y in sampling)
    coarsest = 1.0
    for x, y in sampling:
        kept = 8 // scale
        while kept < 8 and not (across * 8 // scale) % (x * kept * 2) and not (down * 8 // scale) % (y * kept * 2):
            kept *= 2
        coarsest = min(coarsest, x / across * kept / 8, y / down * kept / 8)
    return coarsest


def decode(header: Header, data: bytes, scale: int) -> Image.Image:
    """Decode the first picture of the file; `scale` 2, 4 or 8 decodes a JPEG at that fraction of its size.

    A scaled JPEG has its sides rounded up, and pixel (0, 0) at the same corner. Raises ImageError, and whatever
    Pillow raises for damaged data.
    """
    bound, pixels = Image.MAX_IMAGE_PIXELS, header.width * header.height
    if header.kind == "TIFF" and bound is not None and pixels > bound:  # Its decoder would warn of it.
        raise ImageTooLargeError(f"it has {pixels} pixels, and Pillow's own limit for TIFF is {bound}.")
    if header.kind != "JPEG":
        return _loaded(_DECODERS[header.kind](io.BytesIO(header.head or data)))
    picture = _decode_jpeg(header, data, scale)
    if _ends_in_grey(picture) and _follows_noise(picture, header, data, scale):
        raise ImageError("the JPEG is truncated: its data ends before the picture does. Copy or download it again.")
    return picture


def _loaded(picture: ImageFile) -> Image.Image:
    picture.decodermaxblock = _READ_BLOCK
    picture.load()
    return picture


def _decode_jpeg(header: Header, data: bytes, scale: int) -> Image.Image:
    picture = JpegImageFile(cast("IO[bytes]", _JpegStream(header, data)))
    if scale > 1:
        picture.draft(None, (header.width // scale, header.height // scale))
    return _loaded(picture)


def _ends_in_grey(picture: Image.Image) -> bool:
    """Whether the last pixel is the grey that libjpeg fills a picture with when its data ends too early."""
    corner = picture.getpixel((picture.width - 1, picture.height - 1))
    return all(value in {127, 128} for value in (corner if isinstance(corner, tuple) else (corner,)))


def _follows_noise(picture: Image.Image, header: Header, data: bytes, scale: int) -> bool:
    """Whether the picture changes when noise is put before the end-of-image marker.

    It does where the marker came too early, since the noise is then taken for the missing part. Where the picture is
    whole, the noise is skipped, and the grey is the picture's own.
    """
    end = data.find(b"\xff\xd9", header.resume)
    other = _decode_jpeg(header, data[:end] + bytes(range(1, 200)) + b"\xff\xd9", scale)
    return any(
        mine.tobytes() != its.tobytes() for (_, mine), (_, its) in zip(_bands(picture), _bands(other), strict=True)
    )


def _bands(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture in parts of at most about a million pixels: (first row, part)."""
    width, height = picture.size
    rows = max(1, _BAND // width)
    if rows >= height:
        yield 0, picture
        return
    for top in range(0, height, rows):
        yield top, picture.crop((0, top, width, min(top + rows, height)))


def to_rgb(picture: Image.Image, background: tuple[int, int, int], notes: list[str]) -> NDArray[np.uint8]:
    """The picture as RGB, uint8, (height, width, 3), C-contiguous, with transparent pixels shown over `background`.

    Adds to `notes` what was lost on the way. Raises ImageError for a colour mode that has no plain way to RGB.
    """
    mode = picture.mode
    if mode not in _OPAQUE | _ALPHA | _WIDE:
        raise ImageError(f"its colour mode {mode!r} is not read; convert it to RGB first.")
    if mode == "CMYK":
        notes.append("CMYK, converted without its colour profile")
    if mode in _WIDE:
        notes.append("more than 8 bits per channel, reduced to 8")
    inverted = mode in _WIDE and getattr(picture, "tag_v2", {}).get(262) == 0  # TIFF: 0 is white.
    out, transparent = np.empty((picture.height, picture.width, 3), np.uint8), False
    for top, band in _bands(picture):
        pixels, shown = _band_to_rgb(band, background, inverted)
        transparent |= shown
        if len(pixels) == len(out):
            out = pixels  # One band is the whole picture, and need not be copied.
        else:
            out[top : top + len(pixels)] = pixels
    if transparent:
        notes.append(f"transparent pixels shown over {background}")
    return out


def _band_to_rgb(band: Image.Image, background: tuple[int, int, int], inverted: bool) -> tuple[NDArray[np.uint8], bool]:
    """RGB pixels of a part of the picture, and whether any was transparent."""
    if band.mode in _WIDE:
        grey, alpha = _wide_grey(band, inverted)
        pixels = np.repeat(grey[:, :, None], 3, axis=2)
    elif band.mode in _ALPHA or "transparency" in band.info:
        both = np.asarray(band.convert("RGBA"))
        pixels, alpha = both[:, :, :3].copy(), both[:, :, 3]
    else:
        return np.asarray(band if band.mode == "RGB" else band.convert("RGB")), False
    return pixels, blend(pixels, alpha, background)


def blend(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8], background: tuple[int, int, int]) -> bool:
    """Lay RGB pixels over the background in place, rounding to nearest; says whether anything was transparent."""
    if (alpha == 255).all():
        return False
    behind = np.asarray(background, np.uint16)
    rows = max(1, _BAND // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        part, cover = pixels[top : top + rows], alpha[top : top + rows, :, None].astype(np.uint16)
        # At most 255 x 255 + 127, which still fits 16 bits.
        part[:] = (part * cover + behind * (255 - cover) + np.uint16(127)) // 255
    return True


def sixteen_to_eight(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """16-bit values to 8 bits, rounded to nearest: 65535 becomes 255."""
    eight: NDArray[np.uint8] = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return eight


def unit_to_eight(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Numbers from 0 to 1 to 8 bits, rounded to nearest. Raises ImageError for NaN and for other ranges."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # False for NaN too.
        raise ImageError(f"floating-point pixels must be from 0 to 1; these are from {low:g} to {high:g}.")
    eight: NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
    return eight


def _wide_grey(band: Image.Image, inverted: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Grey of more than 8 bits: its 8-bit values, and alpha."""
    values = np.asarray(band)
    if values.dtype.kind == "f":
        grey = unit_to_eight(values)
    else:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ImageError(f"its grey values are from {low} to {high}; at most 16 bits (0 to 65535) are read.")
        grey = sixteen_to_eight(values.astype(np.uint16))
    clear = band.info.get("transparency")
    alpha = np.where(values == clear, 0, 255) if isinstance(clear, int) else np.full(values.shape, 255)
    return 255 - grey if inverted else grey, alpha.astype(np.uint8)
