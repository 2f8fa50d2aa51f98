"""A vision encoder in an ONNX file becomes .rknn files, each compared with its original before it is kept.

The .rknn takes uint8 NHWC RGB, with the profile's mean and std baked in. It is run in the toolkit's simulator, on
pictures that our own preprocessing made, beside the ONNX file in ONNX Runtime. The simulator is no board: it computes
what the NPU should, in fp16 or int8, and knows neither its speed nor its driver.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import vlm
from encoders import ImageEmbedding, VisionSpec, fit_image, load_image, open_encoder
from vlm.convert.environment import Converter
from vlm.errors import AccuracyError, ConversionError, OptionError
from vlm.keys import did_you_mean
from vlm.locate import find_profile
from vlm.npu import SOCS
from vlm.settings import load_settings

# Below this cosine a build is refused, unless another bound is asked for.
LEAST: Final = {"fp16": 0.999, "int8": 0.99}
MOST_PICTURES: Final = 20
# What the toolkit leaves uninitialised in the file that it writes is old memory of its process; so it is zeros.
ZEROED: Final = {"MALLOC_PERTURB_": "255"}
WORKER = Path(__file__).with_name("vision_worker.py")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True)
class VisionJob:
    """What to convert.

    model: as `vlm.load` takes it. onnx: the encoder's file; None takes the model's own. targets: names of SoCs, or
    "all". dtype: "fp16" or "int8". calibration: a folder of pictures, for int8 and only then. out: where the files go.
    pictures: a folder to compare on, the first 20; None takes those of the calibration, or makes some up. ask: a
    question that the model must answer alike from both embeddings; None asks nothing. least: the cosine that every
    picture must reach.
    """

    model: str | Path | None = None
    onnx: Path | None = None
    targets: Sequence[str] = ("all",)
    dtype: str = "fp16"
    calibration: Path | None = None
    out: Path = Path()
    pictures: Path | None = None
    ask: str | None = None
    least: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One picture through both files.

    cosine: of the whole embeddings. worst_token: of the token that differs most. answers: the model's, from ONNX
    Runtime's embedding and from the simulated one, if it was asked.
    """

    picture: str
    cosine: float
    worst_token: float
    answers: tuple[str, str] | None


@dataclass(frozen=True)
class Built:
    """One .rknn file, and how it compares with the ONNX file. kept: whether it is good enough, and so is in `file`."""

    target: str
    dtype: str
    file: Path
    least: float
    toolkit: str
    comparisons: tuple[Comparison, ...]

    @property
    def problems(self) -> list[str]:
        """Why it was not kept: what is wrong with each picture, in words."""
        low = [f"{each.picture}: cosine {each.cosine:.6f}" for each in self.comparisons if each.cosine < self.least]
        asked = [(each.picture, each.answers) for each in self.comparisons if each.answers is not None]
        return low + [f"{name}: {is_!r}, not {should!r}" for name, (should, is_) in asked if should != is_]

    @property
    def kept(self) -> bool:
        """Whether it is good enough, and so was kept."""
        return not self.problems


def convert_vision(
    job: VisionJob, converter: Converter, say: Callable[[str], None] = lambda _: None
) -> Iterator[Built]:
    """Build the encoder for each target, one after another; say: told each step.

    Raises OptionError, ProfileError, EncoderError or ImageError before anything is built, and ConversionError where the
    toolkit fails. What does not compare well is yielded, and not kept: see `refuse_what_was_not_kept`.
    """
    targets = _targets(job.targets)
    if job.dtype not in LEAST:
        raise OptionError(f'"{job.dtype}" is no dtype; known: {", ".join(LEAST)}.')
    if (job.dtype == "int8") != (job.calibration is not None):
        raise OptionError("int8 needs a folder of calibration pictures, and fp16 takes none.")
    profile, directory = find_profile(job.model, load_settings())
    onnx = job.onnx or profile.find_file(directory, "encoder", "host")
    if onnx.suffix != ".onnx":
        raise OptionError(f"{onnx} is no .onnx file by its name.")
    spec = profile.vision
    _make_directory(job.out)
    with TemporaryDirectory(prefix="rkvlm-convert-") as name:
        folder = Path(name)
        calibration = None if job.calibration is None else _read_folder(job.calibration, spec)
        names, pixels = _pictures(job, spec)
        say(f"{onnx.name} in ONNX Runtime, {len(names)} pictures")
        judge = _Judge(job, onnx, spec, names, pixels)
        np.save(folder / "pixels.npy", pixels)
        if calibration is not None:
            np.save(folder / "calibration.npy", calibration[1])
        toolkit_job = {
            "onnx": str(onnx.resolve()),
            "mean": [value * 255 for value in spec.mean],
            "std": [value * 255 for value in spec.std],
            "pixels": str(folder / "pixels.npy"),
            "calibration": None if calibration is None else str(folder / "calibration.npy"),
            "simulated": str(folder / "simulated.npz"),
            "rknn": str(folder / "built.rknn"),
        }
        for target in targets:
            say(f"{job.dtype} for {target}: building, and running {len(names)} pictures in the simulator")
            file = job.out / f"{onnx.stem}{'' if job.dtype == 'fp16' else f'_{job.dtype}'}_{target}.rknn"
            toolkit = _run(converter, {**toolkit_job, "target": target}, folder, file)
            built = Built(target, job.dtype, file, judge.least, toolkit, judge.compare(folder / "simulated.npz"))
            if built.kept:
                _put(folder / "built.rknn", file)
            yield built


