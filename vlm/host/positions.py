"""Position ids for decoders that take three of them per token (Qwen2-VL and Qwen2.5-VL: time, row, column).

Facts: the models' own rotary scheme. Text counts on in all three; the tokens of an image share one time, and have their
place in the image's grid as row and column; text after it goes on from the largest position used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vlm.errors import OptionError


def image_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of an image of `tokens` embeddings, from its size in pixels (0, 0 means square).

    Raises OptionError when no whole rows and columns have that shape.
    """
    shape = height / width if height and width else 1.0
    rows = round(math.sqrt(tokens * shape))
    columns = round(math.sqrt(tokens / shape))
    if rows * columns != tokens:
        raise OptionError(
            f"{tokens} tokens are no grid of an image {width or '?'} x {height or '?'} px (width x height), which this "
            "model's positions need; pass image_width and image_height as the encoder had them."
        )
    return rows, columns


def count_positions(
    parts: Iterable[tuple[bool, int]], start: int, grid: tuple[int, int] | None
) -> tuple[NDArray[np.int64], int]:
    """Positions of a prompt made of `parts`, (is an image, tokens), from position `start` on.

    Returns int64 of shape (3, tokens) (time, row, column), and the position after the last. With grid None, images
    count like text.
    """
    made = []
    for is_image, tokens in parts:
        if is_image and grid is not None:
            rows, columns = grid
            row, column = np.divmod(np.arange(tokens), columns)
            made.append(start + np.stack([np.zeros_like(row), row, column]))
            start += max(rows, columns)
        else:
            made.append(np.broadcast_to(np.arange(start, start + tokens), (3, tokens)))
            start += tokens
    return np.concatenate(made, axis=1).astype(np.int64), start
