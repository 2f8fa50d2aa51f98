"""The authors' own model becomes ONNX: its vision tower for `vlm convert vision`, its words for the host runtime.

transformers loads the model in the converter's environment; the files are compared with PyTorch there, and the encoder
with the profile here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from encoders import open_encoder
from vlm.convert.environment import Converter
from vlm.errors import AccuracyError, OptionError
from vlm.locate import find_profile
from vlm.settings import load_settings

Part = Literal["vision", "words"]
WORKER: Final = Path(__file__).with_name("export_worker")
WEIGHTS: Final = ("fp32", "fp16", "int8", "int4")
LEAST: Final = 0.9999
"""Cosine that ONNX Runtime must reach against PyTorch."""
_EXTERNAL: Final = 1_500_000_000  # a protobuf file ends at 2 GB


@dataclass(frozen=True)
class ExportJob:
    """What to export.

    part: the vision tower, or the words. model: as `vlm.load` takes it; its profile says the encoder's size. source:
    the directory of the authors' model, as transformers loads it (config.json, weights, tokenizer.json). out: where the
    files go; None is the model's own directory, where a PC looks for them. weights: how those of the words are stored,
    one of WEIGHTS. external_bytes: above this they lie in a file of their own.
    """

    part: Part
    model: str | Path
    source: Path
    out: Path | None = None
    weights: str = "fp16"
    external_bytes: int = _EXTERNAL


@dataclass(frozen=True)
class Exported:
    """What was written. difference, cosine: ONNX Runtime against PyTorch on the same random input, the worst output."""

    files: tuple[Path, ...]
    difference: float
    cosine: float


def export(job: ExportJob, converter: Converter) -> Exported:
    """Write the files of one part; of an export that failed, nothing is left but its log.

    Raises ProfileError, OptionError, ConversionError where transformers or the exporter fails, AccuracyError where ONNX
    Runtime disagrees with PyTorch, EncoderMismatchError where the tower is not what the profile says.
    """
    profile, directory = find_profile(job.model, load_settings())
    if job.weights not in WEIGHTS:
        raise OptionError(f'"{job.weights}" is no way to store weights; known: {", ".join(WEIGHTS)}.')
    if not (job.source / "config.json").is_file():
        raise OptionError(f"{job.source} is no directory of a model: it has no config.json.")
    if job.out is None and profile.files.bundled:
        raise OptionError(f"The files of {profile.name} come with rkvlm, and stay as they are; say where with --out.")
    spec, out = profile.vision, job.out or directory
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OptionError(f"The directory {out} cannot be made: {exc.strerror}.") from exc
    with TemporaryDirectory(prefix=".export-", dir=out) as name:
        folder = Path(name).resolve()
        made = folder / "made"
        worker_job = {
            "part": job.part,
            "model": str(job.source.resolve()),
            "out": str(made),
            "size": [spec.height, spec.width_px],
            "weights": job.weights,
            "external_bytes": job.external_bytes,
        }
        reply = converter.run(WORKER, worker_job, folder, log=out / "export.log")
        if reply["cosine"] < LEAST:
            raise AccuracyError(
                f"ONNX Runtime and PyTorch disagree on the {job.part}: cosine {reply['cosine']:.6f}, expected at least "
                f"{LEAST}. Nothing was kept."
            )
        if job.part == "vision":
            open_encoder(made / "vision_encoder.onnx", spec).close()
        files = tuple(_move(file, out) for file in sorted(made.iterdir()))
    return Exported(files, reply["difference"], reply["cosine"])


def _move(file: Path, out: Path) -> Path:
    os.replace(file, out / file.name)
    return out / file.name
