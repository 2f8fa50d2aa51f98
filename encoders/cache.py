"""Embeddings kept by what made them: a picture asked about twice is encoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from encoders.base import Encoder, ImageEmbedding
from encoders.errors import EmbeddingError


class CacheKey(NamedTuple):
    """What an embedding depends on: the picture's content hash, the encoder file, and the preprocessing in words."""

    content_hash: str
    encoder: str
    preprocessing: str


class CacheStats(NamedTuple):
    """Lookups that found something and that did not, embeddings held, and their bytes."""

    hits: int
    misses: int
    entries: int
    bytes: int


def cache_key(content_hash: str, encoder: Encoder) -> CacheKey:
    """The key of a picture's embedding by this encoder; its spec says how the picture is preprocessed."""
    spec = encoder.spec
    preprocessing = f"{spec.height}x{spec.width_px} {spec.fit} {spec.background} {spec.mean} {spec.std}"
    return CacheKey(content_hash, encoder.identity, preprocessing)


class EmbeddingCache:
    """The embeddings used last, up to `max_bytes` of them; safe for use by several threads. 0 keeps none."""

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 or more; got {max_bytes}.")
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[CacheKey, ImageEmbedding] = OrderedDict()
        self._bytes = self._hits = self._misses = 0

    def get(self, key: CacheKey, *, again: bool = False) -> ImageEmbedding | None:
        """The embedding, now the one used last; None if not held. again: it was looked for before, and counted then."""
        with self._lock:
            found = self._held.get(key)
            if found is None:
                self._misses += not again
            else:
                self._hits += 1
                self._held.move_to_end(key)
            return found

    def put(self, key: CacheKey, embedding: ImageEmbedding) -> None:
        """Hold one picture's embedding, letting go of those used longest ago. One over the bound is not held.

        Raises EmbeddingError for an embedding of another picture, or of several.
        """
        if embedding.hashes != (key.content_hash,):
            raise EmbeddingError(f"The key is of picture {key.content_hash}, the embedding of {embedding.hashes}.")
        size = embedding.data.nbytes
        with self._lock:
            replaced = self._held.pop(key, None)
            if replaced is not None:
                self._bytes -= replaced.data.nbytes
            if size > self.max_bytes:
                return
            self._held[key] = embedding
            self._bytes += size
            while self._bytes > self.max_bytes:
                self._bytes -= self._held.popitem(last=False)[1].data.nbytes

    def clear(self) -> None:
        """Let go of all embeddings; the counts of hits and misses go on."""
        with self._lock:
            self._held.clear()
            self._bytes = 0

    @property
    def stats(self) -> CacheStats:
        """The counts so far."""
        with self._lock:
            return CacheStats(self._hits, self._misses, len(self._held), self._bytes)
