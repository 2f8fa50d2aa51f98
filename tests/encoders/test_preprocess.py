"""fit_image: where the picture comes to lie, what its pixels become, and what reduced decoding costs."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import picture_files as files
import pytest
from PIL import Image

from encoders import VisionSpec, fit_image, load_image, picture_area
from encoders.errors import ImageError
from vlm.bench.preprocess import PreprocessResult, best, demo, draw_jpeg, ours, psnr, report, run

BACKGROUND = (10, 20, 30)


def spec(height: int, width: int, fit: Any = "pad") -> VisionSpec:
    return VisionSpec(height=height, width_px=width, tokens=1, width=1, fit=fit, background=BACKGROUND)


# --- Geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "area"),
    [
        ((300, 400), (6, 0, 36, 48)),
        ((400, 300), (0, 6, 48, 36)),
        ((100, 100), (0, 0, 48, 48)),
        ((10, 10), (0, 0, 48, 48)),
        ((12, 16), (6, 0, 36, 48)),
        ((1, 5000), (23, 0, 1, 48)),
        ((5000, 1), (0, 23, 48, 1)),
        ((97, 100), (0, 0, 47, 48)),
    ],
)
def test_padding_centres_the_whole_picture(size: tuple[int, int], area: tuple[int, int, int, int]) -> None:
    top, left, height, width = area
    assert picture_area(size, spec(48, 48)) == area
    fitted = fit_image(np.full((*size, 3), 200, np.uint8), spec(48, 48))
    assert fitted.shape == (1, 48, 48, 3)
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    inside = np.zeros((48, 48), bool)
    inside[top : top + height, left : left + width] = True
    # Resized before padding: the picture's edge holds nothing of the background, nor the background of the picture.
    assert (fitted[0][inside] == 200).all()
    assert (fitted[0][~inside] == BACKGROUND).all()


def test_an_input_that_is_no_square_is_filled_by_its_own_shape() -> None:
    assert picture_area((100, 200), spec(56, 112)) == (0, 0, 56, 112)
    assert picture_area((100, 100), spec(56, 112)) == (0, 28, 56, 56)


@pytest.mark.parametrize("fit", ["stretch", "crop"])
@pytest.mark.parametrize("size", [(300, 400), (400, 300), (10, 10), (1, 5000), (48, 48)])
def test_stretching_and_cropping_leave_no_background(fit: str, size: tuple[int, int]) -> None:
    assert picture_area(size, spec(48, 36, fit)) == (0, 0, 48, 36)
    fitted = fit_image(np.full((*size, 3), 200, np.uint8), spec(48, 36, fit))
    assert fitted.shape == (1, 48, 36, 3)
    assert (fitted == 200).all()


def test_stretching_shows_all_of_the_picture_and_cropping_its_middle() -> None:
    thirds = np.zeros((60, 180, 3), np.uint8)
    thirds[:, :60], thirds[:, 60:120], thirds[:, 120:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stretched = fit_image(thirds, spec(30, 30, "stretch"))[0]
    assert (stretched[15, [2, 15, 27]] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]).all()
    assert (fit_image(thirds, spec(30, 30, "crop"))[0, :, 3:-3] == [0, 255, 0]).all()
    upright = thirds.swapaxes(0, 1)
    assert (fit_image(upright, spec(30, 30, "crop"))[0, 3:-3] == [0, 255, 0]).all()


# --- Values ----------------------------------------------------------------------------------------------------------


def bicubic_row(row: Any, size: int) -> Any:
    """An antialiased bicubic resize of one row of numbers, written out: Keys' kernel, widened when shrinking."""
    scale = len(row) / size
    support = max(scale, 1)
    out = []
    for index in range(size):
        x = np.abs((np.arange(len(row)) + 0.5 - (index + 0.5) * scale) / support)
        weights = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        out.append((weights * row).sum() / weights.sum())
    return np.clip(out, 0, 255)


@pytest.mark.parametrize("size", [7, 24, 48, 96])
def test_resizing_is_antialiased_bicubic(size: int) -> None:
    row = np.random.default_rng(3).integers(0, 256, 48).astype(np.uint8)
    picture = np.broadcast_to(row[None, :, None], (48, 48, 3)).copy()
    fitted = fit_image(picture, spec(size, size))[0]
    assert np.abs(fitted[0, :, 0] - bicubic_row(row.astype(float), size)).max() <= 1


