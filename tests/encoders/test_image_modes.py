"""Colour modes and orientation: what each pixel becomes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import picture_files as files
import pytest
from PIL import Image, ImageOps

from encoders import VisionSpec, load_image
from encoders.errors import ImageError

BACKGROUND = (10, 20, 30)
DEEP = "more than 8 bits per channel, reduced to 8"
CLEAR = f"transparent pixels shown over {BACKGROUND}"


def shown(source: Any) -> tuple[list[Any], tuple[str, ...]]:
    """The pixels of the first row, and the notes."""
    picture = load_image(source, background=BACKGROUND)
    return picture.pixels[0].tolist(), picture.notes


def over(value: int, alpha: int) -> list[int]:
    """A grey value laid over the background, as exact numbers have it."""
    return [int((value * alpha + behind * (255 - alpha)) / 255 + 0.5) for behind in BACKGROUND]


def grey(*values: int) -> list[list[int]]:
    return [[value] * 3 for value in values]


RED_GREEN = (b"PLTE", bytes([255, 0, 0, 0, 255, 0]))
PNGS = {
    "1 bit": (files.png(3, 1, 1, 0, [b"\xa0"]), grey(255, 0, 255), ()),
    "2 bits": (files.png(4, 1, 2, 0, [b"\x1b"]), grey(0, 85, 170, 255), ()),
    "4 bits": (files.png(2, 1, 4, 0, [b"\x1f"]), grey(17, 255), ()),
    "8 bits": (files.png(2, 1, 8, 0, [b"\x01\xfe"]), grey(1, 254), ()),
    "16 bits, to nearest": (
        files.png(5, 1, 16, 0, [struct.pack(">5H", 0, 128, 129, 257 * 100, 65535)]),
        grey(0, 0, 1, 100, 255),
        (DEEP,),
    ),
    "RGB": (files.png(1, 1, 8, 2, [b"\x01\x02\x03"]), [[1, 2, 3]], ()),
    "RGB of 16 bits": (files.png(1, 1, 16, 2, [b"\x01\x09\x02\x09\xff\xff"]), [[1, 2, 255]], ()),
    "palette": (files.png(3, 1, 8, 3, [b"\0\1\0"], RED_GREEN), [[255, 0, 0], [0, 255, 0], [255, 0, 0]], ()),
    "palette of 1 bit": (files.png(2, 1, 1, 3, [b"\x40"], RED_GREEN), [[255, 0, 0], [0, 255, 0]], ()),
    "grey and alpha": (
        files.png(3, 1, 8, 4, [b"\x64\x00\x64\x80\x64\xff"]),
        [list(BACKGROUND), over(100, 128), [100] * 3],
        (CLEAR,),
    ),
    "RGBA": (files.png(2, 1, 8, 6, [b"\x01\x02\x03\xff\x64\x64\x64\x40"]), [[1, 2, 3], over(100, 64)], (CLEAR,)),
    "RGBA, all opaque": (files.png(1, 1, 8, 6, [b"\x01\x02\x03\xff"]), [[1, 2, 3]], ()),
    "RGBA of 16 bits": (files.png(1, 1, 16, 6, [b"\x64\0\x64\0\x64\0\x80\0"]), [over(100, 128)], (CLEAR,)),
    # A colour, or a palette's entries, may be said to be transparent.
    "clear 1 bit": (files.png(2, 1, 1, 0, [b"\x40"], (b"tRNS", b"\0\1")), [[0] * 3, list(BACKGROUND)], (CLEAR,)),
    "clear 2 bits": (files.png(2, 1, 2, 0, [b"\x60"], (b"tRNS", b"\0\2")), [[85] * 3, list(BACKGROUND)], (CLEAR,)),
    "clear 4 bits": (files.png(2, 1, 4, 0, [b"\x1f"], (b"tRNS", b"\0\x0f")), [[17] * 3, list(BACKGROUND)], (CLEAR,)),
    "clear 8 bits": (
        files.png(2, 1, 8, 0, [b"\x0f\xf0"], (b"tRNS", b"\0\x0f")),
        [list(BACKGROUND), [240] * 3],
        (CLEAR,),
    ),
    "clear 16 bits": (
        files.png(2, 1, 16, 0, [struct.pack(">2H", 300, 25700)], (b"tRNS", struct.pack(">H", 300))),
        [list(BACKGROUND), [100] * 3],
        (DEEP, CLEAR),
    ),
    "clear RGB": (
        files.png(2, 1, 8, 2, [b"\1\2\3\4\5\6"], (b"tRNS", b"\0\1\0\2\0\3")),
        [list(BACKGROUND), [4, 5, 6]],
        (CLEAR,),
    ),
    "clear RGB of 16 bits": (
        files.png(
            2, 1, 16, 2, [struct.pack(">6H", 300, 600, 900, 65535, 0, 0)], (b"tRNS", struct.pack(">3H", 300, 600, 900))
        ),
        [list(BACKGROUND), [255, 0, 0]],
        (CLEAR,),
    ),
    "clear palette": (
        files.png(2, 1, 8, 3, [b"\0\1"], (b"PLTE", bytes([100] * 6)), (b"tRNS", b"\x80\x00")),
        [over(100, 128), list(BACKGROUND)],
        (CLEAR,),
    ),
}


@pytest.mark.parametrize("mode", PNGS)
def test_each_png_mode_becomes_rgb(mode: str) -> None:
    data, pixels, notes = PNGS[mode]
    assert shown(data) == (pixels, notes)


TIFFS = {
    "8 bits": (files.grey_tiff(b"\x01\xfe", 2, 1), grey(1, 254), ()),
    "0 is white": (files.grey_tiff(b"\x01\xfe", 2, 1, zero_is_black=False), grey(254, 1), ()),
    "16 bits": (files.grey_tiff(struct.pack("<2H", 25700, 65535), 2, 1, 16), grey(100, 255), (DEEP,)),
    "16 bits, big-endian": (
        files.grey_tiff(struct.pack(">2H", 25700, 65535), 2, 1, 16, order=">"),
        grey(100, 255),
        (DEEP,),
    ),
    "16 bits, 0 is white": (
        files.grey_tiff(struct.pack("<2H", 25700, 65535), 2, 1, 16, zero_is_black=False),
        grey(155, 0),
        (DEEP,),
    ),
    "BigTIFF": (files.grey_tiff(b"\x01\xfe", 2, 1, big=True), grey(1, 254), ()),
    "BigTIFF, big-endian": (files.grey_tiff(b"\x01\xfe", 2, 1, big=True, order=">"), grey(1, 254), ()),
}


@pytest.mark.parametrize("mode", TIFFS)
def test_each_tiff_mode_becomes_rgb(mode: str) -> None:
    data, pixels, notes = TIFFS[mode]
    assert shown(data) == (pixels, notes)


def test_a_tiff_with_odd_fields_is_read_without_a_warning() -> None:
    # Pillow warns of a field with more values than it may have, and of one that points past the end of the file.
    fields = [(256, 3, [2, 7, 7, 7]), (257, 3, [1]), (258, 3, [8]), (259, 3, [1]), (262, 3, [1]), (273, 4, [16])]
    fields += [(277, 3, [1]), (278, 3, [1]), (279, 4, [2])]
    odd = bytearray(files.tiff([*fields, (700, 1, [1] * 9)], b"\x01\xfe"))
    at = odd.index(struct.pack("<HHI", 700, 1, 9))
    odd[at + 8 : at + 12] = struct.pack("<I", 10**9)
    assert shown(bytes(odd)) == (grey(1, 254), ())


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("L", 7, [7, 7, 7]),
        ("1", 1, [255, 255, 255]),
        ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
        ("CMYK", (0, 0, 0, 255), [0, 0, 0]),
        ("HSV", (0, 0, 200), [200, 200, 200]),
        ("YCbCr", (90, 128, 128), [90, 90, 90]),
        ("RGBA", (100, 100, 100, 64), over(100, 64)),
        ("LA", (100, 64), over(100, 64)),
        ("RGBa", (25, 25, 25, 64), over(100, 64)),
        ("RGBX", (1, 2, 3, 0), [1, 2, 3]),
        ("I;16", 25700, [100, 100, 100]),
        ("I", 25700, [100, 100, 100]),
        ("F", 0.5, [128, 128, 128]),
    ],
)
def test_each_pil_mode_becomes_rgb(mode: str, pixel: Any, expected: list[int]) -> None:
    pixels, _ = shown(Image.new(mode, (2, 1), pixel))
    assert np.abs(np.array(pixels) - expected).max() <= (1 if mode == "RGBa" else 0)  # RGBa has lost precision itself.


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.new("LAB", (2, 2)), "colour mode 'LAB' is not read"),
        (Image.new("I", (2, 2), 70_000), "from 70000 to 70000; at most 16 bits"),
        (Image.new("I", (2, 2), -1), "from -1 to -1; at most 16 bits"),
        (Image.new("F", (2, 2), 1.5), "must be from 0 to 1; these are from 1.5 to 1.5"),
        (Image.new("F", (2, 2), float("nan")), "must be from 0 to 1"),
        (Image.new("RGB", (0, 2)), "0 x 2 pixels; there is nothing to see"),
    ],
)
def test_a_pil_image_without_a_plain_way_to_rgb_is_refused(picture: Image.Image, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        load_image(picture)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_files_keep_their_colours(kind: str) -> None:
    data = files.encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind)
    pixels, notes = shown(data)
    assert np.abs(np.array(pixels) - [255, 0, 0]).max() <= 3
    assert notes == ("CMYK, converted without its colour profile",)


def test_a_transparent_gif_and_webp_are_shown_over_the_background() -> None:
    gif = Image.new("P", (4, 4), 1)
    gif.putpalette([0, 0, 0, 9, 9, 9])
    assert shown(files.encoded(gif, "GIF", transparency=1)) == ([list(BACKGROUND)] * 4, (CLEAR,))
    webp = Image.new("RGBA", (1, 1), (100, 100, 100, 64))
    assert shown(files.encoded(webp, "WebP", lossless=True, exact=True)) == ([over(100, 64)], (CLEAR,))


def test_the_background_is_the_specs_unless_given() -> None:
    clear = Image.new("RGBA", (1, 1))
    spec = VisionSpec(height=1, width_px=1, tokens=1, width=1, background=(1, 2, 3))
    assert load_image(clear).pixels.tolist() == [[[127, 127, 127]]]
    assert load_image(clear, needed=spec).pixels.tolist() == [[[1, 2, 3]]]
    assert load_image(clear, needed=spec, background=(4, 5, 6)).pixels.tolist() == [[[4, 5, 6]]]


def test_a_large_picture_is_converted_as_a_small_one_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1000, 4), np.uint8)  # More than one band.
    whole = load_image(Image.fromarray(pixels), background=BACKGROUND)
    alpha = pixels[:, :, 3:].astype(float)
    exact = (pixels[:, :, :3] * alpha + np.array(BACKGROUND) * (255 - alpha)) / 255
    assert np.abs(whole.pixels - exact).max() <= 0.5
    assert np.array_equal(load_image(pixels, background=BACKGROUND).pixels, whole.pixels)


# --- Arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[7, 8]], np.uint8), grey(7, 8)),
        (np.array([[[7], [8]]], np.uint8), grey(7, 8)),
        (np.array([[[1, 2, 3]]], np.uint8), [[1, 2, 3]]),
        (np.array([[[100, 100, 100, 64]]], np.uint8), [over(100, 64)]),
        (np.array([[False, True]]), grey(0, 255)),
        (np.array([[25700, 65535]], np.uint16), grey(100, 255)),
        (np.array([[25700, 65535]], ">u2"), grey(100, 255)),
        (np.array([[0, 0.5, 1]], np.float32), grey(0, 128, 255)),
        (np.array([[[0.2, 0.4, 1]]], np.float64), [[51, 102, 255]]),
        (np.array([[1, 0]], np.float16), grey(255, 0)),
    ],
)
def test_each_kind_of_array_becomes_rgb(array: Any, expected: list[Any]) -> None:
    assert shown(array)[0] == expected


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 2), np.int64), "dtype is int64; give uint8"),
        (np.zeros((2, 2), np.int8), "dtype is int8"),
        (np.zeros((2, 2), np.uint32), "dtype is uint32"),
        (np.zeros((2, 2), np.complex64), "dtype is complex64"),
        (np.full((2, 2), None), "dtype is object"),
        (np.array([["a"]]), "dtype is <U1"),
        (np.zeros(4, np.uint8), r"shape is \(4,\)"),
        (np.array(4, np.uint8), r"shape is \(\)"),
        (np.zeros((3, 8, 9), np.uint8), r"shape is \(3, 8, 9\); a picture is \(height, width\)"),
        (np.zeros((1, 8, 9, 3), np.uint8), r"shape is \(1, 8, 9, 3\)"),
        (np.zeros((8, 9, 2), np.uint8), r"shape is \(8, 9, 2\)"),
        (np.zeros((0, 9, 3), np.uint8), "9 x 0 pixels; there is nothing to see"),
        (np.full((2, 2), np.nan), "must be from 0 to 1; these are from nan to nan"),
        (np.array([[0, np.inf]]), "from 0 to inf"),
        (np.array([[0, 255.0]]), "from 0 to 255"),
        (np.array([[-0.1, 1]]), "from -0.1 to 1"),
    ],
)
def test_another_array_is_refused_in_words(array: Any, reason: str) -> None:
    with pytest.raises(ImageError, match=f"the given array: .*{reason}"):
        load_image(array)


# --- Orientation -----------------------------------------------------------------------------------------------------


def turned(upright: Image.Image, orientation: int) -> Image.Image:
    """The picture as a camera held that way would store it."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transposes that undo it, of Image.Transpose.
    return upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "PIL"])
