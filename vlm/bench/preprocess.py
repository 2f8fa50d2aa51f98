"""Times a camera JPEG's way to the encoder's input against the plain way, and compares the pixels with the best way.

ours  `load_image` and `fit_image`: a JPEG decoded at reduced scale, then resized with an antialiased bicubic filter
demo  what the vendor's demo does: decode whole, pad to a square with grey, resize bilinearly
best  decode whole, resize with an antialiased bicubic filter, pad
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.base import VisionSpec
from encoders.images import load_image
from encoders.preprocess import fit_image, picture_area

SPEC = VisionSpec(height=448, width_px=448, tokens=196, width=2048)
_GREY = 127.5


@dataclass(frozen=True)
class PreprocessResult:
    """Medians of one run: milliseconds for a picture, demo over ours within a round, and ours against the best way.

    psnr_db is over the picture's own area, without the padding, which is equal in any case.
    """

    ours_ms: float
    demo_ms: float
    ratio: float
    psnr_db: float


def draw_jpeg(height: int = 3000, width: int = 4000, *, quality: int = 90, seed: int = 0) -> bytes:
    """A JPEG of that size with text, edges and 1/f texture; the same bytes for the same arguments."""
    rng = np.random.default_rng(seed)
    picture = np.clip(_texture(rng, height, width), 0, 255).astype(np.uint8)
    unit = max(height, width) / 4000

    def point() -> tuple[int, int]:
        return int(rng.integers(0, width)), int(rng.integers(0, height))

    def colour() -> list[int]:
        return [int(value) for value in rng.integers(0, 256, 3)]

    def thick(most: int) -> int:
        return max(1, round(unit * float(rng.integers(1, most + 1))))

    for index in range(40):
        centre = point()
        sides = (int(unit * rng.integers(20, 450)), int(unit * rng.integers(20, 450)))
        line = -1 if index % 3 == 0 else thick(20)
        if index % 2:
            cv2.ellipse(picture, centre, sides, float(rng.integers(0, 180)), 0, 360, colour(), line, cv2.LINE_AA)
        else:
            cv2.rectangle(picture, centre, (centre[0] + sides[0], centre[1] + sides[1]), colour(), line)
    for _ in range(60):
        cv2.line(picture, point(), point(), colour(), thick(12), cv2.LINE_AA)
    for _ in range(60):
        size = unit * float(rng.uniform(0.7, 6))
        words = "The quick brown fox 0123456789"
        cv2.putText(picture, words, point(), cv2.FONT_HERSHEY_SIMPLEX, size, colour(), thick(8), cv2.LINE_AA)
    done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError("OpenCV could not encode the benchmark's picture.")
    return encoded.tobytes()


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Noise whose amplitude falls as 1/f, as in photographs: mostly shared by the three channels, partly their own."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf

    def layer() -> NDArray[np.float32]:
        spectrum = rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)
        values = np.fft.irfft2(spectrum / frequency, (height, width))
        scaled: NDArray[np.float32] = (values / values.std()).astype(np.float32)
        return scaled

    shared = layer()
    channels: list[NDArray[np.float32]] = [128 + 18 * shared + 10 * layer() for _ in range(3)]
    return np.stack(channels, axis=2)


def ours(jpeg: bytes) -> NDArray[np.uint8]:
    """The project's way: uint8 RGB (1, height, width, 3)."""
    return fit_image(load_image(jpeg, needed=SPEC), SPEC)


def demo(jpeg: bytes) -> NDArray[np.uint8]:
    """The plain way, on OpenCV with its own threads: uint8 RGB (1, height, width, 3)."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise RuntimeError("OpenCV could not decode the benchmark's picture.")
    height, width = picture.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), int(_GREY), np.uint8)  # The vendor's 127.5, as uint8 holds it.
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    small = cv2.resize(square, (SPEC.width_px, SPEC.height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)[None]


def best(jpeg: bytes) -> NDArray[np.uint8]:
    """The careful way, on Pillow alone: uint8 RGB (1, height, width, 3)."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        scale = min(SPEC.width_px / picture.width, SPEC.height / picture.height)
        size = (round(picture.width * scale), round(picture.height * scale))
        small = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    out = Image.new("RGB", (SPEC.width_px, SPEC.height), SPEC.background)
    out.paste(small, ((SPEC.width_px - size[0]) // 2, (SPEC.height - size[1]) // 2))
    return np.asarray(out)[None]


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two pictures of 8 bits, in decibels; infinite when they are equal."""
    error = float(np.mean((first.astype(np.float64) - second) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def run(rounds: int = 25) -> PreprocessResult:
    """Draw the 12-megapixel picture, take both ways in turn `rounds` times, and compare ours with the best way."""
    jpeg = draw_jpeg()
    area = picture_area((3000, 4000), SPEC)
    quality = psnr(_part(ours(jpeg), area), _part(best(jpeg), area))
    demo(jpeg)
    times = [(_milliseconds(ours, jpeg), _milliseconds(demo, jpeg)) for _ in range(max(1, rounds))]
    return PreprocessResult(
        ours_ms=statistics.median(ours_ms for ours_ms, _ in times),
        demo_ms=statistics.median(demo_ms for _, demo_ms in times),
        ratio=statistics.median(demo_ms / ours_ms for ours_ms, demo_ms in times),
        psnr_db=quality,
    )


def report(result: PreprocessResult) -> str:
    """The figures beside what they are held to."""
    return "\n".join(
        (
            "12-megapixel JPEG, quality 90, to 448 x 448 with padding; medians of one run",
            f"  ours (reduced-scale decode, antialiased bicubic)  {result.ours_ms:7.1f} ms",
            f"  demo (whole decode, pad to square, bilinear)      {result.demo_ms:7.1f} ms",
            f"  ours is faster by                                 {result.ratio:7.2f} times  (aim: at least 1.7)",
            f"  ours against whole decode, antialiased bicubic    {result.psnr_db:7.1f} dB     (aim: at least 47)",
        )
    )


def _part(pixels: NDArray[np.uint8], area: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    top, left, height, width = area
    return pixels[0, top : top + height, left : left + width]


def _milliseconds(way: Callable[[bytes], NDArray[np.uint8]], jpeg: bytes) -> float:
    start = time.perf_counter()
    way(jpeg)
    return (time.perf_counter() - start) * 1000
