"""Our pixels and prompts against the authors': 20 pictures of many shapes, and published chat templates."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from golden_prompts import CONVERSATIONS, GOLDEN
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw
from recorded import PROCESSORS, TEMPLATES, Pixels, Processor, Template, Way

from encoders import Encoder, VisionSpec, fit_image, open_encoder, picture_area
from vlm.profile import Profile
from vlm.prompt import IMAGE, Message, render

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # that PyTorch is missing is no news here

SIZES = (
    (448, 448), (392, 392), (384, 384), (512, 512), (64, 64), (225, 225), (1, 1),
    (480, 640), (640, 480), (768, 1024), (777, 333), (100, 1000), (1000, 100), (57, 31), (300, 7),
    (1080, 1920), (901, 900), (500, 1500), (999, 1333), (601, 199),
)  # fmt: skip
"""(height, width) of the pictures."""


@lru_cache
def pictures(seed: int = 7) -> tuple[Pixels, ...]:
    """Draw the pictures: a gradient, shapes and lines with hard edges, and a little noise, as a photograph has."""
    rng = np.random.default_rng(seed)
    drawn = []
    for height, width in SIZES:
        across, down = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
        picture = Image.fromarray((across * rng.integers(0, 200, 3) + down * 55).astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        for _ in range(12):
            x, y, dx, dy = (int(n) for n in rng.integers(0, (width, height, width // 2 + 1, height // 2 + 1)))
            colour = tuple(int(n) for n in rng.integers(0, 256, 3))
            draw.ellipse((x, y, x + dx, y + dy), fill=colour)
            draw.line((y % width, 0, x, y), fill=colour, width=3)
        noisy = np.asarray(picture).astype(np.int16) + rng.integers(-6, 7, (height, width, 3))
        drawn.append(noisy.clip(0, 255).astype(np.uint8))
    return tuple(drawn)


# --- pixels ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelDifference:
    """How far our pixels are from the authors', after normalisation, in steps of 1/255.

    covers: how much of our input is picture and not padding, 0 to 1, on average.
    """

    way: Way
    pictures: int
    mean: float
    worst: float
    covers: float

    @property
    def wrong(self) -> bool:
        """Whether they differ although they must not."""
        return self.way.same and not self.mean < 1


def pixel_differences(profile: Profile) -> list[PixelDifference]:
    """Compare over all pictures, one entry for each way of the family's processor; none if there is no processor."""
    recorded = PROCESSORS.get(profile.family)
    if recorded is None:
        return []
    with tempfile.TemporaryDirectory() as directory:
        spec = profile.vision
        encoder = _passing_pixels_on(Path(directory) / "pixels.onnx", spec)
        try:
            return [_difference(recorded, way, spec, encoder) for way in recorded.ways]
        finally:
            encoder.close()


def _difference(recorded: Processor, way: Way, spec: VisionSpec, encoder: Encoder) -> PixelDifference:
    module = importlib.import_module(f"transformers.models.{recorded.module}")
    processor = getattr(module, recorded.name)(**{**recorded.options, **way.options})
    taken = [picture for picture in pictures() if way.takes(*picture.shape[:2])]
    apart, covered = [], []
    for picture in taken:
        theirs = _theirs(processor, _squared(picture, spec.background) if way.square else picture)
        ours = encoder.encode(fit_image(picture, spec), "").data.reshape(3, spec.height, spec.width_px)
        if theirs.shape != ours.shape:
            raise AssertionError(f"{recorded.name} gave {theirs.shape} of {picture.shape}; expected {ours.shape}")
        apart.append(np.abs(theirs - ours) * 255)
        covered.append(np.prod(picture_area(picture.shape[:2], spec)[2:]) / (spec.height * spec.width_px))
    mean, worst = np.mean([found.mean() for found in apart]), max(found.max() for found in apart)
    return PixelDifference(way, len(taken), float(mean), float(worst), float(np.mean(covered)))


