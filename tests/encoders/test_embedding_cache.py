"""EmbeddingCache: what is found, what is let go, and what it costs."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from encoders import CacheKey, CacheStats, EmbeddingCache, ImageEmbedding, VisionSpec, cache_key
from encoders.errors import EmbeddingError

SIZE = 2 * 4 * 4  # Bytes of one embedding here.


def key(name: str) -> CacheKey:
    return CacheKey(name, "encoder", "preprocessing")


def embedding(name: str, width: int = 4) -> ImageEmbedding:
    return ImageEmbedding(np.zeros((1, 2, width), np.float32), (name,))


def test_what_was_put_is_found_and_counted() -> None:
    cache = EmbeddingCache(10 * SIZE)
    assert cache.get(key("a")) is None
    put = embedding("a")
    cache.put(key("a"), put)
    assert cache.get(key("a")) is put
    assert cache.get(key("b")) is None
    assert cache.get(key("b"), again=True) is None
    assert cache.stats == CacheStats(hits=1, misses=2, entries=1, bytes=SIZE)


def test_what_was_used_longest_ago_is_let_go_first() -> None:
    cache = EmbeddingCache(3 * SIZE)
    for name in "abc":
        cache.put(key(name), embedding(name))
    cache.get(key("a"))
    cache.put(key("d"), embedding("d"))
    assert [name for name in "abcd" if cache.get(key(name))] == ["a", "c", "d"]
    cache.put(key("e"), embedding("e", 12))  # As large as all three.
    assert cache.stats.entries == 1
    assert cache.stats.bytes == 3 * SIZE


def test_putting_again_replaces_and_too_large_is_not_held() -> None:
    cache = EmbeddingCache(2 * SIZE)
    cache.put(key("a"), embedding("a"))
    cache.put(key("a"), embedding("a", 8))
    assert cache.stats.bytes == 2 * SIZE
    cache.put(key("b"), embedding("b", 12))
    assert cache.get(key("b")) is None
    assert cache.get(key("a")) is not None
    nothing = EmbeddingCache(0)
    nothing.put(key("a"), embedding("a"))
    assert nothing.stats.entries == 0
    with pytest.raises(ValueError, match="0 or more"):
        EmbeddingCache(-1)


def test_clear_lets_go_of_all_and_keeps_counting() -> None:
    cache = EmbeddingCache()
    cache.put(key("a"), embedding("a"))
    cache.get(key("a"))
    cache.clear()
    assert cache.stats == CacheStats(hits=1, misses=0, entries=0, bytes=0)
    assert cache.get(key("a")) is None


def test_an_embedding_of_another_picture_is_refused() -> None:
    both = ImageEmbedding(np.zeros((2, 2, 4), np.float32), ("a", "b"))
    for wrong in (embedding("b"), both):
        with pytest.raises(EmbeddingError, match="of picture a"):
            EmbeddingCache().put(key("a"), wrong)


@dataclass
class Opened:
    spec: VisionSpec
    identity: str
    npu: bool = False

    def encode(self, pixels: Any, content_hash: str) -> ImageEmbedding:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def test_the_key_is_of_the_picture_the_encoder_and_the_preprocessing() -> None:
    plain = VisionSpec(height=8, width_px=8, tokens=2, width=4)
    changes: list[dict[str, Any]] = [
        {"height": 16},
        {"width_px": 16},
        {"fit": "crop"},
        {"background": (0, 0, 0)},
        {"mean": (0, 0, 0)},
        {"std": (1, 1, 1)},
    ]
    specs = [plain, *(replace(plain, **change) for change in changes)]
    keys = {cache_key("hash", Opened(spec, "file 1")) for spec in specs}
    keys |= {cache_key("hash", Opened(plain, "file 2")), cache_key("other", Opened(plain, "file 1"))}
    assert len(keys) == len(specs) + 2
    assert cache_key("hash", Opened(plain, "file 1")) in keys


def test_threads_keep_it_within_its_bound() -> None:
    cache = EmbeddingCache(20 * SIZE)
    most = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for number in rng.integers(0, 60, 400):
            name = str(number)
            found = cache.get(key(name))
            assert found is None or found.hashes == (name,)
            cache.put(key(name), embedding(name, int(number) % 9 + 1))
            most.append(cache.stats.bytes)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < max(most) <= 20 * SIZE
    stats = cache.stats
    assert stats.hits + stats.misses == 1600
    assert stats.bytes == sum(8 * (int(name) % 9 + 1) for name in map(str, range(60)) if cache.get(key(name)))
