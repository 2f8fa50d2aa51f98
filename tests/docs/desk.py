"""Where the documentation's commands are run: a checkout seen from its root, and what a reader has beside it.

His photographs are sample pictures. Of his models only the shapes are the real ones: the weights are made here. What
he converts is a tiny model of MODEL's family.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sample_pictures import PICTURES, ROOT

from vlm.convert.environment import Converter
from vlm.convert.export import ExportJob, export
from vlm.profile import EncoderKeys, load_profile

sys.path.insert(0, str(ROOT / "tests" / "host"))
sys.path.insert(0, str(ROOT / "tests" / "convert"))

import tiny_model
import tiny_words

MODEL = "qwen2-vl-2b"
AUTHORS = "Qwen2-VL-2B-Instruct"
KIND = "qwen2_vl"
ROOMS = ("configs", "deploy", "docs", "encoders", "samples", "tests", "vlm", "pyproject.toml", "README.md")
PHOTOS = ("blue-star.jpg", "night.jpg", "two-hearts.png", "tower.jpg")


def make_desk(place: Path) -> Path:
    """A folder to work in: the checkout's rooms, `photo.jpg`, `photos/`, and the demo model as the reader's own.

    That is `my-model/`, with `profile.toml` and the files, and the profile alone as `my-model.toml`.
    """
    place.mkdir()
    for room in ROOMS:
        (place / room).symlink_to(ROOT / room)
    shutil.copy(PICTURES / "night.jpg", place / "photo.jpg")
    (place / "photos" / "holiday").mkdir(parents=True)
    for name in PHOTOS:
        shutil.copy(PICTURES / name, place / "photos")
    shutil.copy(PICTURES / "five-shapes.png", place / "photos" / "holiday")
    shutil.copy(ROOT / "configs" / "demo.toml", place / "my-model.toml")
    shutil.copytree(ROOT / "samples" / "demo" / "model", place / "my-model")
    shutil.copy(ROOT / "configs" / "demo.toml", place / "my-model" / "profile.toml")
    return place


def make_models(place: Path) -> Path:
    """A directory of models with one in it, whose encoder and language model have the shapes of MODEL's profile."""
    profile = load_profile(MODEL)
    limit = profile.max_context_len
    spec = tiny_model.Spec(width=profile.encoder.width, layers=1, positions=None, limit=limit)
    out = tiny_model.build(place / MODEL, spec)
    tags = profile.tags
    specials = ("<|im_start|>", "<|im_end|>", tags.start, tags.end, tags.content)
    tiny_model.byte_tokenizer(specials).save(str(out / "tokenizer.json"))
    _encoder(out / "vision_encoder.onnx", profile.encoder)
    return place


def make_conversion(place: Path, converter: Converter) -> Path:
    """The authors' model as it is downloaded, in AUTHORS, and in MODEL a profile with what is exported of it.

    A directory counts before the profile of its name, so that `--model MODEL` is the tiny one where MODEL lies.
    """
    job = {"make": KIND, "directory": str(place / AUTHORS)}
    converter.run(ROOT / "tests" / "convert" / "authors.py", job, place)
    tiny_words.write(KIND, place / AUTHORS, place / MODEL)
    for part in ("vision", "words"):
        export(ExportJob(part, place / MODEL, place / AUTHORS), converter)
    return place


def bring_conversion(desk: Path, made: Path, *, exported: bool) -> None:
    """Lay the authors' model on a desk, and its ONNX files where they are exported already."""
    shutil.copytree(made / AUTHORS, desk / AUTHORS)
    (desk / MODEL).mkdir()
    for file in (made / MODEL).iterdir() if exported else [made / MODEL / "profile.toml"]:
        shutil.copy(file, desk / MODEL)


def _encoder(path: Path, keys: EncoderKeys) -> None:
    """An encoder that gives each token the brightness of its place in the picture, times a random vector."""
    info, real = helper.make_tensor_value_info, TensorProto.FLOAT
    rows = int(keys.tokens**0.5)
    step = keys.height // rows
    scale = np.random.default_rng(0).standard_normal((1, keys.width)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("AveragePool", ["grey"], ["pooled"], kernel_shape=[step, step], strides=[step, step]),
        helper.make_node("Reshape", ["pooled", "shape"], ["column"]),
        helper.make_node("MatMul", ["column", "scale"], ["embedding"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, keys.tokens, 1]), "shape"),
        numpy_helper.from_array(scale, "scale"),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [info("pixels", real, [1, 3, keys.height, keys.width_px])],
        [info("embedding", real, [1, keys.tokens, keys.width])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
