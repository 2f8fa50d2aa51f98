"""The demo model's small world: what a scene may hold, and how scenes are drawn.

A scene is a background and one to five shapes, each in a cell of a grid that depends on the picture's aspect: 3 x 3 for
pictures near a square, a row of three for wide ones and a column of three for tall ones. Everything is drawn from a
seeded random generator, so that the same seed gives the same picture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

SHAPES = ("circle", "square", "triangle", "star", "heart")
SIZES = ("small", "large")
COLOURS = {
    "red": (214, 32, 38),
    "green": (38, 160, 62),
    "blue": (36, 78, 214),
    "yellow": (246, 218, 40),
    "purple": (132, 48, 168),
    "orange": (246, 134, 24),
    "black": (18, 18, 20),
    "white": (248, 248, 246),
}
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (12, 12, 14),
    "grey": (138, 138, 140),
    "pink": (248, 184, 206),
    "brown": (112, 72, 44),
    "cyan": (142, 226, 232),
}
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the center", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
ALL_PLACES = tuple(place for row in PLACES for place in row)
STRIP_ASPECT = 1.5  # beyond this a picture holds one row (or column) of three cells


@dataclass(frozen=True)
class Thing:
    """One shape of a scene. row, column: its cell, 0 to 2 each."""

    shape: str
    colour: str
    size: str
    row: int
    column: int

    @property
    def place(self) -> str:
        return PLACES[self.row][self.column]


@dataclass(frozen=True)
class Scene:
    """What a picture shows; things are in reading order. An empty tuple of things is a picture outside the world."""

    things: tuple[Thing, ...]
    background: str
    aspect: float  # width over height

    def flipped(self) -> Scene:
        """The scene seen in a mirror."""
        things = (replace(thing, column=2 - thing.column) for thing in self.things)
        return replace(self, things=tuple(sorted(things, key=lambda t: (t.row, t.column))))

    def held_out(self) -> bool:
        """Whether this combination of objects is kept out of training: a tenth of all, chosen by hash."""
        objects = sorted(f"{t.size} {t.colour} {t.shape}" for t in self.things)
        return hashlib.blake2b("; ".join(objects).encode(), digest_size=2).digest()[0] < 26


OUTSIDE = Scene((), "none", 1.0)


def random_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """A scene of one to five shapes whose combination is, or is not, one of those kept out of training."""
    while True:
        scene = _any_scene(rng)
        if scene.held_out() == held_out:
            return scene


def _any_scene(rng: np.random.Generator) -> Scene:
    aspect = float(np.exp(rng.uniform(-np.log(3), np.log(3)))) if rng.random() < 0.6 else 1.0
    rows = [1] if aspect > STRIP_ASPECT else [0, 1, 2]
    columns = [1] if aspect < 1 / STRIP_ASPECT else [0, 1, 2]
    cells = [(row, column) for row in rows for column in columns]
    count = int(rng.integers(1, min(5, len(cells)) + 1))
    background = str(rng.choice(list(BACKGROUNDS)))
    palette = [colour for colour in COLOURS if colour != background]
    if rng.random() < 0.35:  # few colours and few shapes make counting and telling apart worth learning
        palette = [str(c) for c in rng.choice(palette, 2, replace=False)]
    shapes = [str(s) for s in rng.choice(SHAPES, 2, replace=False)] if rng.random() < 0.35 else list(SHAPES)
    chosen = sorted(cells[i] for i in rng.choice(len(cells), count, replace=False))
    things = tuple(
        Thing(str(rng.choice(shapes)), str(rng.choice(palette)), str(rng.choice(SIZES)), row, column)
        for row, column in chosen
    )
    return Scene(things, background, aspect)


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw(scene: Scene, rng: np.random.Generator, long_side: int | None = None) -> Pixels:
    """Draw a scene in a random style. Returns RGB uint8 (height, width, 3); the long side is 112 to 720 px."""
    long_side = long_side or int(rng.integers(112, 480 if rng.random() < 0.85 else 720))
    width = long_side if scene.aspect >= 1 else max(38, round(long_side * scene.aspect))
    height = long_side if scene.aspect < 1 else max(38, round(long_side / scene.aspect))
    canvas = _fill((height, width), _near(BACKGROUNDS[scene.background], rng, 8), rng)
    smooth = bool(rng.random() < 0.8)
    outline = rng.choice(["none", "dark", "contrast"], p=[0.6, 0.25, 0.15])
    for thing in scene.things:
        _draw_thing(canvas, thing, scene, rng, smooth, str(outline))
    return _finish(canvas, rng)


def _near(colour: tuple[int, int, int], rng: np.random.Generator, spread: float) -> NDArray[np.float32]:
    return np.clip(np.array(colour, np.float32) + rng.normal(0, spread, 3).astype(np.float32), 0, 255)


def _fill(size: tuple[int, int], colour: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A float canvas in one colour, at times with a slight gradient."""
    canvas = np.empty((*size, 3), np.float32)
    canvas[:] = colour
    if rng.random() < 0.3:
        down = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None] * rng.uniform(-1, 1)
        across = np.linspace(-1, 1, size[1], dtype=np.float32)[None] * rng.uniform(-1, 1)
        canvas += ((down + across) * 12)[..., None]
    return canvas


def outline_points(shape: str) -> NDArray[np.float64]:
    """A shape's outline as points (n, 2) of x, y in a circle of radius 1."""
    if shape == "circle":
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    if shape == "square":
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.86
    if shape == "triangle":
        return np.array([[0, -1], [0.98, 0.8], [-0.98, 0.8]])
    if shape == "star":
        angle = np.linspace(0, 2 * np.pi, 10, endpoint=False) - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.08, 0.44)
        return np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(angle) ** 3
    y = -(13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle))
    return np.stack([x, y - 2], 1) / 15.5


