"""Calls the caller's result callback, with RKLLMResult laid out as the release has it."""

from __future__ import annotations

import ctypes
import re
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm.rkllm.abi import Abi, CallbackReturn, CallState

PAUSE = CallbackReturn.PAUSE
"""What a callback returns to pause a run, on the releases whose callback returns int."""


@dataclass
class Perf:
    """How long a run took: milliseconds and tokens, prompt and answer apart. Tokens of the prompt count images too."""

    prefill_ms: float
    prefill_tokens: int
    generate_ms: float = 0.0
    generate_tokens: int = 0


class Report:
    """One run's way back to the caller. Every method calls the callback, from the thread that it is called in.

    address: the callback's function pointer. userdata: handed on as it is. What the result points to lives until the
    callback returns.
    """

    def __init__(self, abi: Abi, address: int, userdata: int | None) -> None:
        self._abi = abi
        self._function = abi.ResultCallback(address)
        self._userdata = userdata
        self._result = abi.RKLLMResult()
        self._pointer = ctypes.pointer(self._result)

    def token(self, text: bytes, token: int, whole: bool) -> int:
        """One token and the text it adds: NORMAL, or WAITING inside a character. Returns what the callback did."""
        result = self._result
        result.text = text
        result.token_id = token
        return self._function(self._pointer, self._userdata, 0 if whole else 1) or 0  # void callbacks give None

    def logits(self, logits: NDArray[np.float32]) -> None:
        """The logits of every token of the prompt, float32 (tokens, vocabulary), as NORMAL without text."""
        kept = self._point(self._result.logits, "logits", np.ascontiguousarray(logits, np.float32))
        self._result.logits.vocab_size = kept.shape[1]
        self._call(CallState.NORMAL)

    def hidden(self, hidden: NDArray[np.float32]) -> None:
        """The last hidden layer, float32 (tokens, width): NORMAL without text, or the state that 1.1.4 has for it."""
        kept = self._point(self._result.last_hidden_layer, "hidden_states", np.ascontiguousarray(hidden, np.float32))
        self._result.last_hidden_layer.embd_size = kept.shape[1]
        old = not self._abi.has("RKLLMResult", "logits")
        self._call(CallState.LAST_HIDDEN_LAYER if old else CallState.NORMAL)

    def finish(self, perf: Perf) -> None:
        """The end of a run: FINISH, text NULL, and perf where the release has it. Memory is the process's peak."""
        if self._abi.has("RKLLMResult", "perf"):
            out = self._result.perf
            out.prefill_time_ms, out.prefill_tokens = perf.prefill_ms, perf.prefill_tokens
            out.generate_time_ms, out.generate_tokens = perf.generate_ms, perf.generate_tokens
            out.memory_usage_mb = _peak_mb()
        self._call(CallState.FINISH)

    def error(self) -> None:
        """A run that failed after it had begun: ERROR, text NULL."""
        self._call(CallState.ERROR)

    def _call(self, state: CallState) -> None:
        self._result.text = None
        self._result.token_id = -1
        self._function(self._pointer, self._userdata, int(state))

    def _point(self, struct: Any, field: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        setattr(struct, field, array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
        struct.num_tokens = array.shape[0]
        self._kept = array  # until this report is gone, which is after the callback
        return array


def _peak_mb() -> float:
    """The most memory that this process has had. Linux's getrusage tells of the one that started it, if it had more."""
    try:
        own = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        own = None
    return (int(own[1]) if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
