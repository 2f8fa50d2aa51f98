"""From the authors' model to an answer: exported, run by the whole pipeline, and compared with transformers' own words.

The models are tiny and their weights random, but the architectures are the real ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_pictures import PICTURES
from tiny_words import CONTENT, profile, tokenizer, write
from typer.testing import CliRunner

import vlm
from encoders import fit_image, load_image
from vlm.cli import app
from vlm.convert.environment import Converter
from vlm.convert.export import Exported, ExportJob, Part, export
from vlm.convert.vision import VisionJob, convert_vision
from vlm.errors import ConversionError, EncoderMismatchError, OptionError
from vlm.profile import load_profile

AUTHORS = Path(__file__).with_name("authors.py")
KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "janus", "smolvlm", "idefics3")
ORDINARY = ("qwen3_vl",)
FILES = [PICTURES / name for name in ("two-hearts.png", "wide-row.webp", "tower.jpg", "night.jpg")]
TOKENS = 32

kinds = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ORDINARY else pytest.mark.slow) for kind in KINDS]
)
pytestmark = pytest.mark.timeout(1200)


@dataclass
class Authors:
    """A tiny model as its authors would publish it, and our files made from it."""

    kind: str
    converter: Converter
    folder: Path
    exported: dict[str, Exported] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def out(self) -> Path:
        return self.folder / "tiny"

    def run(self, **job: Any) -> None:
        """Have transformers do something."""
        (self.folder / "reply.json").unlink(missing_ok=True)
        self.converter.run(AUTHORS, job, self.folder)

    def export(self, part: Any, **options: Any) -> Any:
        return export(ExportJob(part, self.out, self.model, **options), self.converter)


@pytest.fixture(scope="module")
def models() -> dict[str, Authors]:
    return {}


@pytest.fixture
def authors(
    kind: str, real_converter: Converter, models: dict[str, Authors], tmp_path_factory: pytest.TempPathFactory
) -> Authors:
    """The model of a kind with its files, exported once."""
    if kind not in models:
        made = Authors(kind, real_converter, tmp_path_factory.mktemp(kind))
        made.run(make=kind, directory=str(made.model))
        write(kind, made.model, made.out)
        parts: tuple[Part, ...] = ("vision", "words")
        with pytest.MonkeyPatch.context() as patch:  # as a reader names them, where he stands
            patch.chdir(made.folder)
            jobs = {part: ExportJob(part, "tiny", Path("model"), weights="fp32") for part in parts}
            made.exported = {part: export(job, real_converter) for part, job in jobs.items()}
        models[kind] = made
    return models[kind]


@kinds
def test_onnx_runtime_equals_pytorch(authors: Authors) -> None:
    for part, done in authors.exported.items():
        print(f"{authors.kind} {part}: cosine {done.cosine:.9f}, largest difference {done.difference:.2g}")
        assert done.cosine >= 0.9999
        assert done.difference < 1e-2  # of logits that the spread weights make large
        assert all(file.parent == Path("tiny") for file in done.files)
    models = {"vision_encoder.onnx", "decoder_model_merged.onnx", "embed_tokens.onnx"}
    beside = {"profile.toml", "tokenizer.json", "config.json", "generation_config.json"}
    assert {path.name for path in authors.out.iterdir()} == models | beside


@kinds
def test_the_pipeline_tells_what_transformers_generates(authors: Authors, tmp_path: Path) -> None:
    """Token for token, on one picture and on two: our patches, prompt, positions and cache are theirs."""
    spec = load_profile(authors.out / "profile.toml").vision
    asks, ours = [], []
    with vlm.load(authors.out) as model:
        for number, pictures in enumerate([*((file,) for file in FILES[:3]), *pairwise(FILES)]):
            pixels = np.concatenate([fit_image(load_image(file, needed=spec), spec) for file in pictures])
            place = tmp_path / f"{number}.npy"
            np.save(place, pixels)
            asks.append({"ids": prompt_ids(len(pictures), spec.tokens), "pixels": str(place)})
            ours.append(model.describe(list(pictures), "what is this", max_new_tokens=TOKENS).text)
    reply = tmp_path / "generated.json"
    authors.run(generate=str(authors.model), asks=asks, mean=spec.mean, std=spec.std, count=TOKENS, answers=str(reply))
    told = json.loads(reply.read_text())
    assert [len(ids) for ids in told] == [TOKENS] * len(asks)
    theirs = [tokenizer().decode(ids, skip_special_tokens=True) for ids in told]
    assert len(set(theirs)) == len(theirs)  # each picture has an answer of its own
    assert ours == theirs


@kinds
def test_the_simulated_npu_agrees_with_onnx_runtime(authors: Authors, tmp_path: Path) -> None:
    """rknn-toolkit2 builds the tower, and its simulator gives what ONNX Runtime gives, from the same pixels."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for file in FILES:
        (pictures / file.name).symlink_to(file)
    job = VisionJob(authors.out, targets=["rk3588"], out=tmp_path, pictures=pictures)
    (built,) = convert_vision(job, authors.converter)
    worst = min(each.cosine for each in built.comparisons)
    print(f"{authors.kind}: simulated against ONNX Runtime, cosine {worst:.7f} on the worst of {len(FILES)} pictures")
    assert worst >= 0.999
    assert built.problems == []
    assert built.file.stat().st_size > 10_000


