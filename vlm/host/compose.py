"""A prompt's parts, text and images in order, and the one array that they are fed to the decoder as."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm.errors import OptionError, PromptError
from vlm.host.decoder import Decoder
from vlm.host.positions import count_positions, image_grid
from vlm.host.structs import IMAGE_TAG, Images
from vlm.host.text import Text


@dataclass
class Part:
    """A stretch of a prompt: token ids, or embedding rows (n, width); an image's are (n, width x outputs)."""

    ids: list[int] = field(default_factory=list)
    rows: NDArray[np.float32] | None = None
    is_image: bool = False

    @property
    def length(self) -> int:
        """Tokens in it."""
        return len(self.ids) if self.rows is None else self.rows.shape[0]


def split_images(text: str, images: Images, tokenizer: Text, *, start: bool, expected: int | None) -> list[Part]:
    """A rendered prompt with each IMAGE_TAG replaced by image start, the image's rows, and image end.

    The rows stand where the content tag would be repeated, so that its id is not needed. start: the text begins a
    context. expected: the embeddings per image that the model's config names, if it does.

    Raises OptionError when images have another number of embeddings than the model takes, PromptError when the chat
    template lost or doubled an image.
    """
    if expected is not None and images.tokens != expected:
        raise OptionError(f"n_image_tokens is {images.tokens}, but this model takes {expected} per image.")
    pieces = text.split(IMAGE_TAG)
    if len(pieces) != images.count + 1:
        raise PromptError(f"The chat template makes {len(pieces) - 1} {IMAGE_TAG} of the prompt's {images.count}.")
    before, after, _ = images.tags
    parts = []
    for i, piece in enumerate(pieces):
        around = (after if i else "") + piece + (before if i < images.count else "")
        if around:
            parts.append(Part(ids=tokenizer.encode(around, start=start and i == 0)))
        if i < images.count:
            parts.append(Part(rows=images.rows[i * images.tokens : (i + 1) * images.tokens], is_image=True))
    return parts


def assemble(parts: list[Part], decoder: Decoder) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """What the decoder is fed: ids (n,) for one that takes those, else embeddings (n, width); and its deepstack inputs.

    Those are (levels, n, width), None where nothing but text is fed. Given rows are copied here, and only here.
    Raises OptionError for an id that the model does not have.
    """
    ids = np.array([i for part in parts for i in part.ids], np.int64)
    if ids.size and int(ids.min()) < 0:  # ONNX would count it from the vocabulary's end
        raise OptionError(f"Token id {int(ids.min())} is negative.")
    if decoder.takes_ids:
        return ids, None
    embedded = decoder.embed(ids) if ids.size else None
    length = sum(part.length for part in parts)
    if embedded is not None and len(ids) == length:
        return embedded, None
    feed = np.empty((length, decoder.width), decoder.feed_dtype)
    deepstack = np.zeros((len(decoder.deepstack_names), length, decoder.width), decoder.feed_dtype)
    at = taken = 0
    for part in parts:
        if part.rows is not None:
            outputs = part.rows.reshape(part.length, -1, decoder.width)
            feed[at : at + part.length] = outputs[:, 0]
            for level in range(1, outputs.shape[1]):
                deepstack[level - 1, at : at + part.length] = outputs[:, level]
        elif embedded is not None:
            feed[at : at + part.length] = embedded[taken : taken + part.length]
            taken += part.length
        at += part.length
    return feed, deepstack


def grid_positions(
    parts: list[Part], images: Images | None, decoder: Decoder, start: int
) -> tuple[NDArray[np.int64] | None, int | None]:
    """Position ids (3, n) and the position after them, for a decoder that wants three; else None, None.

    Raises OptionError when an image's size and tokens make no grid.
    """
    if not decoder.grid_positions:
        return None, None
    grid = image_grid(images.tokens, images.height, images.width_px) if images else None
    return count_positions(((part.is_image, part.length) for part in parts), start, grid)
