"""The RKLLM functions on a PC, over ONNX Runtime.

`HostRuntime` takes the same ctypes arguments as librkllmrt.so and calls the same callback, so that everything above it
is the same on a board and on a PC.
"""

from __future__ import annotations

from vlm.host.runtime import HostRuntime

__all__ = ["HostRuntime"]
