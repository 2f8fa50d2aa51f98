"""load_image: sources, limits, hashes, frames, reduced scale, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import picture_files as files
import pytest
from PIL import Image, ImageFile

from encoders import ImageLimits, VisionSpec, load_image, read_image
from encoders.errors import ImageError, ImageTooLargeError


def pixels_of(picture: Image.Image) -> Any:
    return np.asarray(picture.convert("RGB"))


# --- Sources ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    scene = files.scene()
    data = files.encoded(scene, "PNG")
    path = tmp_path / "scene.png"
    path.write_bytes(data)
    with path.open("rb") as opened, Image.open(path) as lazy:
        sources: list[Any] = [data, bytearray(data), memoryview(data), str(path), path, opened, io.BytesIO(data)]
        sources += [lazy, scene, np.asarray(scene)]
        pictures = [load_image(source) for source in sources]
    for picture in pictures:
        assert np.array_equal(picture.pixels, pixels_of(scene))
        assert picture.pixels.flags.c_contiguous
        assert not picture.pixels.flags.writeable
        assert (picture.size, picture.frames, picture.notes) == ((48, 64), 1, ())
        assert picture.box == (0, 0, 64, 48)
    # The hash is of the file's bytes where there is a file, of the pixels where there is none.
    assert {picture.content_hash for picture in pictures[:7]} == {hashlib.sha256(data).hexdigest()}
    assert len({picture.content_hash for picture in pictures[7:]}) == 1


def test_a_file_is_read_and_hashed_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "scene.gif"
    path.write_bytes(files.encoded(files.scene(), "PNG"))
    read = read_image(path)
    assert read is not None
    assert read_image(read) is read
    whole = load_image(path)
    path.unlink()
    later = load_image(read)
    assert read.content_hash == later.content_hash == whole.content_hash
    assert np.array_equal(later.pixels, whole.pixels)
    assert later.notes == whole.notes == ("the name ends in .gif, the content is PNG",)
    assert read_image(whole.pixels) is read_image(files.scene()) is None


def test_what_is_no_picture_is_read_and_refused_later_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "words.jpg"
    path.write_text("no picture")
    read = read_image(path)
    assert read is not None
    with pytest.raises(ImageError) as late:
        load_image(read)
    with pytest.raises(ImageError) as once:
        load_image(path)
    assert str(late.value) == str(once.value)
    assert str(late.value).count("words.jpg") == 1
    with pytest.raises(ImageError, match="there is no such file"):
        read_image(tmp_path / "gone.jpg")


def test_the_hash_of_pixels_depends_on_pixels_and_shape() -> None:
    flat = np.arange(36, dtype=np.uint8)
    shapes = [(3, 4, 3), (4, 3, 3), (2, 6, 3), (1, 12, 3)]
    hashes = {load_image(flat.reshape(shape)).content_hash for shape in shapes}
    hashes.add(load_image((flat + 1).reshape(3, 4, 3)).content_hash)
    assert len(hashes) == 5


def test_an_rgb_array_is_used_without_a_copy_and_left_as_it_is() -> None:
    array = np.zeros((5, 7, 3), np.uint8)
    picture = load_image(array)
    assert np.shares_memory(picture.pixels, array)
    array[0, 0] = 9  # Read-only is the picture's view, not the array.
    assert load_image(array[:, ::-1]).pixels.flags.c_contiguous


def test_a_pil_image_is_left_as_it_is() -> None:
    picture = files.scene().convert("P")
    before = (picture.mode, picture.tobytes())
    load_image(picture)
    assert (picture.mode, picture.tobytes()) == before


def test_a_file_object_is_read_from_where_it_stands() -> None:
    data = files.encoded(files.scene(), "GIF")
    stream = io.BytesIO(b"before" + data)
    stream.seek(6)
    assert load_image(stream).size == (48, 64)
    with pytest.raises(ImageError, match="read to its end already"):
        load_image(stream)


def test_a_pipe_is_read() -> None:
    data = files.encoded(files.scene(), "BMP")
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as writer:
        writer.write(data)
    with os.fdopen(reading, "rb", buffering=0) as reader:
        assert load_image(reader).size == (48, 64)


class Broken(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        raise OSError("the cable was pulled")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "a NoneType is not a picture source"),
        (3.5, "a float is not a picture source"),
        ([[0, 1], [2, 3]], "a list is not a picture source"),
        ("https://example.org/cat.jpg", "a web address, not a path"),
        ("no/such/file.jpg", "no such file"),
        ("a\0b.jpg", "cannot be read: embedded null"),
        ("x" * 5000, "cannot be read: File name too long"),
        (os.curdir, "a directory, not a picture file"),
        (io.StringIO("text"), r"its read\(\) gives str, not bytes; open the file with mode 'rb'"),
        (Broken(), "the cable was pulled"),
        (b"", "the file is empty"),
        (memoryview(b""), "the file is empty"),
        (io.BytesIO(), "it is empty"),
    ],
)
def test_what_is_no_source_is_refused_in_words(source: Any, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        load_image(source)
    assert len(str(caught.value)) < 500


def test_a_closed_and_an_unreadable_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    path.write_bytes(files.encoded(files.scene(), "PNG"))
    with path.open("rb") as closed:
        pass
    with pytest.raises(ImageError, match="closed file"):
        load_image(closed)
    path.chmod(0)
    if not os.access(path, os.R_OK):  # The administrator reads any file.
        with pytest.raises(ImageError, match="Permission denied"):
            load_image(path)


def test_the_format_is_told_by_content_and_the_name_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "scene.PNG"
    path.write_bytes(files.encoded(files.scene(), "JPEG"))
    assert load_image(path).notes == ("the name ends in .png, the content is JPEG",)
    right = tmp_path / "scene.jpeg"
    right.write_bytes(path.read_bytes())
    assert load_image(right).notes == ()


OTHERS = {"HEIC": "HEIC", "AVIF": "AVIF", "MP4": "MP4", "JPEG XL": "JPEG XL", "PSD": "Photoshop", "PDF": "PDF"}
OTHERS |= {"SVG": "SVG", "HTML": "web page", "ICO": "icon", "PNM": "PNM", "DNG": "DNG", "LFS": "git lfs pull"}
OTHERS |= {"AVI": "'AVI '", "base64": "base64", "text": "begins with 61 20 70"}


@pytest.mark.parametrize("name", OTHERS)
def test_another_format_is_refused_by_its_name(name: str) -> None:
    data = dict(files.not_pictures())[name]
    with pytest.raises(ImageError, match=OTHERS[name]):
        load_image(data)


# --- Limits ----------------------------------------------------------------------------------------------------------


def test_each_limit_holds_for_files_arrays_and_pil_images() -> None:
    scene = files.scene(64, 48)
    data = files.encoded(scene, "PNG")
    sources: list[Any] = [data, scene, np.asarray(scene)]
    for source in sources:
        load_image(source, limits=ImageLimits(max_bytes=len(data), max_pixels=64 * 48, max_side=64))
        with pytest.raises(ImageTooLargeError, match=r"64 x 48 = 3072 pixels, and the limit is 3071 \(max_pixels\)"):
            load_image(source, limits=ImageLimits(max_pixels=64 * 48 - 1))
        with pytest.raises(ImageTooLargeError, match=r"64 x 48 pixels, and the limit is 63 a side \(max_side\)"):
            load_image(source, limits=ImageLimits(max_side=63))


def test_bytes_over_the_limit_are_not_read(tmp_path: Path) -> None:
    data = files.encoded(files.scene(), "PNG")
    path = tmp_path / "scene.png"
    path.write_bytes(data)
    limits = ImageLimits(max_bytes=len(data) - 1)
    for source in (data, path, io.BytesIO(data)):
        with pytest.raises(ImageTooLargeError, match=r"\(max_bytes\)"):
            load_image(source, limits=limits)

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            Endless.given += size
            return bytes(size)

    with pytest.raises(ImageTooLargeError, match="limit is 1000"):
        load_image(Endless(), limits=ImageLimits(max_bytes=1000))  # type: ignore[arg-type]
    assert Endless.given == 1001


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    data = files.encoded(files.scene(), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    load_image(data[:scan] + data[scan:-2] * 50 + data[-2:])
    with pytest.raises(ImageError, match="the JPEG has 5009 scans, and more than 100 are not read"):
        load_image(data[:scan] + data[scan:-2] * 5000 + data[-2:])


def test_the_limits_are_frozen_and_positive() -> None:
    limits = ImageLimits()
    with pytest.raises(ValueError, match="frozen"):
        limits.max_side = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="greater than 0"):
        ImageLimits(max_pixels=0)
    with pytest.raises(ValueError, match="not permitted"):
        ImageLimits(max_colours=3)  # type: ignore[call-arg]


def test_pillows_own_limit_neither_counts_nor_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Above it, Pillow would warn; above twice, refuse.
    for kind in ("JPEG", "PNG", "BMP", "GIF"):
        assert load_image(files.encoded(files.scene(), kind)).size == (48, 64)
    with pytest.raises(ImageTooLargeError, match="Pillow's own limit for TIFF is 100"):  # Its decoder asks for it.
        load_image(files.encoded(files.scene(), "TIFF"))
    assert Image.MAX_IMAGE_PIXELS == 100


def test_threads_do_not_disturb_each_other() -> None:
    cases = list(files.every_mode())
    expected = [outcome(data) for _, data in cases]
    found: list[list[str]] = []

    def work() -> None:
        found.append([outcome(data) for _, data in cases])

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


def outcome(data: bytes) -> str:
    try:
        return hashlib.sha256(load_image(data).pixels.data).hexdigest()
    except ImageError as exc:
        return str(exc)


# --- Frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WebP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_used_and_said(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WebP" else {}
    picture = load_image(files.encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (picture.pixels == [255, 0, 0]).all()
    assert picture.frames == 3
    (note,) = picture.notes
    assert note == f"{kind} with 3 {'pages' if kind == 'TIFF' else 'frames'}, of which the first is used"


def test_a_gif_whose_frame_reaches_beyond_the_screen_is_enlarged() -> None:
    data = files.encoded(files.scene().convert("P"), "GIF")
    small = data[:6] + bytes((10, 0, 10, 0)) + data[10:]
    assert np.array_equal(load_image(small).pixels, load_image(data).pixels)


# --- Truncation ------------------------------------------------------------------------------------------------------


def jpegs() -> dict[str, bytes]:
    scene = files.scene(160, 120)
    return {
        "baseline": files.encoded(scene, "JPEG", quality=90),
        "progressive": files.encoded(scene, "JPEG", quality=90, progressive=True),
        "restarts": files.encoded(scene, "JPEG", quality=90, restart_marker_rows=1),
        "grey": files.encoded(scene.convert("L"), "JPEG", quality=90),
        "CMYK": files.encoded(scene.convert("CMYK"), "JPEG", quality=90),
        "with metadata": files.encoded(scene, "JPEG", exif=b"Exif\0\0" + files.exif(1), comment=b"x" * 500),
    }


@pytest.mark.parametrize("kind", list(jpegs()))
@pytest.mark.parametrize("tolerant", [False, True])
def test_a_truncated_jpeg_is_refused_wherever_it_is_cut(
    kind: str, tolerant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)  # Applications set this for their own loading.
    data = jpegs()[kind]
    load_image(data)
    for cut in range(4, len(data) - 2, 97):
        with pytest.raises(ImageError, match="truncated"):
            load_image(data[:cut])


@pytest.mark.parametrize("kind", ["baseline", "restarts", "grey", "CMYK"])
@pytest.mark.parametrize("needed", [None, (10, 10)])
def test_a_jpeg_that_was_cut_and_ended_again_is_refused_rather_than_half_grey(
    kind: str, needed: tuple[int, int] | None
) -> None:
    data = jpegs()[kind]
    scan = data.rindex(b"\xff\xda")
    for part in (0.3, 0.6, 0.9):
        cut = scan + int((len(data) - scan) * part)
        while data[cut - 1] == 0xFF:
            cut -= 1
        with pytest.raises(ImageError, match="its data ends before the picture does"):
            load_image(data[:cut] + b"\xff\xd9", needed=needed)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_is_grey_itself_is_read(options: dict[str, Any]) -> None:
    grey = Image.new("RGB", (300, 200), (128, 128, 128))
    assert (load_image(files.encoded(grey, "JPEG", **options)).pixels == 128).all()


@pytest.mark.parametrize("kind", ["PNG", "WebP", "BMP", "TIFF", "GIF"])
def test_other_formats_are_refused_where_they_are_cut(kind: str) -> None:
    data = files.encoded(files.scene(), kind)
    for cut in range(1, len(data) - 2, max(1, len(data) // 40)):
        with pytest.raises(ImageError):
            load_image(data[:cut])


# --- Reduced scale ---------------------------------------------------------------------------------------------------


def spec(side: int, fit: Any = "pad") -> VisionSpec:
    return VisionSpec(height=side, width_px=side, tokens=1, width=1, fit=fit)


@pytest.mark.parametrize(
    ("needed", "scale"),
    [
        (None, 1),
        (spec(140), 1),  # 800 / 140 is 5.7, less than 2 x 3.
        (spec(133), 2),
        (spec(90), 4),
        (spec(45), 4),
        (spec(41), 8),
        (spec(41, "stretch"), 4),  # Here the shorter side decides: 400 / 41 is 9.8.
        (spec(41, "crop"), 4),
        ((41, 41), 4),
        ((20, 41), 8),
        ((0, 0), 8),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_it_takes(needed: Any, scale: int) -> None:
    picture = load_image(files.encoded(files.scene(800, 400), "JPEG"), needed=needed)
    assert picture.pixels.shape == (400 // scale, 800 // scale, 3)
    assert picture.size == (400, 800)
    assert picture.notes == ((f"decoded at 1/{scale} of its size",) if scale > 1 else ())


@pytest.mark.parametrize(("subsampling", "scale"), [("4:4:4", 4), ("4:2:0", 4), ("4:2:2", 2)])
def test_colour_decides_too_where_it_is_reduced_twice(subsampling: str, scale: int) -> None:
    picture = load_image(files.encoded(files.scene(800, 400), "JPEG", subsampling=subsampling), needed=spec(90))
    assert picture.pixels.shape == (400 // scale, 800 // scale, 3)


def test_an_edge_of_a_reduced_jpeg_can_fall_inside_a_pixel() -> None:
    picture = load_image(files.encoded(files.scene(805, 403), "JPEG"), needed=spec(90))
    assert picture.pixels.shape == (101, 202, 3)
    assert picture.box == (0, 0, 201.25, 100.75)


def test_other_formats_are_decoded_whole_whatever_is_needed() -> None:
    picture = load_image(files.encoded(files.scene(800, 400), "PNG"), needed=spec(45))
    assert picture.pixels.shape == (400, 800, 3)


@pytest.mark.parametrize("make", [lambda data: data, io.BytesIO])
def test_metadata_is_no_part_of_what_is_decoded(make: Callable[[bytes], Any]) -> None:
    rubbish = b"Exif\0\0II*\0" + bytes(range(256)) * 20
    data = files.encoded(files.scene(), "JPEG", exif=rubbish, comment=b"x" * 60_000)
    assert np.array_equal(load_image(make(data)).pixels, load_image(files.encoded(files.scene(), "JPEG")).pixels)