def test_a_picture_is_turned_upright(kind: str, orientation: int) -> None:
    upright = files.scene(64, 48)
    stored = turned(upright, orientation)
    if kind == "PIL":
        source: Any = stored.copy()
        source.info["exif"] = b"Exif\0\0" + files.exif(orientation)
        assert np.array_equal(ImageOps.exif_transpose(source), upright)
    else:
        source = files.orientation_savers()[kind](stored, orientation)
    picture = load_image(source)
    assert picture.size == (48, 64)
    assert picture.pixels.flags.c_contiguous
    difference = np.abs(picture.pixels.astype(int) - np.asarray(upright)).mean()
    assert difference < (3 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_picture_is_turned_together_with_its_box(orientation: int) -> None:
    data = files.orientation_savers()["JPEG"](turned(files.scene(405, 307), orientation), orientation)
    spec = VisionSpec(height=45, width_px=45, tokens=1, width=1)
    picture = load_image(data, needed=spec)
    assert picture.size == (307, 405)
    assert picture.pixels.shape == (77, 102, 3)
    left, top, right, bottom = picture.box
    assert (right - left, bottom - top) == (405 / 4, 307 / 4)
    # The part of a pixel that is too much lies where the right and lower edge of the stored picture have come to.
    assert (left > 0) == (orientation in {2, 3, 6, 7})
    assert (top > 0) == (orientation in {3, 4, 7, 8})


@pytest.mark.parametrize(
    "rubbish", [b"", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", files.exif(0), files.exif(9), b"\xff" * 40]
)
def test_rubbish_in_exif_leaves_the_picture_as_it_is(rubbish: bytes) -> None:
    data = files.encoded(files.scene(), "JPEG", exif=b"Exif\0\0" + rubbish)
    assert load_image(data).size == (48, 64)
