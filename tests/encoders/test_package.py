"""The package: what importing it loads, its names, and which file is opened by what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import encoders
from encoders.errors import EncoderFileError, EncoderUnavailableError
from encoders.open import ENCODERS

SPEC = encoders.VisionSpec(height=8, width_px=8, tokens=4, width=6)


def loaded_by(code: str) -> set[str]:
    """The heavy modules that this code loads, in a Python of its own."""
    heavy = ("numpy", "PIL", "cv2", "onnxruntime", "pydantic", "rknnlite")
    ask = f"{code}\nimport sys; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import encoders, encoders.errors") == set()
    assert loaded_by("from encoders import load_image, fit_image, open_encoder, EmbeddingCache").isdisjoint(
        {"onnxruntime", "rknnlite", "cv2"}
    )


def test_every_public_name_is_there_and_no_other() -> None:
    for name in encoders.__all__:
        assert getattr(encoders, name).__name__ == name or name == "Fit"
    assert dir(encoders) == sorted(encoders.__all__)
    with pytest.raises(AttributeError, match="no attribute 'decode_image'"):
        encoders.decode_image  # type: ignore[attr-defined]  # noqa: B018


def test_the_suffix_says_what_opens_a_file(tmp_path: Path) -> None:
    assert set(ENCODERS) == {".onnx", ".rknn"}
    for name in ("encoder", "encoder.pt", "encoder.onnx.zip"):
        with pytest.raises(EncoderFileError, match=r"ends in \.onnx or \.rknn, not in"):
            encoders.open_encoder(tmp_path / name, SPEC)
    with pytest.raises(EncoderFileError, match="No such file"):
        encoders.open_encoder(tmp_path / "ENCODER.ONNX", SPEC)


def test_an_rknn_encoder_cannot_be_opened_here(tmp_path: Path) -> None:
    (tmp_path / "e.rknn").write_bytes(b"RKNN" + bytes(100))
    with pytest.raises(EncoderUnavailableError, match=r"'.*e\.rknn'"):
        encoders.open_encoder(tmp_path / "e.rknn", SPEC)
