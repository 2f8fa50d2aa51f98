"""Picture to embedding: images, preprocessing, and the encoders that turn pixels into numbers for a language model.

The names below are imported when they are first used, so that `import encoders` needs neither NumPy nor a runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoders.base import Encoder, Fit, ImageEmbedding, VisionSpec, join_embeddings
    from encoders.cache import CacheKey, CacheStats, EmbeddingCache, cache_key
    from encoders.images import ImageFile, ImageLimits, Picture, load_image, read_image
    from encoders.open import open_encoder
    from encoders.paced import PacedEncoder
    from encoders.preprocess import fit_image, picture_area

_MODULES = {
    "base": ("Encoder", "Fit", "ImageEmbedding", "VisionSpec", "join_embeddings"),
    "cache": ("CacheKey", "CacheStats", "EmbeddingCache", "cache_key"),
    "images": ("ImageFile", "ImageLimits", "Picture", "load_image", "read_image"),
    "open": ("open_encoder",),
    "paced": ("PacedEncoder",),
    "preprocess": ("fit_image", "picture_area"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CacheKey",
    "CacheStats",
    "EmbeddingCache",
    "Encoder",
    "Fit",
    "ImageEmbedding",
    "ImageFile",
    "ImageLimits",
    "PacedEncoder",
    "Picture",
    "VisionSpec",
    "cache_key",
    "fit_image",
    "join_embeddings",
    "load_image",
    "open_encoder",
    "picture_area",
    "read_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'encoders' has no attribute {name!r}")
    return getattr(importlib.import_module(f"encoders.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
