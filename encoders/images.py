"""Any picture source to upright RGB pixels. Every limit on untrusted pictures is here and nowhere else."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from encoders.base import VisionSpec
from encoders.decode import blend, decode, reduced_scale, sixteen_to_eight, to_rgb, unit_to_eight
from encoders.errors import ImageError, ImageTooLargeError
from encoders.formats import Header, read_header
from encoders.tiff import MAX_FRAMES, exif_orientation


@dataclass(frozen=True, eq=False)
class ImageFile:
    """A picture file that was read and not yet decoded, made by `read_image`.

    data: its bytes. content_hash: of them, and so of the picture that `load_image` makes of it. name: the path it was
    read from, or empty. label: what to call it in a message.
    """

    data: bytes
    content_hash: str
    name: str
    label: str


Source: TypeAlias = (
    "bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes] | ImageFile| Image.Image | NDArray[np.generic]"
)

_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WebP", ".bmp": "BMP", ".gif": "GIF"}
_SUFFIXES |= {".tif": "TIFF", ".tiff": "TIFF"}


class ImageLimits(BaseModel):
    """How large a picture may be. Checked on the header, before anything is decoded.

    A TIFF has to keep to Pillow's own Image.MAX_IMAGE_PIXELS (89 million) as well. Loading takes up to 10 bytes of
    memory a pixel, and 18 for WebP.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=64 << 20, gt=0, description="Bytes of the picture file.")
    max_pixels: int = Field(default=64 << 20, gt=0, description="Width times height; 67 million by default.")
    max_side: int = Field(default=32768, gt=0, description="Width, and height, in pixels.")


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it is looked at: upright, RGB, opaque.

    pixels: uint8, shape (height, width, 3), RGB, C-contiguous, read-only; a JPEG may have been decoded at reduced
    scale. size: (height, width) of the source, upright. box: (left, top, right, bottom) of the picture within
    `pixels`, in pixels; at reduced scale an edge can fall inside a pixel. content_hash: of the source's bytes, or of
    the pixels where the source is an array or a PIL image. frames: pictures in the file, counted up to 1000; the first
    is used. notes: what a user may want to know (animation, lost precision, transparency), in words.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    content_hash: str
    frames: int = 1
    notes: tuple[str, ...] = ()


def read_image(source: Source, *, limits: ImageLimits = DEFAULT_LIMITS) -> ImageFile | None:
    """Read a picture's bytes and no more, to know its content hash before it is decoded; None for pixels.

    What is returned is a source for `load_image`. Raises ImageError, ImageTooLargeError.
    """
    if isinstance(source, ImageFile):
        return source
    if isinstance(source, (np.ndarray, Image.Image)):
        return None
    label = _label(source)
    with _naming(label):
        data = _read(source, limits.max_bytes)
        name = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else ""
        # SHA-256, because the boards' cores, like new PCs', have instructions for it: twice as fast as BLAKE2 there.
        return ImageFile(data, hashlib.sha256(data).hexdigest(), name, label)


def load_image(
    source: Source,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    needed: VisionSpec | tuple[int, int] | None = None,
    background: tuple[int, int, int] | None = None,
) -> Picture:
    """Read a picture from bytes, a path, a binary file object (from where it stands), a PIL image or an array, or
    decode one that `read_image` has read.

    Arrays: (height, width), (height, width, 1 or 3 or 4); uint8, bool, uint16, or floating point from 0 to 1; RGB
    order. JPEG, PNG, WebP, BMP, TIFF and GIF files are told by content. needed: the encoder's spec, or the (height,
    width) that the picture must still cover; a JPEG much larger than that is decoded at reduced scale. background: RGB
    0 to 255 behind transparent pixels; by default the spec's, or (127, 127, 127).

    Raises ImageError, saying what and why, and ImageTooLargeError over a limit; nothing else.
    """
    if background is None:
        background = needed.background if isinstance(needed, VisionSpec) else (127, 127, 127)
    file = read_image(source, limits=limits)
    with _naming(file.label if file else _label(source)):
        if file is not None:
            return _from_file(file, limits, needed, background)
        if isinstance(source, np.ndarray):
            return _from_array(source, limits, background)
        return _from_pil(cast("Image.Image", source), limits, background)


