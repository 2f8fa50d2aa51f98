"""`vlm convert vision` on a stand-in for the toolkit that computes with what it is told: the driver, every error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from sample_pictures import PICTURES

import vlm
from encoders import fit_image, load_image
from vlm import errors
from vlm.convert.environment import Converter
from vlm.convert.vision import Built, VisionJob, convert_vision
from vlm.npu import SOCS
from vlm.profile import load_profile
from vlm.resources import configs_dir, demo_dir

ONNX = demo_dir() / "vision_encoder.onnx"
SPEC = load_profile("demo").vision
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _ready(clean_settings: None, converter: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has the stand-in's converter, and a log of its own."""
    monkeypatch.setenv("VLM_CONVERTER_DIR", str(converter.directory))
    monkeypatch.setenv("RKNN_STANDIN_LOG", str(tmp_path / "log"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two pictures, and of a text that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("blue-star.jpg", "wide-row.webp", "truth.json"):
        (folder / name).write_bytes((PICTURES / name).read_bytes())
    return folder


def fitted(folder: Path) -> Any:
    """The folder's pictures as the encoder takes them."""
    names = sorted(file.name for file in folder.iterdir() if file.suffix != ".json")
    return np.concatenate([fit_image(load_image(folder / name, needed=SPEC), SPEC) for name in names])


def seen(tmp_path: Path, call: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    return [entry for entry in entries if entry["call"] == call]


def convert(converter: Converter, tmp_path: Path, **job: Any) -> list[Built]:
    return list(
        convert_vision(VisionJob(**{"model": "demo", "targets": ["rk3588"], "out": tmp_path, **job}), converter)
    )


def test_fp16_for_every_soc(tmp_path: Path, pictures: Path, run: Run) -> None:
    out = tmp_path / "made" / "here"
    code, told, _ = run("convert", "vision", "--model", "demo", "--pictures", pictures, "--out", out)
    assert code == 0
    for soc in SOCS:
        # 255: uninitialised memory is zeros, so that the file holds nothing of its process's.
        assert (out / f"vision_encoder_{soc}.rknn").read_bytes() == f"RKNN {soc} 255".encode()
        assert str(out / f"vision_encoder_{soc}.rknn") in told
    assert sorted(file.name for file in out.iterdir()) == sorted(f"vision_encoder_{soc}.rknn" for soc in SOCS)
    assert "blue-star.jpg" in told
    assert "1.0000000" in told
    assert [entry["target"] for entry in seen(tmp_path, "config")] == list(SOCS)
    assert all(entry["mean"] == entry["std"] == [[127.5] * 3] for entry in seen(tmp_path, "config"))
    # The weights that the file stores as fp16 and casts are given as the fp32 that they are cast to.
    loaded = seen(tmp_path, "load")[0]
    assert (loaded["inputs"], loaded["sizes"], loaded["casts"]) == (["pixel_values"], [[1, 3, 112, 112]], 0)
    assert onnx.TensorProto.FLOAT16 not in loaded["kinds"]
    assert all(entry["quantise"] is False and entry["dataset"] is None for entry in seen(tmp_path, "build"))
    assert all(
        (entry["dtype"], entry["shape"], entry["layout"]) == ("uint8", [1, 112, 112, 3], ["nhwc"])
        for entry in seen(tmp_path, "inference")
    )
    assert (tmp_path / "log.pixels").read_bytes() == fitted(pictures).tobytes() * len(SOCS)


def test_int8_is_calibrated_with_our_own_pixels(tmp_path: Path, pictures: Path, run: Run) -> None:
    """The toolkit takes arrays in the layout of the ONNX file, before mean and std."""
    words = ("--dtype", "int8", "--calibration", pictures, "--target", "rk3576", "--out", tmp_path)
    code, told, _ = run("convert", "vision", *words)
    assert code == 0
    assert (tmp_path / "vision_encoder_int8_rk3576.rknn").exists()
    assert "int8 rk3576" in told
    assert [entry["quantise"] for entry in seen(tmp_path, "build")] == [True]
    given = np.load(tmp_path / "log.calibration.npy")
    assert given.dtype == np.uint8
    assert np.array_equal(given[:, 0], fitted(pictures).transpose(0, 3, 1, 2))


def test_a_profile_of_ones_own(tmp_path: Path, pictures: Path, converter: Converter) -> None:
    """Mean and std by channel, and two outputs, which are compared as a language model gets them: interleaved."""
    model = onnx.load(ONNX)
    model.graph.node.append(helper.make_node("Neg", ["image_features"], ["deepstack"]))
    model.graph.output.append(helper.make_tensor_value_info("deepstack", onnx.TensorProto.FLOAT, [1, 49, 160]))
    onnx.save(model, tmp_path / "two.onnx")
    text = (configs_dir() / "demo.toml").read_text().replace("width = 160", "width = 160\noutputs = 2")
    text = text.replace("mean = [0.5, 0.5, 0.5]", "mean = [0.1, 0.2, 0.4]").replace("std = [0.5,", "std = [0.8,")
    (tmp_path / "mine.toml").write_text(text.replace('name = "demo"', 'name = "mine"'))
    built = convert(converter, tmp_path, model=tmp_path / "mine.toml", onnx=tmp_path / "two.onnx", pictures=pictures)[0]
    assert built.kept
    assert built.file.name == "two_rk3588.rknn"
    config = seen(tmp_path, "config")[0]
    assert config["mean"] == [pytest.approx([25.5, 51, 102])]
    assert config["std"] == [pytest.approx([204, 127.5, 127.5])]
    assert min(each.worst_token for each in built.comparisons) > 0.99999


def test_without_pictures_some_are_made_up(tmp_path: Path, converter: Converter) -> None:
    built = convert(converter, tmp_path)[0]
    assert [each.picture for each in built.comparisons] == [f"made-up picture {number}" for number in (1, 2, 3, 4)]
    assert len(set((tmp_path / "log.pixels").read_bytes())) > 100


def test_the_first_20_pictures_are_compared(tmp_path: Path, converter: Converter) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(23):
        (folder / f"{number:02}.png").write_bytes((PICTURES / "thumbnail.png").read_bytes())
    built = convert(converter, tmp_path, dtype="int8", calibration=folder)[0]
    assert [each.picture for each in built.comparisons] == [f"{number:02}.png" for number in range(20)]
    assert len(np.load(tmp_path / "log.calibration.npy")) == 23


def test_what_differs_is_shown_and_not_kept(
    tmp_path: Path, pictures: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKNN_STANDIN", "swapped")
    kept = tmp_path / "vision_encoder_rk3562.rknn"
    kept.write_text("of a build before")
    words = ("--target", "rk3562", "--out", tmp_path, "--pictures", pictures)
    code, told, said = run("convert", "vision", *words)
    assert code == errors.AccuracyError.exit_code
    assert "wide-row.webp" in told
    assert "cosine of 0.999" in said
    assert "wide-row.webp: cosine" in said
    assert "blue-star.jpg" not in said
    assert kept.read_text() == "of a build before"
    code, _, _ = run("convert", "vision", *words, "--least", "-1")
    assert (code, kept.read_bytes()[:11]) == (0, b"RKNN rk3562")


def test_the_model_must_answer_alike(
    tmp_path: Path, pictures: Path, run: Run, monkeypatch: pytest.MonkeyPatch, demo: vlm.VLM
) -> None:
    words = ("--target", "rk3562", "--out", tmp_path, "--pictures", pictures, "--ask", "Describe the picture.")
    code, told, _ = run("convert", "vision", *words)
    assert code == 0
    assert told.count(" same") == 2
    monkeypatch.setenv("RKNN_STANDIN", "swapped")
    code, told, said = run("convert", "vision", *words, "--least", "-1")
    assert code == errors.AccuracyError.exit_code
    assert (told.count(" same"), told.count(" OTHER")) == (1, 1)
    star, row = (demo.describe(pictures / name).text for name in ("blue-star.jpg", "wide-row.webp"))
    assert f"wide-row.webp: {star!r}, not {row!r}" in said


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("load", "could not read the ONNX file"),
        ("build", "could not build it"),
        ("export", "could not write the .rknn file"),
        ("runtime", "could not start its simulator"),
        ("inference", "could not run a picture in its simulator"),
        ("raise", "says: Unsupport Op Einsum!"),
        ("killed", "by signal 9, as when memory runs out; the last it said: .*Building : 60%"),
        ("flat", r"gives outputs of \[3840\] numbers; the profile says 1 of 49 tokens x width 160"),
    ],
)
def test_what_the_toolkit_cannot_do(
    tmp_path: Path, converter: Converter, monkeypatch: pytest.MonkeyPatch, mode: str, said: str
) -> None:
    monkeypatch.setenv("RKNN_STANDIN", mode)
    with pytest.raises(errors.ConversionError, match=said) as caught:
        convert(converter, tmp_path)
    log = tmp_path / "vision_encoder_rk3588.log"
    if mode != "flat":
        assert str(log) in str(caught.value)
        assert "what the toolkit prints" in log.read_text()
    assert not list(tmp_path.glob("*.rknn*"))
    assert "Traceback" not in str(caught.value)


MISTAKES: dict[str, tuple[dict[str, Any], type[errors.RkvlmError], str]] = {
    "target": (
        {"targets": ["rk3566"]},
        errors.OptionError,
        '"rk3566" is no target.*rk3588, rk3576, rk3562, rv1126b, all',
    ),
    "typing error": ({"targets": ["rk3558"]}, errors.OptionError, 'did you mean "rk3588"'),
    "dtype": ({"dtype": "int4"}, errors.OptionError, '"int4" is no dtype; known: fp16, int8'),
    "int8 alone": ({"dtype": "int8"}, errors.OptionError, "int8 needs a folder of calibration pictures"),
    "fp16 calibrated": ({"calibration": PICTURES}, errors.OptionError, "fp16 takes none"),
    "no folder": ({"pictures": Path("gone")}, errors.OptionError, "gone is no folder"),
    "no pictures": ({"pictures": configs_dir()}, errors.OptionError, "has no pictures"),
    "model": ({"model": "dmeo"}, errors.ProfileError, "did you mean"),
    "no files": ({"model": "qwen2-vl-2b"}, errors.ProfileError, "qwen2-vl-2b"),
    "no onnx": ({"onnx": Path("gone.onnx")}, errors.EncoderFileError, "gone.onnx"),
    "a .rknn": ({"onnx": demo_dir() / "vision_encoder_rk3588.rknn"}, errors.OptionError, r"is no \.onnx file"),
    "another model's": ({"onnx": demo_dir() / "embed_tokens.onnx"}, errors.EncoderError, "input"),
    "out is a file": ({"out": Path(__file__)}, errors.OptionError, "cannot be made"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_anything_is_built(mistake: str, tmp_path: Path, converter: Converter) -> None:
    job, kind, said = MISTAKES[mistake]
    with pytest.raises(kind, match=said):
        convert(converter, tmp_path, **job)
    assert not (tmp_path / "log").exists()


def test_a_damaged_picture_is_named(tmp_path: Path, pictures: Path, converter: Converter) -> None:
    (pictures / "half.jpg").write_bytes((PICTURES / "night.jpg").read_bytes()[:2000])
    with pytest.raises(errors.ImageError, match=r"half\.jpg"):
        convert(converter, tmp_path, pictures=pictures)


def test_without_a_converter(tmp_path: Path, run: Run) -> None:
    code, told, said = run("convert", "vision", "--dir", tmp_path / "nowhere")
    assert (code, told) == (errors.ConverterError.exit_code, "")
    assert "vlm convert setup" in said
    assert "Traceback" not in said
