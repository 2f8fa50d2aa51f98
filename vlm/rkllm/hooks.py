"""What a runtime asks of Python: a tokenizer and token embeddings of the caller's own (1.3.0).

Contract, from the header: the tokenizer is given UTF-8 text and room for some ids, and returns how many it wrote, or a
negative number; the embedder is given ids and a buffer of so many bytes, and returns 0, or another number. The numbers'
type in that buffer follows from its length: float32 or float16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from vlm.errors import EmbeddingError, NotSupportedByRuntime, OptionError
from vlm.rkllm.abi import Abi, first_release
from vlm.rkllm.request import ModelSettings

_REFUSED = -1
_DTYPES = {4: np.float32, 2: np.float16}


class Hooks:
    """The two callbacks of one model. Raises NotSupportedByRuntime for one that the release does not have.

    fail: told what went wrong in one; set by the owner of the run. Nothing may be raised into C: the runtime is told of
    a failure by the number returned.
    """

    def __init__(self, abi: Abi, settings: ModelSettings) -> None:
        self._tokenizer, self._embedder = settings.tokenizer, settings.embedder
        self.fail: Callable[[BaseException], None] = lambda _: None
        self.callbacks: dict[str, Any] = {}
        for name, type_name, given, function, what in (
            ("tokenizer_callback", "LLMTokenizerCallback", self._tokenizer, self._tokenize, "a tokenizer of one's own"),
            ("embed_callback", "LLMGetEmbedCallback", self._embedder, self._embed, "token embeddings of one's own"),
        ):
            if given is None:
                continue
            if type_name not in abi.callbacks:
                raise NotSupportedByRuntime(what, abi.release, first_release(type_name))
            self.callbacks[name] = abi.callbacks[type_name](function)

    def _tokenize(self, _: int | None, text: bytes | None, length: int, ids: Any, room: int) -> int:
        try:
            assert self._tokenizer is not None  # this function is handed on for a tokenizer only
            made = np.asarray(self._tokenizer((text or b"")[:length].decode("utf-8")))
            if made.ndim != 1 or (made.size and not np.issubdtype(made.dtype, np.integer)):
                raise OptionError(f"A tokenizer gives a sequence of ids; got {made.dtype} of shape {made.shape}.")
            if made.size > room:
                raise OptionError(f"The tokenizer gave {made.size} ids; the runtime has room for {room}.")
            if made.size:
                np.ctypeslib.as_array(ids, (room,))[: made.size] = made
            return int(made.size)
        except BaseException as exc:
            self.fail(exc)
            return _REFUSED

    def _embed(self, _: int | None, ids: Any, count: int, buffer: int | None, size: int) -> int:
        try:
            assert self._embedder is not None
            rows = np.asarray(self._embedder(np.ctypeslib.as_array(ids, (count,)).copy()))
            if rows.ndim != 2 or rows.shape[0] != count or not rows.size or not buffer:
                raise EmbeddingError(f"The embedder gave an array of shape {rows.shape} for {count} ids.")
            dtype = _DTYPES.get(size // rows.size) if size % rows.size == 0 else None
            if dtype is None:
                raise EmbeddingError(
                    f"The embedder gave {rows.shape[0]} x {rows.shape[1]} numbers; the runtime wants {size} bytes, "
                    "which is neither float32 nor float16 of that. The model has another width."
                )
            made = np.ascontiguousarray(rows, dtype)
            ctypes.memmove(buffer, made.ctypes.data, size)
            return 0
        except BaseException as exc:
            self.fail(exc)
            return _REFUSED