@contextmanager
def _naming(label: str) -> Iterator[None]:
    """Make an ImageError that names the picture of whatever goes wrong with it."""
    try:
        yield
    except ImageError as exc:
        raise type(exc)(f"{label}: {exc}") from exc
    except MemoryError as exc:
        raise ImageError(f"{label}: there is not enough memory to decode it.") from exc
    except Image.DecompressionBombError as exc:
        raise ImageTooLargeError(f"{label}: {exc}") from exc
    except Exception as exc:
        # Decoders raise almost anything on damaged data; for the caller it is always the same: a damaged picture.
        plain = isinstance(exc, (OSError, SyntaxError, ValueError)) and str(exc)
        why = str(exc).rstrip(".") if plain else repr(exc)
        raise ImageError(f"{label}: it cannot be decoded: {why}.") from exc


def _label(source: object) -> str:
    """What to call the source in a message."""
    if isinstance(source, (str, os.PathLike)):
        text = os.fsdecode(source)
        return repr(text if len(text) <= 200 else text[:200] + "...")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the given bytes"
    if isinstance(source, np.ndarray):
        return "the given array"
    name = getattr(source, "name", None)  # Of an open file, mostly a path.
    return repr(name) if isinstance(name, str) else f"the given {type(source).__name__}"


# --- From files and bytes --------------------------------------------------------------------------------------------


def _read(source: object, max_bytes: int) -> bytes:
    """The bytes of a source, at most one more than allowed being read."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        size = source.nbytes if isinstance(source, memoryview) else len(source)
        _check_bytes(size, max_bytes)
        return bytes(source)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, max_bytes)
    if callable(getattr(source, "read", None)):
        return _read_stream(source, max_bytes)  # type: ignore[arg-type]
    raise ImageError(
        f"a {type(source).__name__} is not a picture source; give bytes, a path, a binary file object, a PIL image or "
        "a NumPy array."
    )


def _check_bytes(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ImageTooLargeError(f"it has {size} bytes, and the limit is {max_bytes} (max_bytes).")


def _read_path(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    if isinstance(path, str) and path.startswith(("http://", "https://", "data:")):
        raise ImageError("this is a web address, not a path; download the picture first.")
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode):
                _check_bytes(status.st_size, max_bytes)
            return _read_stream(file, max_bytes)
    except FileNotFoundError as exc:
        raise ImageError("there is no such file.") from exc
    except IsADirectoryError as exc:
        raise ImageError("this is a directory, not a picture file.") from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path.
        raise ImageError(f"it cannot be read: {getattr(exc, 'strerror', None) or exc}.") from exc


def _read_stream(file: IO[bytes], max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= max_bytes:
        try:
            part = file.read(max_bytes + 1 - size)
        except (OSError, ValueError) as exc:
            raise ImageError(f"it cannot be read: {exc}.") from exc
        if not isinstance(part, (bytes, bytearray, memoryview)):
            raise ImageError(f"its read() gives {type(part).__name__}, not bytes; open the file with mode 'rb'.")
        if not part:
            break
        parts.append(bytes(part))
        size += len(part)
    _check_bytes(size, max_bytes)
    if not parts:
        raise ImageError("it is empty, or has been read to its end already.")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _from_file(
    file: ImageFile,
    limits: ImageLimits,
    needed: VisionSpec | tuple[int, int] | None,
    background: tuple[int, int, int],
) -> Picture:
    header = read_header(file.data)
    _check_size(header.height, header.width, limits)
    notes = _header_notes(header, file.name)
    turned = header.orientation >= 5
    size = (header.width, header.height) if turned else (header.height, header.width)
    scale = 1 if needed is None else reduced_scale(header, _shrink(size, needed))
    if scale > 1:
        notes.append(f"decoded at 1/{scale} of its size")
    whole = (0.0, 0.0, header.width / scale, header.height / scale)
    pixels = to_rgb(decode(header, file.data, scale), background, notes)
    pixels, box = _upright(pixels, whole, header.orientation)
    return _picture(pixels, size, box, file.content_hash, header.frames, notes)


def _header_notes(header: Header, name: str) -> list[str]:
    notes = []
    suffix = os.path.splitext(name)[1].lower()
    if _SUFFIXES.get(suffix, header.kind) != header.kind:
        notes.append(f"the name ends in {suffix}, the content is {header.kind}")
    if header.frames > 1:
        kind = "pages" if header.kind == "TIFF" else "frames"
        count = f"{header.frames} or more" if header.frames == MAX_FRAMES else str(header.frames)
        notes.append(f"{header.kind} with {count} {kind}, of which the first is used")
    return notes


def _check_size(height: int, width: int, limits: ImageLimits) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"it is {width} x {height} pixels; there is nothing to see.")
    if max(height, width) > limits.max_side:
        raise ImageTooLargeError(
            f"it is {width} x {height} pixels, and the limit is {limits.max_side} a side (max_side)."
        )
    if height * width > limits.max_pixels:
        raise ImageTooLargeError(
            f"it is {width} x {height} = {width * height} pixels, and the limit is {limits.max_pixels} (max_pixels)."
        )


def _shrink(size: tuple[int, int], needed: VisionSpec | tuple[int, int]) -> float:
    """How many times smaller a picture of that (height, width) will be made, in the direction where it is least."""
    fit = needed.fit if isinstance(needed, VisionSpec) else "stretch"
    height, width = (needed.height, needed.width_px) if isinstance(needed, VisionSpec) else needed
    shrink = (size[0] / max(height, 1), size[1] / max(width, 1))
    # Padding shrinks both sides alike, by the larger figure; otherwise the side that shrinks least decides.
    return max(shrink) if fit == "pad" else min(shrink)


def _upright(
    pixels: NDArray[np.uint8], box: tuple[float, float, float, float], orientation: int
) -> tuple[NDArray[np.uint8], tuple[float, float, float, float]]:
    """Turn pixels, and the picture's box in them, as the EXIF orientation says: first swap the axes, then mirror."""
    left, top, right, bottom = box
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
        left, top, right, bottom = top, left, bottom, right
    height, width = pixels.shape[:2]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
        left, right = width - right, width - left
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
        top, bottom = height - bottom, height - top
    return np.ascontiguousarray(pixels), (left, top, right, bottom)