def prompt_ids(images: int, tokens: int) -> list[int]:
    """The prompt as transformers wants it: written out here once more, not taken from our own code."""
    picture = "<img> " + "<pad> " * tokens + "</img> "
    ids: list[int] = tokenizer().encode(f"user {picture * images}what is this assistant").ids
    assert ids.count(CONTENT) == images * tokens
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("kind", ORDINARY)
@pytest.mark.parametrize("weights", ["fp16", "int8", "int4"])
def test_weights_stored_smaller_run_all_the_same(authors: Authors, weights: str) -> None:
    before = set(authors.out.iterdir())
    done = authors.export("words", weights=weights)
    suffix = {"fp16": "_fp16", "int8": "_int8", "int4": "_q4"}[weights]
    (decoder,) = (file for file in done.files if file.name.startswith("decoder"))
    assert decoder.name == f"decoder_model_merged{suffix}.onnx"
    with vlm.load(authors.out, llm=decoder) as model:
        answer = model.describe(FILES[0], "what is this", max_new_tokens=TOKENS)
    assert len(answer.text.split()) == TOKENS
    for file in set(done.files) - before:
        file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ORDINARY)
def test_large_weights_lie_beside_the_file(authors: Authors) -> None:
    """As they must above 2 GB; here the bound is lowered."""
    for part in ("vision", "words"):
        done = authors.export(part, weights="fp32", external_bytes=10_000)
        (data,) = (file for file in done.files if file.name.startswith(("vision", "decoder")) and "_data" in file.name)
        assert data.with_name(data.name.removesuffix("_data")).stat().st_size < data.stat().st_size
    with vlm.load(authors.out) as model:
        assert len(model.describe(FILES[0], "what is this").text.split()) == TOKENS
    for file in authors.out.glob("*_data"):
        file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ORDINARY)
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"tokens": 64, "height": 256, "width_px": 256, "width": 96},
            EncoderMismatchError,
            "width: the profile says 96, the file has 64",
        ),
        ({"outputs": 1}, EncoderMismatchError, "outputs"),
        ({"height": 100}, ConversionError, "100 px is not a multiple of 32"),
    ],
)
def test_a_profile_that_does_not_fit_the_model(
    authors: Authors, tmp_path: Path, changes: dict[str, int], error: type[Exception], words: str
) -> None:
    own = tmp_path / "tiny.toml"
    own.write_text(profile(authors.kind, **changes))
    with pytest.raises(error, match=words):
        export(ExportJob("vision", str(own), authors.model, tmp_path / "out"), authors.converter)
    assert {file.suffix for file in (tmp_path / "out").iterdir()} <= {".log"}


def test_models_that_cannot_be_exported(real_converter: Converter, tmp_path: Path) -> None:
    job = ExportJob("words", "qwen2-vl-2b", tmp_path / "model", tmp_path / "out")
    with pytest.raises(OptionError, match=r"has no config\.json"):
        export(job, real_converter)
    job.source.mkdir()
    (job.source / "config.json").write_text('{"model_type": "minicpmv"}')
    with pytest.raises(ConversionError, match="'minicpmv' is not one of qwen2_vl"):
        export(job, real_converter)
    with pytest.raises(OptionError, match=r"The files of demo come with rkvlm, .*--out"):
        export(ExportJob("words", "demo", job.source), real_converter)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ORDINARY)
def test_the_commands(authors: Authors) -> None:
    """Without --out, the files go to where the model is looked for."""
    where = ["--from", str(authors.model), "--dir", str(authors.converter.directory)]
    for command, name in (("export", "vision_encoder.onnx"), ("host", "decoder_model_merged_fp16.onnx")):
        done = CliRunner().invoke(app, ["convert", command, str(authors.out / "profile.toml"), *where])
        assert done.exit_code == 0, done.output
        assert f"{authors.out / name}: " in done.stdout
        assert "ONNX Runtime beside PyTorch: cosine 1.0000000" in done.stdout
