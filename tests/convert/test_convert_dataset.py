"""`vlm convert dataset`: what a language model is fed, written down, is what it answers from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_pictures import PICTURES, TRUTH

import vlm
from vlm import errors
from vlm.convert.dataset import DatasetJob, make_dataset
from vlm.convert.llm import LlmJob, LlmOptions, plan
from vlm.host.decoder import Context, Decoder
from vlm.host.files import find_model, read_config
from vlm.host.text import Text
from vlm.prompt import IMAGE, Message, render
from vlm.resources import configs_dir, demo_dir

NAMES = ("blue-star.jpg", "tower.jpg", "traffic-light.jpg")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _settings(clean_settings: None) -> None:
    """Without the machine's own settings."""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes((PICTURES / name).read_bytes())
    return folder


def answer(embeddings: Any, count: int) -> str:
    """What the demo's language model says to them: greedy, and written out here anew."""
    files = find_model(demo_dir())
    decoder, said = Decoder(files, read_config(files)), []
    context = Context(decoder)
    feed = np.array(embeddings, decoder.feed_dtype)[0]
    logits = context.prefill(feed, deepstack=None, positions=None, next_position=None, all_logits=False).logits[-1]
    for _ in range(count):
        said.append(int(logits.argmax()))
        logits = context.step(said[-1])
    stream = Text(files.tokenizer).stream(skip_special=True)
    return b"".join(stream.push(token)[0] for token in said).decode()


def tokens_before_the_picture(model: vlm.VLM, question: str) -> int:
    before = render(model.profile, [Message("user", [IMAGE, question])]).text.partition("<image>")[0]
    return len(Text(demo_dir() / "tokenizer.json").encode(before + model.profile.tags.start, start=True))


def test_the_model_answers_from_what_is_written(pictures: Path, tmp_path: Path, run: Run, demo: vlm.VLM) -> None:
    out = tmp_path / "set.json"
    code, told, _ = run("convert", "dataset", pictures, "--out", out, "--most", 2)
    assert (code, told.startswith(f"{out}: 2 samples")) == (0, True)
    samples = json.loads(out.read_text())
    assert [sample["target"] for sample in samples] == [TRUTH[name] for name in NAMES[:2]]
    spec = demo.profile.vision
    for name, sample in zip(NAMES, samples, strict=False):
        fed = np.array(sample["input_embed"])
        assert (fed.ndim, fed.shape[0], fed.shape[2]) == (3, 1, spec.width)
        # The picture stands in it somewhere, row by row, as the encoder gave it.
        picture = demo.encode(pictures / name).data[0].astype(np.float16).astype(np.float64)
        starts = [at for at in range(fed.shape[1]) if np.array_equal(fed[0, at : at + spec.tokens], picture)]
        assert starts == [tokens_before_the_picture(demo, "Describe the picture.")]
        assert fed.shape[1] == demo.describe(pictures / name).prompt_tokens
        assert answer(sample["input_embed"], len(TRUTH[name].split()) + 3).startswith(sample["target"])
    # And `vlm convert llm` takes it.
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text("{}")
    assert plan(LlmJob(source, tmp_path / "a.rkllm", LlmOptions(dataset=out)))[1].named["dataset"] == str(out)


def test_another_question_is_answered_otherwise(pictures: Path, tmp_path: Path) -> None:
    job = DatasetJob(pictures, tmp_path / "set.json", ask="What colour is the star?", most=1)
    assert make_dataset(job) == 1
    assert json.loads(job.out.read_text())[0]["target"] == "The star is blue."


def test_what_no_set_can_be_made_of(pictures: Path, tmp_path: Path) -> None:
    job = DatasetJob(pictures, tmp_path / "set.json")
    (tmp_path / "own").mkdir()
    for file in demo_dir().glob("*.onnx"):
        (tmp_path / "own" / file.name).symlink_to(file)
    for file in demo_dir().glob("*.json"):
        (tmp_path / "own" / file.name).symlink_to(file)
    profile = (configs_dir() / "demo.toml").read_text()
    (tmp_path / "own" / "profile.toml").write_text(profile.replace("width = 160", "width = 160\noutputs = 3"))
    with pytest.raises(errors.OptionError, match=r"feeds 2 further embeddings .*deepstack"):
        make_dataset(replace(job, model=tmp_path / "own"))
    (tmp_path / "own" / "profile.toml").write_text(profile)
    with pytest.raises(errors.OptionError, match="at least one picture; got 0"):
        make_dataset(replace(job, most=0))
    with pytest.raises(errors.OptionError, match="has no pictures"):
        make_dataset(replace(job, pictures=configs_dir()))
    with pytest.raises(errors.OptionError, match=r"set\.json cannot be written: No such file"):
        make_dataset(replace(job, out=tmp_path / "gone" / "set.json", most=1))
    (pictures / "half.jpg").write_bytes((PICTURES / "night.jpg").read_bytes()[:2000])
    with pytest.raises(errors.ImageError, match=r"half\.jpg"):
        make_dataset(job)
    assert not job.out.exists()
