"""How a process that passes pictures on keeps its memory."""

from __future__ import annotations

import ctypes

KEPT_BYTES = 32 << 20  # the most that glibc takes for its second
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_pages() -> None:
    """Have glibc keep the memory of one picture for the next, up to KEPT_BYTES; other C libraries are left alone.

    Given back after each picture, its pages have to be fetched anew: 7,000 of them, 10 ms, for a camera's JPEG on its
    way through the service and the model's process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