def _picture(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    content_hash: str,
    frames: int,
    notes: list[str],
) -> Picture:
    shown = pixels.view()
    shown.flags.writeable = False
    return Picture(shown, size, box, content_hash, frames, tuple(notes))


# --- From arrays and PIL images --------------------------------------------------------------------------------------


def _from_pixels(pixels: NDArray[np.uint8], notes: list[str]) -> Picture:
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(f"{height} x {width} RGB\n".encode())
    digest.update(pixels.data)
    return _picture(pixels, (height, width), (0.0, 0.0, width, height), digest.hexdigest(), 1, notes)


def _from_pil(picture: Image.Image, limits: ImageLimits, background: tuple[int, int, int]) -> Picture:
    _check_size(picture.height, picture.width, limits)
    picture.load()
    exif = picture.info.get("exif")
    notes: list[str] = []
    pixels = to_rgb(picture, background, notes)
    orientation = exif_orientation(exif) if isinstance(exif, bytes) else 1
    return _from_pixels(_upright(pixels, (0, 0, 0, 0), orientation)[0], notes)


def _from_array(array: NDArray[np.generic], limits: ImageLimits, background: tuple[int, int, int]) -> Picture:
    """Pixels of an array; a C-contiguous uint8 RGB array is used as it is, without a copy."""
    shape = array.shape
    if array.ndim not in {2, 3} or (array.ndim == 3 and shape[2] not in {1, 3, 4}):
        raise ImageError(
            f"its shape is {shape}; a picture is (height, width), or (height, width, channels) with 1, 3 or 4 channels."
        )
    _check_size(shape[0], shape[1], limits)
    notes: list[str] = []
    pixels = _eight_bits(np.asarray(array), notes)
    if pixels.ndim == 2 or shape[2] == 1:
        pixels = np.repeat(pixels.reshape(shape[0], shape[1], 1), 3, axis=2)
    elif shape[2] == 4:
        alpha, pixels = pixels[:, :, 3], pixels[:, :, :3].copy()
        if blend(pixels, alpha, background):
            notes.append(f"transparent pixels shown over {background}")
    return _from_pixels(np.ascontiguousarray(pixels), notes)


def _eight_bits(array: NDArray[np.generic], notes: list[str]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array.view(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # In either byte order.
        notes.append("more than 8 bits per channel, reduced to 8")
        return sixteen_to_eight(array.astype(np.uint16))
    if array.dtype.kind == "f":
        return unit_to_eight(array.astype(np.float32))
    raise ImageError(f"its dtype is {array.dtype}; give uint8 (0 to 255), uint16, bool, or floating point from 0 to 1.")