def refuse_what_was_not_kept(builds: Sequence[Built]) -> None:
    """Raise AccuracyError that names the builds which did not compare well enough, and the worst pictures of each."""
    refused = [built for built in builds if not built.kept]
    if refused:
        words = [f"{each.target}: {'; '.join(each.problems[:3])}" for each in refused]
        raise AccuracyError(
            f"Not kept, because every picture must reach a cosine of {refused[0].least} and be answered alike: "
            f"{' | '.join(words)}. More, or more fitting, calibration pictures help int8; check the profile's mean and "
            "std against the export otherwise."
        )


class _Judge:
    """What the ONNX file makes of the pictures, to compare a build with."""

    def __init__(
        self, job: VisionJob, onnx: Path, spec: VisionSpec, names: list[str], pixels: NDArray[np.uint8]
    ) -> None:
        self.least = LEAST[job.dtype] if job.least is None else job.least
        self._spec, self._names, self._job, self._onnx = spec, names, job, onnx
        encoder = open_encoder(onnx, spec)
        try:
            self._embeddings = [encoder.encode(each[None], name) for each, name in zip(pixels, names, strict=True)]
        finally:
            encoder.close()
        self._answers = self._ask(self._embeddings)

    def compare(self, simulated: Path) -> tuple[Comparison, ...]:
        with np.load(simulated) as outputs:
            rows = zip(*(outputs[f"output_{number}"] for number in range(len(outputs.files))), strict=True)
            embeddings = [
                ImageEmbedding(_join(list(row), self._spec), (name,))
                for row, name in zip(rows, self._names, strict=True)
            ]
        answers = zip(self._answers, self._ask(embeddings), strict=True)
        pairs = zip(self._names, self._embeddings, embeddings, strict=True)
        return tuple(
            Comparison(name, *_cosines(should.data, is_.data), both if self._job.ask is not None else None)
            for (name, should, is_), both in zip(pairs, answers, strict=True)
        )

    def _ask(self, embeddings: list[ImageEmbedding]) -> list[str]:
        """The model's answer to the job's question about each, the likeliest words; empty if nothing is to be asked."""
        if self._job.ask is None:
            return [""] * len(embeddings)
        with vlm.load(self._job.model, encoder=self._onnx) as model:
            return [model.describe(embedding, self._job.ask, top_k=1).text for embedding in embeddings]


def _targets(wanted: Sequence[str]) -> list[str]:
    named = [soc for target in wanted for soc in (SOCS if target == "all" else [target])]
    for target in named:
        if target not in SOCS:
            raise OptionError(
                f'"{target}" is no target{did_you_mean(target, list(SOCS))}; known: {", ".join(SOCS)}, all.'
            )
    return list(dict.fromkeys(named))


def _pictures(job: VisionJob, spec: VisionSpec) -> tuple[list[str], NDArray[np.uint8]]:
    """Names and pixels to compare on, uint8 (pictures, height, width, 3)."""
    folder = job.pictures or job.calibration
    if folder is not None:
        return _read_folder(folder, spec, MOST_PICTURES)
    # Blots of colour: not what the model was made for, but nothing that it could not be given.
    rng = np.random.default_rng(0)
    blots = [fit_image(rng.integers(0, 256, (9, 9, 3), np.uint8), spec) for _ in range(4)]
    return [f"made-up picture {number}" for number in range(1, len(blots) + 1)], np.concatenate(blots)


def find_pictures(folder: Path, most: int | None = None) -> list[Path]:
    """The pictures of a folder by name, at most so many. Raises OptionError where there are none."""
    if not folder.is_dir():
        raise OptionError(f"{folder} is no folder of pictures.")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)[:most]
    if not files:
        raise OptionError(f"The folder {folder} has no pictures (files that end in {', '.join(sorted(SUFFIXES))}).")
    return files


def _read_folder(folder: Path, spec: VisionSpec, most: int | None = None) -> tuple[list[str], NDArray[np.uint8]]:
    files = find_pictures(folder, most)
    return [file.name for file in files], np.concatenate(
        [fit_image(load_image(file, needed=spec), spec) for file in files]
    )


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OptionError(f"The directory {directory} cannot be made: {exc.strerror}.") from exc


def _run(converter: Converter, toolkit_job: dict[str, Any], folder: Path, file: Path) -> str:
    """Build and simulate; the toolkit's version. What it printed is kept beside the file if it fails."""
    try:
        done = converter.run(WORKER, toolkit_job, folder, log=file.with_suffix(".log"), environment=ZEROED)
        return str(done["toolkit"])
    except ConversionError as exc:
        raise ConversionError(f"{toolkit_job['target']}: {exc}") from exc


def _put(built: Path, file: Path) -> None:
    """Copy the file to where it belongs, at once: nobody finds half of it there."""
    part = file.with_name(file.name + ".part")
    shutil.copyfile(built, part)
    os.replace(part, file)


def _join(outputs: list[NDArray[np.float32]], spec: VisionSpec) -> NDArray[np.float32]:
    """The outputs for one picture as one embedding, float32 (1, tokens, width x outputs), [token][output][width]."""
    sizes = [output.size for output in outputs]
    if sizes != [spec.tokens * spec.width] * spec.outputs:
        raise ConversionError(
            f"The built file gives outputs of {sizes} numbers; the profile says {spec.outputs} of "
            f"{spec.tokens} tokens x width {spec.width}."
        )
    joined = np.stack([output.reshape(spec.tokens, spec.width) for output in outputs], axis=1)
    return np.ascontiguousarray(joined.reshape(1, spec.tokens, -1), np.float32)


def _cosines(should: NDArray[np.float32], is_: NDArray[np.float32]) -> tuple[float, float]:
    """Cosine of the whole embeddings, and of the token that differs most."""
    a, b = (data[0].astype(np.float64) for data in (should, is_))
    tokens = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30)), float(tokens.min())
