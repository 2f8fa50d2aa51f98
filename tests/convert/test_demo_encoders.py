"""The demo's encoders for the NPU: which one a board takes, what they were made from, and whether they can be again."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sample_pictures import ROOT

from vlm import locate, npu
from vlm.convert.environment import Converter
from vlm.convert.vision import VisionJob, convert_vision
from vlm.resources import demo_dir
from vlm.settings import Settings

MODEL = ROOT / "samples" / "demo" / "model"


def test_the_model_card_knows_the_files() -> None:
    """Whoever trains the encoder anew has to convert it anew: samples/demo/convert.py writes these hashes."""
    card = (MODEL / "README.md").read_text()
    listed = dict(re.findall(r"\| `(vision_encoder\S*)` \| `([0-9a-f]{64})` \|", card))
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in MODEL.glob("vision_encoder*")}
    assert listed == files
    assert sorted(files) == sorted(["vision_encoder.onnx", *(f"vision_encoder_{soc}.rknn" for soc in npu.SOCS)])


@pytest.mark.parametrize("soc", npu.SOCS)
def test_each_says_its_soc_and_its_tensors(soc: str) -> None:
    """A .rknn file ends with a description of its graph."""
    content = (MODEL / f"vision_encoder_{soc}.rknn").read_bytes()
    assert content.startswith(b"RKNN")
    for word in (f'"target_platform":["{soc}"]', '"size":[1,3,112,112]', '"size":[1,49,160]'):
        assert word.encode() in content[-2000:]


@pytest.mark.parametrize("soc", npu.SOCS)
def test_a_board_takes_its_own_encoder_and_the_hosts_words(soc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "find_soc", lambda: npu.SOCS[soc])
    parts = locate.locate("demo", Settings())
    assert (parts.encoder, parts.llm) == (demo_dir() / f"vision_encoder_{soc}.rknn", demo_dir())
    assert parts.side == "host"


def test_a_pc_takes_neither_of_them() -> None:
    parts = locate.locate("demo", Settings())
    assert (parts.encoder, parts.llm) == (demo_dir() / "vision_encoder.onnx", demo_dir())


# --- with the real toolkit --------------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """samples/demo/convert.py."""
    monkeypatch.syspath_prepend(str(ROOT / "samples" / "demo"))
    import convert

    yield convert
    for name in ("convert", "world"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_they_can_be_made_anew(real_converter: Converter, script: ModuleType, tmp_path: Path) -> None:
    """fp16 as shipped, but for the addresses that the toolkit leaves in; simulated, as the ONNX file, 20 times."""
    pictures = script.sample_pictures(tmp_path)
    builds = list(
        convert_vision(VisionJob("demo", out=tmp_path, pictures=pictures, ask=script.QUESTION), real_converter)
    )
    assert [built.target for built in builds] == list(npu.SOCS)
    for built in builds:
        assert built.problems == []
        assert len(built.comparisons) == 20
        assert min(each.cosine for each in built.comparisons) > 0.99999
        made, shipped = (np.fromfile(folder / built.file.name, np.uint8) for folder in (tmp_path, MODEL))
        assert made.size == shipped.size
        assert (made != shipped).sum() < 2000


@pytest.mark.slow
def test_int8_answers_alike(real_converter: Converter, script: ModuleType, tmp_path: Path) -> None:
    pictures, calibration = (
        script.sample_pictures(tmp_path),
        script.draw_pictures(tmp_path / "calibration", 64, seed=21),
    )
    job = VisionJob("demo", None, ["rk3588"], "int8", calibration, tmp_path, pictures, script.QUESTION)
    built = next(convert_vision(job, real_converter))
    assert built.problems == []
    assert 0.999 < min(each.cosine for each in built.comparisons) < 0.99999