def _theirs(processor: Any, picture: Pixels) -> NDArray[np.floating[Any]]:
    """What the authors' processor makes of the picture, as (3, height, width)."""
    made = processor(Image.fromarray(picture), return_tensors="np")
    values = np.asarray(made["pixel_values"])
    if "image_grid_thw" not in made:
        return values.reshape(values.shape[-3:])
    # Qwen's are patches in groups of merge x merge, each pixel twice over time: put them back where they were.
    _, rows, columns = (int(n) for n in np.asarray(made["image_grid_thw"])[0])
    side, merge = processor.patch_size, processor.merge_size
    patches = values.reshape(rows // merge, columns // merge, merge, merge, 3, 2, side, side)[:, :, :, :, :, 0]
    return patches.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * side, columns * side)


def _squared(picture: Pixels, background: tuple[int, int, int]) -> Pixels:
    height, width = picture.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = background
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


def _passing_pixels_on(path: Path, spec: VisionSpec) -> Encoder:
    """An encoder of ours that gives the very pixels it was fed: what is compared is what a real one would see."""
    tokens, width = 3 * spec.height, spec.width_px
    node = helper.make_node("Reshape", ["pixels", "shape"], ["image"])
    graph = helper.make_graph(
        [node],
        "pixels",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, spec.height, width])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, tokens, width])],
        [numpy_helper.from_array(np.array([1, tokens, width]), "shape")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return open_encoder(path, dataclasses.replace(spec, tokens=tokens, width=width, outputs=1))


# --- prompts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptState:
    """Whether our prompts are the published ones, in the table's words, and why."""

    word: str
    why: str

    @property
    def wrong(self) -> bool:
        """Whether they differ."""
        return self.word == "no"


def prompt_state(profile: Profile, templates: Path | None) -> PromptState:
    """Compare with the template in `templates`, if there is one, else with what was recorded of a published one."""
    template = next((value for name, value in TEMPLATES.items() if profile.name.startswith(name)), None)
    text = published_text(templates / profile.name) if templates else None
    if template is not None and text is not None:
        apart = [what for what, ours, theirs in _pairs(profile, template, text) if ours != theirs]
        return PromptState("no", f"differs: {', '.join(apart)}") if apart else PromptState("yes", "as rendered now")
    prompts = zip(CONVERSATIONS.items(), GOLDEN[profile.name], strict=True)
    apart = [what for (what, messages), expected in prompts if render(profile, messages).text != expected]
    if apart:
        return PromptState("no", f"differs from what was recorded: {', '.join(apart)}")
    if template is None or profile.name not in template.read:
        return PromptState("no template readable", "")
    return PromptState("yes", f"as recorded: {template.source}")


def published_text(directory: Path) -> str | None:
    """The chat template among a model's published tokenizer files, or None."""
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        file = directory / name
        found = json.loads(file.read_text(encoding="utf-8")).get("chat_template") if file.is_file() else None
        if isinstance(found, str):
            return found
    return None


def _pairs(profile: Profile, template: Template, text: str) -> Iterator[tuple[str, str, str]]:
    """Yield conversation, our prompt and the published one, both with an image as its tags and one token."""
    tags = profile.tags
    for what, messages in CONVERSATIONS.items():
        own_system = messages[0].role == "system"
        if own_system and not template.own_system:
            continue
        ours = re.sub(template.dropped, "", render(profile, messages).text) if template.dropped else None
        ours = (ours or render(profile, messages).text).replace("<image>", tags.start + tags.content + tags.end)
        given = [Message("system", profile.system), *messages] if template.given_system and not own_system else messages
        theirs = _published(text, given).replace(template.image, template.becomes)
        yield what, ours, ("" if own_system else template.before) + theirs


def _published(text: str, messages: Sequence[Message]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    conversation = [
        {
            "role": message.role,
            "content": [
                {"type": "image"} if part is IMAGE else {"type": "text", "text": part} for part in message.content
            ],
        }
        for message in messages
    ]
    rendered: Any = render_jinja_template([conversation], chat_template=text, add_generation_prompt=True)
    while not isinstance(rendered, str):  # one prompt in a list, in a tuple with what we did not ask for
        rendered = rendered[0]
    return rendered