def _draw_thing(
    canvas: NDArray[np.float32], thing: Thing, scene: Scene, rng: np.random.Generator, smooth: bool, outline: str
) -> None:
    height, width = canvas.shape[:2]
    strip_w, strip_h = scene.aspect > STRIP_ASPECT, scene.aspect < 1 / STRIP_ASPECT
    cell_w, cell_h = (width if strip_h else width / 3), (height if strip_w else height / 3)
    side = min(cell_w, cell_h)
    radius = side * (rng.uniform(0.40, 0.46) if thing.size == "large" else rng.uniform(0.20, 0.26))
    slack = (side / 2 - radius) * 0.5
    x = (0 if strip_h else thing.column * cell_w) + cell_w / 2 + rng.uniform(-slack, slack)
    y = (0 if strip_w else thing.row * cell_h) + cell_h / 2 + rng.uniform(-slack, slack)
    turn = rng.uniform(-0.2, 0.2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = outline_points(thing.shape) @ rotation.T * radius + (x, y)
    fixed = np.round(points * 16).astype(np.int32)[None]
    line = cv2.LINE_AA if smooth else cv2.LINE_8
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, fixed, 255, line, 4)
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 2, 0)
    x1, y1 = np.ceil(points.max(0)).astype(int) + 3
    region = (slice(y0, y1), slice(x0, x1))
    alpha = (mask[region].astype(np.float32) / 255)[..., None]
    colour = _near(COLOURS[thing.colour], rng, 9)
    paint = _fill(canvas[region].shape[:2], colour, rng)
    canvas[region] = canvas[region] * (1 - alpha) + paint * alpha
    if outline != "none":
        thick = max(1, round(radius * 0.07))
        edge = colour * 0.55 if outline == "dark" else (255 - np.array(BACKGROUNDS[scene.background])) * 0.8
        cv2.polylines(canvas, fixed, True, [float(c) for c in edge], thick, line, 4)


def _finish(canvas: NDArray[np.float32], rng: np.random.Generator) -> Pixels:
    """Noise, a little blur, and the marks of JPEG at quality 60 to 100."""
    if rng.random() < 0.3:
        canvas = canvas + rng.normal(0, rng.uniform(1, 9), canvas.shape).astype(np.float32)
    pixels: Pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        pixels = cv2.GaussianBlur(pixels, (3, 3), 0)
    if rng.random() < 0.7:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 101))]
        _, data = cv2.imencode(".jpg", pixels[..., ::-1], quality)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    return np.ascontiguousarray(pixels)


# --- outside the world -----------------------------------------------------------------------------------------------


def draw_outside(rng: np.random.Generator) -> Pixels:
    """A picture outside the world: noise, a photograph-like texture, a pattern, scribbles, or a blank."""
    height, width = (int(n) for n in rng.integers(96, 360, 2))
    makers = (_noise, _texture, _texture, _pattern, _scribbles, _blank)
    canvas = makers[int(rng.integers(len(makers)))](height, width, rng)
    return _finish(canvas, rng)


def _noise(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    grain = int(rng.integers(1, 12))
    channels = 3 if rng.random() < 0.7 else 1
    small = rng.uniform(0, 255, (height // grain + 1, width // grain + 1, channels)).astype(np.float32)
    big = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.broadcast_to(big.reshape(height, width, channels), (height, width, 3)).copy()


def _texture(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise whose spectrum falls like a photograph's (1/f), in natural colours, at times under a sky."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** rng.uniform(0.8, 1.5)
    base, tint = rng.uniform(40, 210, 3), rng.uniform(-30, 30, 3)
    canvas = np.empty((height, width, 3), np.float32)
    shared = np.fft.irfft2(fall * np.fft.rfft2(rng.normal(size=(height, width))), (height, width))
    for channel in range(3):
        own = np.fft.irfft2(fall * np.fft.rfft2(rng.normal(size=(height, width))), (height, width))
        mixed = shared / shared.std() + 0.4 * own / own.std()
        canvas[..., channel] = base[channel] + rng.uniform(25, 60) * mixed
    if rng.random() < 0.3:
        horizon = int(rng.uniform(0.2, 0.8) * height)
        canvas[:horizon] += (np.linspace(60, 10, horizon)[:, None] + tint)[:, None]
    return canvas


def _pattern(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    period = rng.uniform(6, 40)
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    if rng.random() < 0.5:
        wave = wave * np.sin((x * np.sin(angle) - y * np.cos(angle)) * 2 * np.pi / period)
    if rng.random() < 0.5:
        wave = np.sign(wave)
    first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    return (first + (second - first) * (wave[..., None] + 1) / 2).astype(np.float32)


def _scribbles(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    canvas = _fill((height, width), rng.uniform(0, 255, 3).astype(np.float32), rng)
    for _ in range(int(rng.integers(4, 30))):
        points = np.stack([rng.uniform(0, width, 4), rng.uniform(0, height, 4)], 1).astype(np.int32)
        cv2.polylines(canvas, [points], False, rng.uniform(0, 255, 3).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return canvas


def _blank(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    known = [*BACKGROUNDS.values(), *COLOURS.values()]
    colour = known[int(rng.integers(len(known)))] if rng.random() < 0.7 else tuple(rng.integers(0, 256, 3))
    return _fill((height, width), _near(colour, rng, 6), rng)  # type: ignore[arg-type]
