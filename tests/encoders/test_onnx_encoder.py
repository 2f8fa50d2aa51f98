"""The ONNX encoder against NumPy, on small graphs made here; what does not fit the profile; and what is no encoder."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from encoders import ImageEmbedding, VisionSpec, join_embeddings, open_encoder
from encoders.errors import (
    EmbeddingError,
    EncoderError,
    EncoderFileError,
    EncoderMismatchError,
    EncoderUnavailableError,
)
from encoders.onnx import OnnxEncoder

SIDE, TOKENS, WIDTH = 8, 4, 6
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def spec(**changes: Any) -> VisionSpec:
    facts: dict[str, Any] = {
        "height": SIDE,
        "width_px": SIDE,
        "tokens": TOKENS,
        "width": WIDTH,
        "mean": MEAN,
        "std": STD,
    }
    return VisionSpec(**{**facts, **changes})


def weights(seed: int) -> Any:
    """One token a quarter of the picture: patches of 4 x 4 pixels, three channels, to WIDTH numbers."""
    return np.random.default_rng(seed).standard_normal((WIDTH, 3, 4, 4)).astype(np.float32)


def save(
    path: Path,
    *,
    outputs: int = 1,
    dtype: str = "float32",
    shape: Sequence[Any] = (1, TOKENS, WIDTH),
    input_shape: Sequence[Any] = (1, 3, SIDE, SIDE),
    rank: int = 3,
    hidden: bool = False,
    gain: float = 1.0,
) -> Path:
    """An encoder that convolves patches into tokens; each output has weights of its own.

    `shape` is what it declares. With `hidden`, how it reshapes depends on the pixels, so that no shape can be inferred.
    """
    kind = TYPES[dtype]
    nodes, constants, results = [], [], []
    for index in range(outputs):
        constants.append(numpy_helper.from_array((weights(index) * gain).astype(dtype), f"w{index}"))
        nodes.append(helper.make_node("Conv", ["pixels", f"w{index}"], [f"patches{index}"], strides=[4, 4]))
        flat = [1, WIDTH, TOKENS] if rank == 3 else [WIDTH, TOKENS]
        constants.append(numpy_helper.from_array(np.array(flat, np.int64), f"flat{index}"))
        target = f"flat{index}"
        if hidden:
            constants.append(numpy_helper.from_array(np.array(0, dtype), f"zero{index}"))
            nodes.append(helper.make_node("ReduceMax", ["pixels"], [f"most{index}"], keepdims=0))
            nodes.append(helper.make_node("Mul", [f"most{index}", f"zero{index}"], [f"none{index}"]))
            nodes.append(helper.make_node("Cast", [f"none{index}"], [f"nothing{index}"], to=TensorProto.INT64))
            nodes.append(helper.make_node("Add", [target, f"nothing{index}"], [f"target{index}"]))
            target = f"target{index}"
        nodes.append(helper.make_node("Reshape", [f"patches{index}", target], [f"flattened{index}"]))
        order = [0, 2, 1] if rank == 3 else [1, 0]
        nodes.append(helper.make_node("Transpose", [f"flattened{index}"], [f"tokens{index}"], perm=order))
        results.append(helper.make_tensor_value_info(f"tokens{index}", kind, shape))
    inputs = [helper.make_tensor_value_info("pixels", kind, input_shape)]
    graph = helper.make_graph(nodes, "encoder", inputs, results, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def expected(pixels: Any, seed: int = 0) -> Any:
    """The same in NumPy, in double precision: (TOKENS, WIDTH)."""
    normalised = (pixels[0] / 255 - np.array(MEAN)) / np.array(STD)
    patches = normalised.reshape(2, 4, 2, 4, 3).transpose(0, 2, 4, 1, 3).reshape(TOKENS, -1)
    return patches @ weights(seed).astype(np.float64).reshape(WIDTH, -1).T


@pytest.fixture
def pixels() -> Any:
    return np.random.default_rng(9).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)


# --- What it gives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 0.05)])
@pytest.mark.parametrize("rank", [2, 3])
def test_it_normalises_and_encodes(tmp_path: Path, pixels: Any, dtype: str, tolerance: float, rank: int) -> None:
    path = save(tmp_path / "e.onnx", dtype=dtype, rank=rank, shape=(1, TOKENS, WIDTH)[3 - rank :])
    embedding = open_encoder(path, spec()).encode(pixels, "hash")
    assert embedding.data.shape == (1, TOKENS, WIDTH)
    assert embedding.data.dtype == np.float32
    assert not embedding.data.flags.writeable
    assert embedding.hashes == ("hash",)
    assert np.abs(embedding.data[0] - expected(pixels)).max() < tolerance


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_several_outputs_are_interleaved_per_token(tmp_path: Path, pixels: Any, dtype: str) -> None:
    encoder = open_encoder(save(tmp_path / "e.onnx", outputs=3, dtype=dtype), spec(outputs=3))
    data = encoder.encode(pixels, "hash").data
    assert data.shape == (1, TOKENS, 3 * WIDTH)
    for token in range(TOKENS):
        for output in range(3):
            part = data[0, token, output * WIDTH : (output + 1) * WIDTH]
            assert np.abs(part - expected(pixels, output)[token]).max() < 0.05


def test_a_later_call_overwrites_nothing(tmp_path: Path, pixels: Any) -> None:
    encoder = open_encoder(save(tmp_path / "e.onnx"), spec())
    first = encoder.encode(pixels, "a")
    kept = first.data.copy()
    second = encoder.encode(255 - pixels, "b")
    assert np.array_equal(first.data, kept)
    assert not np.shares_memory(first.data, second.data)
    assert np.array_equal(encoder.encode(pixels, "a").data, kept)


@pytest.mark.parametrize("rank", [2, 3])
def test_one_float32_output_is_passed_on_without_a_copy(tmp_path: Path, rank: int) -> None:
    # Sixteen megabytes of output: a copy would show beside what ONNX Runtime alone takes.
    tokens, width = 4096, 1024
    shape = [1, tokens, width][3 - rank :]
    constant = numpy_helper.from_array(np.array(shape, np.int64), "shape")
    axes = numpy_helper.from_array(np.array([0, 1, 2, 3], np.int64), "axes")
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Expand", ["mean", "shape"], ["tokens"]),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, shape)],
        [constant, axes],
    )
    path = tmp_path / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    encoder = open_encoder(path, spec(tokens=tokens, width=width))
    blank = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    bare = numpy_peak(lambda: session.run(None, {"pixels": blank.transpose(0, 3, 1, 2).astype(np.float32)}))
    ours = numpy_peak(lambda: encoder.encode(blank, "hash"))
    size = 4 * tokens * width
    assert ours - bare < 0.3 * size  # The check for NaN takes a byte for each number of four.


def numpy_peak(work: Callable[[], object]) -> int:
    """The most bytes that Python and NumPy hold while `work` runs."""
    work()
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_threads_can_be_set(tmp_path: Path, pixels: Any) -> None:
    encoder = open_encoder(save(tmp_path / "e.onnx"), spec(), threads=1)
    assert np.abs(encoder.encode(pixels, "hash").data[0] - expected(pixels)).max() < 1e-5


def test_the_identity_changes_with_the_file(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx")
    encoders = [open_encoder(path, spec()) for path in (first, first, second)]
    assert encoders[0].identity == encoders[1].identity != encoders[2].identity
    os.utime(first, (1, 1))
    assert open_encoder(first, spec()).identity != encoders[0].identity


# --- What does not fit the profile -----------------------------------------------------------------------------------

HIDDEN: dict[str, Any] = {"hidden": True, "shape": ("n", "t", "w"), "input_shape": ("n", 3, "h", "w")}
MISMATCHES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "size": ({}, {"height": 16}, "input .*: the profile says 1 x 3 x 16 x 8, the file has 1 x 3 x 8 x 8"),
    "layout": ({"input_shape": (1, SIDE, SIDE, 3)}, {}, "1 x 3 x 8 x 8, the file has 1 x 8 x 8 x 3"),
    "batch": ({"input_shape": (2, 3, SIDE, SIDE)}, {}, "1 x 3 x 8 x 8, the file has 2 x 3 x 8 x 8"),
    "tokens": ({}, {"tokens": 9}, "tokens: the profile says 9, the file has 4"),
    "width": ({}, {"width": 8}, "width: the profile says 8, the file has 6"),
    "both": ({}, {"tokens": 9, "width": 8}, "says 9, the file has 4; width: the profile says 8, the file has 6"),
    "fewer outputs": ({}, {"outputs": 4}, r"outputs: the profile says 4, the file has 1 \('tokens0'\)"),
    "more outputs": ({"outputs": 2}, {}, r"outputs: the profile says 1, the file has 2 \('tokens0', 'tokens1'\)"),
    # Where the file does not say its shapes, a blank picture tells them.
    "unsaid tokens": (HIDDEN, {"tokens": 9}, "tokens: the profile says 9, the file has 4"),
    "unsaid width": (HIDDEN, {"width": 8}, "width: the profile says 8, the file has 6"),
    "unsaid rank": (
        {**HIDDEN, "rank": 2, "shape": ("t", "w")},
        {"width": 8},
        "width: the profile says 8, the file has 6",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_what_does_not_fit_is_refused_with_both_values(tmp_path: Path, name: str) -> None:
    file, profile, message = MISMATCHES[name]
    path = tmp_path / "e.onnx"
    if name in {"layout", "batch"}:  # A graph that its declaration contradicts would not load: declare a plain one.
        plain(path, file["input_shape"])
    else:
        save(path, **file)
    with pytest.raises(EncoderMismatchError, match=message) as caught:
        open_encoder(path, spec(**profile))
    assert "e.onnx" in str(caught.value)


def plain(path: Path, input_shape: Sequence[int], kind: int = TensorProto.FLOAT) -> None:
    """A graph that passes its input on."""
    ends = [helper.make_tensor_value_info(name, kind, input_shape) for name in ("pixels", "tokens")]
    graph = helper.make_graph([helper.make_node("Identity", ["pixels"], ["tokens"])], "plain", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_shapes_that_the_file_leaves_open_fit_any_profile_they_can(tmp_path: Path, pixels: Any) -> None:
    path = save(tmp_path / "e.onnx", **HIDDEN)
    assert np.abs(open_encoder(path, spec()).encode(pixels, "hash").data[0] - expected(pixels)).max() < 1e-5


def test_an_output_of_another_rank_is_refused(tmp_path: Path) -> None:
    plain(tmp_path / "e.onnx", (1, 3, SIDE, SIDE))
    with pytest.raises(
        EncoderMismatchError, match="output shape: the profile says 1 x 4 x 6, the file has 1 x 3 x 8 x 8"
    ):
        open_encoder(tmp_path / "e.onnx", spec())


# --- What is no encoder ----------------------------------------------------------------------------------------------


def test_files_that_are_no_encoder_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "directory.onnx").mkdir()
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "board.onnx").write_bytes(b"RKNN" + bytes(100))
    whole = save(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "weights.bin").write_bytes(whole)
    two = onnx.load(tmp_path / "whole.onnx")
    two.graph.input.append(helper.make_tensor_value_info("grid", TensorProto.INT64, [1, 3]))
    onnx.save(two, tmp_path / "two.onnx")
    plain(tmp_path / "bytes.onnx", (1, 3, SIDE, SIDE), TensorProto.UINT8)
    reasons = {
        "missing.onnx": "cannot be read: No such file",
        "directory.onnx": "is a directory",
        "empty.onnx": "cannot be opened as an ONNX file",
        "text.onnx": "cannot be opened as an ONNX file",
        "cut.onnx": "cannot be opened as an ONNX file",
        "board.onnx": "is an .rknn file by its content",
        "two.onnx": "one input, the pixels; this has 'pixels', 'grid'",
        "bytes.onnx": r"must be float32 or float16; it is tensor\(uint8\)",
        "weights.bin": "ends in .onnx or .rknn, not in '.bin'",
    }
    for name, reason in reasons.items():
        with pytest.raises(EncoderFileError, match=reason) as caught:
            open_encoder(tmp_path / name, spec())
        assert name in str(caught.value)


def test_without_onnx_runtime_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "e.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # As Python has it where the package is not installed.
    with pytest.raises(EncoderUnavailableError, match="pip install onnxruntime"):
        open_encoder(path, spec())


# --- Use -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, SIDE, SIDE, 3), np.float32),
        np.zeros((SIDE, SIDE, 3), np.uint8),
        np.zeros((1, 3, SIDE, SIDE), np.uint8),
        np.zeros((2, SIDE, SIDE, 3), np.uint8),
    ],
)
def test_other_pixels_are_refused(tmp_path: Path, wrong: Any) -> None:
    encoder = open_encoder(save(tmp_path / "e.onnx"), spec())
    with pytest.raises(EncoderError, match=r"takes uint8 \(1, 8, 8, 3\); got"):
        encoder.encode(wrong, "hash")


def test_it_may_be_closed_twice_and_not_used_after(tmp_path: Path, pixels: Any) -> None:
    encoder = open_encoder(save(tmp_path / "e.onnx"), spec())
    encoder.close()
    encoder.close()
    with pytest.raises(EncoderError, match="is closed"):
        encoder.encode(pixels, "hash")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, pixels: Any) -> None:
    encoder = open_encoder(save(tmp_path / "e.onnx", gain=5e37), spec())
    with pytest.raises(EmbeddingError, match="NaN or infinity"):
        encoder.encode(pixels, "hash")


CHILD = """
import sys
from encoders import VisionSpec, open_encoder
from encoders.errors import EncoderError
try:
    open_encoder(sys.argv[1], VisionSpec(height=12, width_px=12, tokens=4, width=6))