def test_the_filter_is_the_specs() -> None:
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    for name, filter_ in (("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)):
        expected = np.asarray(Image.fromarray(picture).resize((48, 32), filter_))
        wanted = dataclasses.replace(spec(32, 48, "stretch"), filter=name)  # type: ignore[arg-type]
        assert (fit_image(picture, wanted)[0] == expected).all()


@pytest.mark.parametrize("period", [2, 3, 5])
def test_detail_too_fine_to_show_becomes_its_mean_and_no_pattern(period: int) -> None:
    stripes = (np.arange(1000) % period == 0).astype(np.uint8) * 250
    picture = np.broadcast_to(stripes[None, :, None], (1000, 1000, 3)).copy()
    fitted = fit_image(picture, spec(64, 64))[0]
    assert np.abs(fitted[:, 2:-2].astype(float) - 250 / period).max() <= 1  # At the edges the filter is cut off.


def test_a_picture_of_the_right_size_is_passed_on_without_a_copy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    fitted = fit_image(load_image(pixels), spec(48, 48))
    assert np.shares_memory(fitted, pixels)
    assert np.array_equal(fitted[0], pixels)


def test_a_picture_and_its_pixels_fit_alike() -> None:
    picture = load_image(files.scene(90, 70))
    for fit in ("pad", "stretch", "crop"):
        assert np.array_equal(fit_image(picture, spec(32, 48, fit)), fit_image(picture.pixels, spec(32, 48, fit)))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(pixels: Any) -> None:
    with pytest.raises(ImageError, match=r"must be uint8 of shape \(height, width, 3\); got (uint8|float32) \("):
        fit_image(pixels, spec(8, 8))


# --- Reduced decoding ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def textured() -> bytes:
    return draw_jpeg(1500, 2000)


def area_psnr(first: Any, second: Any, size: tuple[int, int], wanted: VisionSpec) -> float:
    top, left, height, width = picture_area(size, wanted)
    part = (0, slice(top, top + height), slice(left, left + width))
    return psnr(first[part], second[part])


def reencoded(jpeg: bytes, width: int = 2000, height: int = 1500, **options: Any) -> bytes:
    with Image.open(io.BytesIO(jpeg)) as drawn:
        return files.encoded(drawn.crop((0, 0, width, height)), "JPEG", quality=90, **options)


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_a_reduced_jpeg_looks_like_one_decoded_whole(textured: bytes, fit: str, subsampling: str) -> None:
    data = reencoded(textured, subsampling=subsampling)
    whole = load_image(data)
    for side in (249, 224, 150, 60):
        wanted = spec(side, side, fit)
        reduced = fit_image(load_image(data, needed=wanted), wanted)
        assert area_psnr(reduced, fit_image(whole, wanted), (1500, 2000), wanted) >= 47, side


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_sides_that_do_not_divide_cost_nothing(textured: bytes, orientation: int, fit: str) -> None:
    # 1997 / 4 and 1499 / 4 leave parts of pixels; taking them for whole ones would shift the picture: 35 dB.
    data = reencoded(textured, 1997, 1499, subsampling=0, exif=b"Exif\0\0" + files.exif(orientation))
    wanted = spec(160, 160, fit)
    reduced, whole = load_image(data, needed=wanted), load_image(data)
    assert reduced.pixels.shape[0] * 4 in {reduced.size[0] + 1, reduced.size[0] + 3}
    assert area_psnr(fit_image(reduced, wanted), fit_image(whole, wanted), reduced.size, wanted) >= 47


# --- The benchmark ---------------------------------------------------------------------------------------------------


def test_the_benchmarks_ways_differ_in_quality_as_it_says() -> None:
    drawn = draw_jpeg(2700, 600)
    assert draw_jpeg(300, 100) == draw_jpeg(300, 100) != draw_jpeg(300, 100, seed=1)
    for way in (ours, demo, best):
        assert way(drawn).shape == (1, 448, 448, 3)
    assert load_image(drawn, needed=spec(448, 448)).notes == ("decoded at 1/2 of its size",)
    assert psnr(ours(drawn), best(drawn)) >= 47
    assert psnr(demo(drawn), best(drawn)) < 40
    assert psnr(best(drawn), best(drawn)) == float("inf")


def test_the_report_shows_both_times_and_both_aims() -> None:
    text = report(PreprocessResult(ours_ms=50.04, demo_ms=100.0, ratio=1.996, psnr_db=49.44))
    for words in ("50.0 ms", "100.0 ms", "2.00 times  (aim: at least 1.7)", "49.4 dB     (aim: at least 47)"):
        assert words in text


@pytest.mark.slow
def test_twelve_megapixels_keep_47_decibels() -> None:
    result = run(1)
    assert result.psnr_db >= 47
    assert result.ratio == pytest.approx(result.demo_ms / result.ours_ms)
