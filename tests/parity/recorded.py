"""What the authors' own files say of pixels and prompts, recorded apart from the profiles so that the two can differ.

Never a default of a transformers class: each option is the checkpoint's, and `source` says in which file it was read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Way:
    """One way to run the authors' processor, over the pictures that it is meant for.

    same: whether it does what ours does, so that the pixels must agree; else `what` names the difference. options: on
    top of the family's. takes: which pictures, by (height, width). square: pad with the background first.
    """

    what: str
    same: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    takes: Callable[[int, int], bool] = lambda height, width: True
    square: bool = False


@dataclass(frozen=True)
class Processor:
    """An image processor of transformers, set to the checkpoint's configuration and one fixed size."""

    module: str
    name: str
    options: Mapping[str, Any]
    source: str
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class Template:
    """How a published chat template writes an image, and what else stands between it and the model.

    image: its text for an image. becomes: what the family's processor makes of that, with one token for all. before:
    what processor and tokenizer put before it where the conversation brings no system message. given_system: the
    template adds none, so it is given ours. own_system: it can take one at all. dropped: what of our prompt follows
    the model card rather than the template. source: where it was read, and read: for which profiles' models.
    """

    image: str
    becomes: str
    source: str
    read: tuple[str, ...]
    before: str = ""
    given_system: bool = False
    own_system: bool = True
    dropped: str = ""


def _square(height: int, width: int) -> bool:
    return height == width


def _qwen(side: int, patch: int, mean: list[float], std: list[float], source: str) -> Processor:
    """Size is an area in pixels, rounded to cells: between side - 1 and side + 1 it can only be the side."""
    options = {
        "image_mean": mean,
        "image_std": std,
        "patch_size": patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "resample": 3,
        "size": {"shortest_edge": (side - 1) ** 2 + 1, "longest_edge": (side + 1) ** 2 - 1},
    }
    ways = (
        Way("square pictures", same=True, takes=_square),
        Way(
            "other shapes: smart_resize would keep them, with tokens to suit; a .rknn has one size, so both pad to a "
            "square, the authors' processor before it resizes (as the vendor's demo) and ours after",
            same=False,
            takes=lambda height, width: height != width,
            square=True,
        ),
    )
    return Processor("qwen2_vl.image_processing_pil_qwen2_vl", "Qwen2VLImageProcessorPil", options, source, ways)


_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
_INTERNVL = Processor(
    "got_ocr2.image_processing_pil_got_ocr2",
    "GotOcr2ImageProcessorPil",
    {
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "size": {"height": 448, "width": 448},
        "resample": 3,
        "crop_to_patches": False,
    },
    "transformers convert_internvl_weights_to_hf.py, write_image_processor (InternVL3)",
    (Way("all pictures, as the one tile of the whole that the authors call the thumbnail", same=True),),
)
_JANUS = Processor(
    "janus.image_processing_pil_janus",
    "JanusImageProcessorPil",
    {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_normalize": False,
        "size": {"height": 384, "width": 384},
        "min_size": 14,
        "resample": 3,
    },
    "deepseek-ai/Janus-Pro-1B preprocessor_config.json, at second hand",
    (
        Way("all pictures but the thinnest", same=True, takes=lambda h, w: 384 * min(h, w) / max(h, w) >= 14),
        Way(
            "pictures that come to less than 14 pixels one way: the authors widen them to 14, ours keeps their shape",
            same=False,
            takes=lambda h, w: 384 * min(h, w) / max(h, w) < 14,
        ),
    ),
)
_SMOLVLM = Processor(
    "smolvlm.image_processing_pil_smolvlm",
    "SmolVLMImageProcessorPil",
    {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"longest_edge": 2048},
        "max_image_size": {"longest_edge": 512},
        "resample": 1,
        "do_image_splitting": False,
    },
    "HuggingFaceTB/SmolVLM preprocessor_config.json, copied in JohnSnowLabs/spark-nlp SmolVLMTransformer.scala",
    (
        Way("all pictures, brought to the fixed size at once", same=True, options={"do_resize": False}),
        Way("the authors resize twice, to 2048 on the long side and then to the fixed size; ours once", same=False),
    ),
)

PROCESSORS: dict[str, Processor] = {
    "qwen2-vl": _qwen(392, 14, *_CLIP, "preprocessor_config.json of Qwen2-VL, quoted in the RealQA project's README"),
    "qwen2.5-vl": _qwen(
        392, 14, *_CLIP, "Qwen2.5-VL-7B-Instruct preprocessor_config.json, in remodlai/qwen-2.5-vl-7b-instruct-lexiq"
    ),
    "qwen3-vl": _qwen(448, 16, *_HALF, "Qwen3-VL-Embedding preprocessor_config.json, in a public copy of that model"),
    "qwen3.5": _qwen(448, 16, *_HALF, "Qwen3-VL's, which Qwen3.5's vision tower takes after; its own was not read"),
    "internvl": _INTERNVL,
    "janus": _JANUS,
    "smolvlm": _SMOLVLM,
}
"""By family. MiniCPM-V 2.6 and DeepSeek-OCR are missing: transformers has no processor of theirs."""

_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_SEEN = "<fake_token_around_image><global-img><image><fake_token_around_image>"
_JANUS_BEFORE = (
    "<｜begin▁of▁sentence｜>You are a helpful language and vision assistant. You are able to understand the visual "  # noqa: RUF001
    "content that the user provides, and assist the user with a variety of tasks using natural language.\n\n"
)

TEMPLATES: dict[str, Template] = {
    "qwen2-vl": Template(
        _QWEN_IMAGE,
        _QWEN_IMAGE,
        "Qwen2-VL-2B-Instruct tokenizer_config.json, chat_template",
        read=("qwen2-vl-2b",),
    ),
    "qwen2.5-vl": Template(
        _QWEN_IMAGE,
        _QWEN_IMAGE,
        "Qwen2.5-VL's, as training code quotes it whole and transformers' test_modeling_qwen2_5_vl.py expects it",
        read=("qwen2.5-vl-7b",),
    ),
    "qwen3-vl": Template(
        _QWEN_IMAGE,
        _QWEN_IMAGE,
        "Qwen3-VL chat_template.json, quoted whole in an agent's code",
        read=("qwen3-vl-2b", "qwen3-vl-4b"),
    ),
    "qwen3.5": Template(
        _QWEN_IMAGE,
        _QWEN_IMAGE,
        "Qwen3.5-0.8B, tokenizer.chat_template of its GGUF, printed in public documentation",
        read=("qwen3.5-0.8b",),
    ),
    "internvl3": Template(
        "<image>",
        "<img><IMG_CONTEXT></img>",
        "transformers convert_internvl_weights_to_hf.py, chat_template",
        read=("internvl3-1b", "internvl3-2b"),
        given_system=True,
        dropped=r"Image-\d+: ",
    ),
    "janus-pro": Template(
        "<image_placeholder>",
        "<begin_of_image><image_placeholder><end_of_image>",
        "transformers convert_janus_weights_to_hf.py, CHAT_TEMPLATE; a system message as DeepSeek's conversation.py",
        read=("janus-pro-1b",),
        before=_JANUS_BEFORE,
        own_system=False,
    ),
    "smolvlm": Template(
        "<image>",
        _SEEN,
        "transformers processing_smolvlm.py, DEFAULT_CHAT_TEMPLATE",
        read=("smolvlm-256m", "smolvlm-500m"),
    ),
}
"""By the beginning of the profile's name. The other models' authors write their prompts in code, or it was not read."""
