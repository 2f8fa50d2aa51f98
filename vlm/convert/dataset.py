"""A set to quantise a language model with, from a folder of pictures: `vlm convert dataset`.

A model that is quantised on text alone loses on what it never saw, the embeddings of pictures. So rkllm-toolkit takes a
JSON list of {"input_embed": [1][tokens][width] numbers, "target": text} for `dataset`, as the vendor's examples for
Janus-Pro and InternVL3 write it: the whole prompt as the language model is fed it, a picture's embedding in its
midst, and the answer to it. Ours come from our own pixels, prompt and encoder, which are those of the board.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import vlm
from vlm.convert.vision import find_pictures
from vlm.errors import OptionError
from vlm.locate import Parts, locate
from vlm.options import DEFAULT_PROMPT
from vlm.profile import Profile
from vlm.prompt import IMAGE, Message, render
from vlm.settings import load_settings

MOST: Final = 20
"""Pictures taken if no other number is asked for; the vendor's set has as many."""


@dataclass(frozen=True)
class DatasetJob:
    """What to make a set of.

    pictures: a folder. out: the JSON file. model: as `vlm.load` takes it, with its ONNX files: they embed the prompt
    and answer it. ask: the question about each picture. most: pictures taken, the first by name.
    """

    pictures: Path
    out: Path
    model: str | Path | None = None
    ask: str = DEFAULT_PROMPT
    most: int = MOST


def make_dataset(job: DatasetJob, say: Callable[[str], None] = lambda _: None) -> int:
    """Write the set; returns how many samples it has.

    say: told each step. Raises OptionError for a folder without pictures, for a model whose words do not run on a PC,
    and for one with deepstack, whose further embeddings this format has no place for; ImageError for a damaged picture.
    """
    parts = locate(job.model, load_settings())
    _check(parts, job)
    files = find_pictures(job.pictures, job.most)
    samples: list[tuple[NDArray[np.float32], str]] = []
    with vlm.load(job.model) as model:
        for file in files:
            say(f"{file.name}: encoding and asking")
            embedding = model.encode(file)
            samples.append((embedding.data[0], model.describe(embedding, job.ask, top_k=1).text))
    say("embedding the prompts")
    part = job.out.with_name(job.out.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as output:
            output.write("[\n")
            for number, sample in enumerate(_embedded(samples, parts, job.ask)):
                output.write(",\n" if number else "")
                json.dump(sample, output, ensure_ascii=False)
            output.write("\n]\n")
        os.replace(part, job.out)
    except OSError as exc:
        raise OptionError(f"{job.out} cannot be written: {exc.strerror}.") from exc
    finally:
        part.unlink(missing_ok=True)
    return len(samples)


def _check(parts: Parts, job: DatasetJob) -> None:
    profile = parts.profile
    if parts.side != "host":
        raise OptionError(
            f"{parts.llm} runs on a board only; the set is made with the model's ONNX files, which `vlm convert "
            "export` and `vlm convert host` write."
        )
    if profile.vision.outputs != 1:
        raise OptionError(
            f"{profile.name} feeds {profile.vision.outputs - 1} further embeddings of a picture to its layers "
            "(deepstack), which the JSON set cannot hold; the vendor's own script writes such a set for it."
        )
    if job.most < 1:
        raise OptionError(f"A set has at least one picture; got {job.most}.")


def _embedded(samples: list[tuple[NDArray[np.float32], str]], parts: Parts, ask: str) -> Iterator[dict[str, Any]]:
    from vlm.host.compose import assemble, split_images
    from vlm.host.decoder import Decoder
    from vlm.host.files import find_model, read_config
    from vlm.host.text import Text

    files = find_model(parts.llm)
    decoder, text = Decoder(files, read_config(files)), Text(files.tokenizer)
    prompt = render(parts.profile, [Message("user", [IMAGE, ask])]).text
    for rows, target in samples:
        images = _images(rows, parts.profile)
        feed, _ = assemble(split_images(prompt, images, text, start=True, expected=None), decoder)
        # As fp16, like the vendor's: shorter to write down, and more than int8 needs.
        yield {"input_embed": feed.astype(np.float16)[np.newaxis].tolist(), "target": target}


def _images(rows: NDArray[np.float32], profile: Profile) -> Any:
    from vlm.host.structs import Images

    spec = profile.vision
    tags = (profile.tags.start, profile.tags.end, profile.tags.content)
    return Images(rows, 1, spec.tokens, spec.height, spec.width_px, tags)