except EncoderError as exc:
    print(type(exc).__name__, exc)
"""


def test_a_file_that_fails_says_so_and_prints_nothing(tmp_path: Path) -> None:
    # Nine patches cannot be reshaped to four tokens, which only the run finds. In a child, to see all that is printed.
    path = save(tmp_path / "e.onnx", **HIDDEN)
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("EncoderError ")
    assert "e.onnx': the encoder failed: " in done.stdout
    assert done.stderr == ""


# --- Embeddings ------------------------------------------------------------------------------------------------------


def test_an_embedding_is_validated_when_made() -> None:
    good = np.zeros((2, 3, 4), np.float32)
    assert (ImageEmbedding(good, ("a", "b")).images, ImageEmbedding(good, ("a", "b")).tokens) == (2, 3)
    bad = [good.astype(np.float64), good[0], good[:, :, ::2], np.full((1, 3, 4), np.inf, np.float32)]
    for data in bad:
        with pytest.raises(EmbeddingError):
            ImageEmbedding(data, ("a",) * data.shape[0])
    with pytest.raises(EmbeddingError, match="needs as many hashes; got 1"):
        ImageEmbedding(good, ("a",))


def test_embeddings_are_joined_in_order() -> None:
    parts = [ImageEmbedding(np.full((1, 2, 3), value, np.float32), (f"{value}",)) for value in range(3)]
    joined = join_embeddings(parts)
    assert joined.hashes == ("0", "1", "2")
    assert joined.data[:, 0, 0].tolist() == [0, 1, 2]
    assert join_embeddings(parts[:1]) is parts[0]
    other = ImageEmbedding(np.zeros((1, 2, 4), np.float32), ("x",))
    with pytest.raises(EmbeddingError, match="got 2 x 3 and 2 x 4"):
        join_embeddings([parts[0], other])
    with pytest.raises(EmbeddingError, match="no embedding at all"):
        join_embeddings([])


def test_the_class_can_be_used_by_itself(tmp_path: Path, pixels: Any) -> None:
    with OnnxEncoder(save(tmp_path / "e.onnx"), spec(), threads=2) as encoder:
        assert encoder.encode(pixels, "hash").images == 1
