"""Encoders in .rknn files, over a stand-in for the vendor's wheel in both of its releases (tests/encoders/wheel).

The vendor's own wheel, over a stand-in for librknnrt.so, is in tests/board/test_rehearsal.py.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import re
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoders import open_encoder
from encoders.base import VisionSpec
from encoders.cache import EmbeddingCache, cache_key
from encoders.errors import EncoderError, EncoderFileError, EncoderMismatchError, RKNNWheelError
from encoders.files import rknn_targets
from encoders.rknn import CORE_MASKS, RKNNEncoder
from vlm.rkllm.messages import captured

sys.path.insert(0, str(Path(__file__).parents[1] / "native"))
from rknn_file import write_rknn

WHEEL = Path(__file__).parent / "wheel"
SPEC = VisionSpec(16, 24, tokens=6, width=10)
SHAPE = (1, 6, 10)


@pytest.fixture(params=["2.3.2", "2.5.0"])
def wheel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The stand-in as it is imported, as one of the two releases."""
    monkeypatch.syspath_prepend(str(WHEEL))
    module = importlib.import_module("rknnlite.api")
    monkeypatch.setattr(module, "VERSION", request.param)
    yield module
    for name in ("rknnlite.api", "rknnlite"):
        del sys.modules[name]


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing named rknnlite can be imported."""
    for name in ("rknnlite", "rknnlite.api"):
        monkeypatch.setitem(sys.modules, name, None)


def write(path: Path, words: str = "", outputs: Any = (SHAPE,), **more: Any) -> Path:
    return write_rknn(path / "e.rknn", outputs, size=(SPEC.height, SPEC.width_px), words=words, **more)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, SPEC.height, SPEC.width_px, 3), dtype=np.uint8)


def expected(pixels: np.ndarray, output: int = 0) -> np.ndarray:
    flat = pixels.reshape(-1).astype(np.float32)
    return (flat[(np.arange(60) + 31 * output) % flat.size].reshape(6, 10) - 128) / 64


def test_a_picture_becomes_an_embedding(wheel: Any, tmp_path: Path) -> None:
    encoder = open_encoder(write(tmp_path), SPEC, core_mask=CORE_MASKS["0,1,2"], soc="rk3588")
    first, second = (encoder.encode(picture(seed), f"hash {seed}") for seed in (1, 2))
    assert (wheel.last.rknn_runtime.mask, encoder.npu) == (7, True)
    assert wheel.last.rknn_runtime.calls == [(["uint8"], ["nhwc"], "uint8", (1, 16, 24, 3))] * 2
    assert (first.data[0] == expected(picture(1))).all()
    assert (second.data[0] == expected(picture(2))).all()
    assert (first.data.shape, first.data.flags.writeable, first.hashes) == (SHAPE, False, ("hash 1",))
    encoder.close()
    encoder.close()
    assert wheel.last.released == 1
    with pytest.raises(EncoderError, match="the encoder is closed"):
        encoder.encode(picture(), "hash")


@pytest.mark.parametrize("shape", [(6, 10), (1, 6, 10), (1, 1, 6, 10)])
def test_one_output_in_any_of_its_shapes(wheel: Any, tmp_path: Path, shape: tuple[int, ...]) -> None:
    with RKNNEncoder(write(tmp_path, outputs=[shape]), SPEC) as encoder:
        data = encoder.encode(picture(), "hash").data
    assert data.shape == SHAPE
    assert (data[0] == expected(picture())).all()


def test_several_outputs_are_interleaved_per_token(wheel: Any, tmp_path: Path) -> None:
    spec = VisionSpec(16, 24, tokens=6, width=10, outputs=3)
    with RKNNEncoder(write(tmp_path, outputs=[SHAPE, (6, 10), (1, 1, 6, 10)]), spec) as encoder:
        data = encoder.encode(picture(), "hash").data
    assert data.shape == (1, 6, 30)
    for output in range(3):
        assert (data[0].reshape(6, 3, 10)[:, output] == expected(picture(), output)).all()


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_view_of_the_wheels_buffer_is_never_kept(wheel: Any, tmp_path: Path, outputs: int) -> None:
    spec = VisionSpec(16, 24, tokens=6, width=10, outputs=outputs)
    with RKNNEncoder(write(tmp_path, "[reuse]", [SHAPE] * outputs), spec) as encoder:
        first = encoder.encode(picture(1), "1").data
        encoder.encode(picture(2), "2")
    assert (first[0].reshape(6, outputs, 10)[:, 0] == expected(picture(1))).all()


def test_the_files_bytes_are_dropped_once_the_runtime_has_them(wheel: Any, tmp_path: Path) -> None:
    with RKNNEncoder(write(tmp_path), SPEC):
        assert wheel.last.rknn_data is None


def test_a_soc_with_one_core_is_given_no_mask(wheel: Any, tmp_path: Path) -> None:
    with RKNNEncoder(write(tmp_path, "[soc=rk3562]", target="rk3562"), SPEC, soc="rk3562"):
        assert wheel.last.rknn_runtime.mask == 0  # the wheel's own default, which it does not pass on


def test_nothing_is_printed_and_warnings_are_logged(
    wheel: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with RKNNEncoder(write(tmp_path, "[say=odd but well]"), SPEC, capture=captured) as encoder:
        encoder.encode(picture(), "hash")
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "E RKNN: [10:00:00.000] odd but well"
    ]


# --- what is refused --------------------------------------------------------------------------------------------------

FAILURES = {
    # words in the file, options: class, exit code, hint
    "[library=missing]": ({}, "RKNNLibraryError", 43, "which is not at /usr/lib/librknnrt.so; get it from"),
    "[library=damaged]": ({}, "RKNNLibraryError", 43, "/usr/lib/librknnrt.so cannot be loaded; get it anew"),
    "[library=old]": ({}, "RKNNLibraryError", 43, "/usr/lib/librknnrt.so is too old for it; put that of the release"),
    "[init=-1][say=Invalid RKNN model version 6]": ({}, "RKNNLibraryError", 43, "is too old for it"),
    "[init=-1][say=failed to malloc npu memory!, size: 64]": ({}, "EncoderMemoryError", 45, "no memory for it; close"),
    "[init=-4]": ({}, "EncoderMemoryError", 45, "RKNN_ERR_MALLOC_FAIL"),
    "[init=-6]": ({}, "EncoderFileError", 4, "it is damaged, or no .rknn that this runtime reads"),
    "[init=-1][say=failed to open rknpu module]": ({}, "RKNNDriverError", 44, "group render or video"),
    "[init=-1][say=The rknn model does not match the RKNPU hardware version!]": (
        {},
        "EncoderPlatformError",
        41,
        "it was built for another SoC than this one; take the file for this one",
    ),
    "[init=-1][say=something new]": ({}, "EncoderError", 4, "RKNN init failed. error code: RKNN_ERR_FAIL"),
    "": ({"soc": "rk3576"}, "EncoderPlatformError", 41, "was built for rk3588, and this is rk3576; take the file for"),
    "[id=1]": (
        {"core_mask": 6},
        "CoreMaskError",
        46,
        "6 is not a core mask of the vendor's; those are 0 (auto)",
    ),
    "[id=2]": ({"core_mask": 5}, "CoreMaskError", 46, "5 is not"),
    "[id=3]": ({"core_mask": -1}, "CoreMaskError", 46, "-1 is not"),
    "[mask=-1]": ({"core_mask": 7}, "CoreMaskError", 46, "does not take the core mask"),
    "[soc=rk3576]": ({"core_mask": 7}, "CoreMaskError", 46, "RK3576 those of cores 0 and 1"),
    "[soc=rk3562]": ({"core_mask": 1}, "CoreMaskError", 46, "the others none"),
    "[run=-1]": ({}, "EncoderError", 4, "rknn_run returned -1"),
    "[outputs=-1]": ({}, "EncoderError", 4, "the encoder failed: Exception: E Get outputs failed"),
    "[nan]": ({}, "EmbeddingError", 4, "NaN or infinity"),
}


@pytest.mark.parametrize("words", FAILURES)
def test_what_goes_wrong(wheel: Any, tmp_path: Path, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    options, kind, code, hint = FAILURES[words]
    path = write(tmp_path, words)
    with pytest.raises(EncoderError) as caught:
        RKNNEncoder(path, SPEC, capture=captured, **options).encode(picture(), "hash")
    assert (type(caught.value).__name__, caught.value.exit_code) == (kind, code)
    assert hint in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_encoder_that_cannot_be_opened_is_given_back(wheel: Any, tmp_path: Path) -> None:
    with pytest.raises(EncoderMismatchError):
        RKNNEncoder(write(tmp_path), VisionSpec(16, 24, tokens=7, width=10))
    assert wheel.last.released == 1


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(
    ("spec", "outputs", "said"),
    [
        (SPEC, [(1, 6, 12)], "width: the profile says 10, the file has 12"),
        (SPEC, [(8, 10)], "tokens: the profile says 6, the file has 8"),
        (SPEC, [(2, 6, 10)], "output shape: the profile says 1 x 6 x 10, the file has 2 x 6 x 10"),
        (SPEC, [SHAPE, SHAPE], "outputs: the profile says 1, the file has 2 ("),
    ],
)
def test_tensors_that_are_not_the_profiles(
    wheel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool, spec: VisionSpec, outputs: Any, said: str
) -> None:
    """tells: whether the wheel says what they are; else a blank picture shows it."""
    monkeypatch.setattr(wheel, "TELLS_TENSORS", tells)
    with pytest.raises(EncoderMismatchError, match=re.escape(said)):
        RKNNEncoder(write(tmp_path, outputs=outputs), spec)


@pytest.mark.parametrize("tells", [True, False])
def test_a_picture_of_another_size_than_the_files(
    wheel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    monkeypatch.setattr(wheel, "TELLS_TENSORS", tells)
    said = "the profile says 1 x 24 x 24 x 3, the file has 1 x 16 x 24 x 3" if tells else "RKNN_ERR_INPUT_INVALID"
    with pytest.raises(EncoderError, match=said) as caught:
        RKNNEncoder(write(tmp_path), VisionSpec(24, 24, tokens=6, width=10))
    assert isinstance(caught.value, EncoderMismatchError) == tells


def test_a_failed_run_does_not_give_the_numbers_of_the_picture_before(wheel: Any, tmp_path: Path) -> None:
    with RKNNEncoder(write(tmp_path), SPEC) as encoder:
        encoder.encode(picture(1), "1")
        wheel.last.rknn_runtime.words["run"] = "-1"
        with pytest.raises(EncoderError, match="rknn_run returned -1"):
            encoder.encode(picture(2), "2")
        wheel.last.rknn_runtime.words["run"] = "0"
        assert (encoder.encode(picture(3), "3").data[0] == expected(picture(3))).all()


def test_a_wheel_that_hides_its_runs(wheel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(wheel.Runtime, "run")
    with pytest.raises(RKNNWheelError, match="does not show whether a run failed"):
        RKNNEncoder(write(tmp_path), SPEC)
    assert wheel.last.released == 1


def test_pixels_of_another_kind(wheel: Any, tmp_path: Path) -> None:
    with RKNNEncoder(write(tmp_path), SPEC) as encoder:
        for pixels in (picture().astype(np.float32), picture()[:, :8], picture()[0]):
            with pytest.raises(EncoderError, match=r"takes uint8 \(1, 16, 24, 3\); got"):
                encoder.encode(pixels, "hash")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a .rknn file by its content; convert the encoder with `vlm convert vision`"),
        (b"\x08\x07onnx", "is not a .rknn file by its content"),
        (b"RKCE" + bytes(100), "is encrypted"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "e.rknn"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EncoderFileError, match=re.escape(said)):
        RKNNEncoder(path, SPEC)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(EncoderFileError, match=r"is a directory; give the \.rknn file in it"):
        RKNNEncoder(tmp_path, SPEC)


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize(
    ("machine", "python", "said"),
    [
        ("x86_64", (3, 11, 2), "runs on a board (aarch64), and this is x86_64; use the .onnx encoder here"),
        (
            "aarch64",
            (3, 13, 0),
            "for Python up to 3.12, and this is Python 3.13.0; make the environment",
        ),
        ("aarch64", (3, 11, 2), "run `pip install rknn-toolkit-lite2`"),
    ],
)
def test_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, python: tuple[int, ...], said: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.python_version", lambda: ".".join(map(str, python)))
    monkeypatch.setattr("sys.version_info", python)
    with pytest.raises(RKNNWheelError) as caught:
        RKNNEncoder(write(tmp_path), SPEC)
    assert said in str(caught.value)
    assert caught.value.exit_code == 42


# --- what the file says of itself -------------------------------------------------------------------------------------


def test_the_targets_of_a_file(tmp_path: Path) -> None:
    assert rknn_targets(write(tmp_path, target="rv1126b", megabytes=1)) == ("rv1126b",)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    size=st.integers(0, 2**64 - 1) | st.integers(0, 100),
    told=st.binary(max_size=60)
    | st.sampled_from([b"[]", b'{"target_platform":7}', b'{"target_platform":[1]}', b"[" * 9999]),
    length=st.integers(0, 2**64 - 1) | st.integers(0, 200),
    cut=st.integers(0, 200),
)
def test_the_targets_of_a_strangers_file(tmp_path: Path, size: int, told: bytes, length: int, cut: int) -> None:
    path = tmp_path / "e.rknn"
    frame = b"RKNN" + bytes(4) + struct.pack("<QQ", 6, size) + bytes(40) + bytes(min(size, 100))
    path.write_bytes((frame + struct.pack("<Q", length) + told)[: cut + 40])
    assert rknn_targets(path) == ()


# --- memory -----------------------------------------------------------------------------------------------------------


def use_often(wheel: Any, path: Path, count: int) -> tuple[int, int]:
    """Encode `count` pictures, a third of them kept in a cache. RSS in the second third, and in the last."""
    cache, resident, pixels = EmbeddingCache(), [], picture()
    with RKNNEncoder(path, SPEC) as encoder:
        for number in range(count):
            pixels[:] = number % 251
            embedding = encoder.encode(pixels, str(number))
            if number % 3 == 0:
                cache.put(cache_key(str(number), encoder), embedding)
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
        for number in range(0, count, 3):
            kept = cache.get(cache_key(str(number), encoder))
            assert kept is not None
            assert (kept.data == (number % 251 - 128) / 64).all()
    return max(resident[count // 3 : 2 * count // 3]), max(resident[2 * count // 3 :])


@pytest.mark.parametrize("count", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_memory_and_kept_embeddings_stay(wheel: Any, tmp_path: Path, count: int) -> None:
    gc.collect()
    gc.disable()  # The interpreter's own collections come when they come.
    try:
        early, late = use_often(wheel, write(tmp_path), count)
    finally:
        gc.enable()
    print(f"{count} inferences: RSS {early / 1e6:.1f} MB, then {late / 1e6:.1f} MB")
    assert late - early < 1.5e6  # without a collection of ours, 42 kB for each: 1.7 MB and 14 MB


def test_memory_of_a_large_file(tmp_path: Path) -> None:
    """RSS stays under 1.3 times the file, and its peak is about twice. In a child, for a peak of its own."""
    megabytes = 300
    path = write(tmp_path, megabytes=megabytes)
    code = rf"""
import json, re, sys
from pathlib import Path
sys.path.insert(0, {str(WHEEL)!r})
import rknnlite.api
from encoders.base import VisionSpec
from encoders.rknn import RKNNEncoder
# Not getrusage: its peak would be that of the process that started this one, where that was larger.
told = lambda name: int(re.search(name + r":\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = told("VmRSS")
with RKNNEncoder({str(path)!r}, {SPEC!r}):
    after = told("VmRSS")
peak = told("VmHWM")
print(json.dumps([before, after, peak]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, peak = json.loads(done.stdout.splitlines()[-1])
    path.unlink()
    after, peak = ((bytes_ - before) / (megabytes << 20) for bytes_ in (after, peak))
    print(f"{megabytes} MB file: RSS {after:.2f} times the file once open, {peak:.2f} at its peak")
    assert after < 1.3
    assert 1.8 < peak < 2.3
