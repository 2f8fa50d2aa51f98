"""Constants folded into an exported file, and the file compared with what it was exported from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from torch import Tensor

LEAST_EXTERNAL = "1024"


@contextmanager
def fold(path: Path, external_bytes: int) -> Iterator[str]:
    """A place to export to; what was written there is then written to `path` with all constants worked out.

    ONNX Runtime's basic optimisations do that, and use the standard's own operators only. Above `external_bytes` the
    weights go to NAME.onnx_data beside it.
    """
    with TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "raw.onnx"
        yield str(raw)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        options = _options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        if size > external_bytes:
            entry = "session.optimized_model_external_initializers"
            options.add_session_config_entry(f"{entry}_file_name", f"{path.name}_data")
            options.add_session_config_entry(f"{entry}_min_size_in_bytes", LEAST_EXTERNAL)
        onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])


def compare(path: Path, feed: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Any]:
    """What ONNX Runtime makes of `feed`, against `wanted`: the largest difference, and the smallest cosine."""
    session = onnxruntime.InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"])
    made = session.run(list(wanted), {name: tensor.numpy() for name, tensor in feed.items()})
    both = zip(wanted.values(), made, strict=True)
    pairs = [(tensor.double().numpy().ravel(), got.astype(np.float64).ravel()) for tensor, got in both]
    cosines = [float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in pairs]
    return {"difference": max(float(np.abs(a - b).max()) for a, b in pairs), "cosine": min(cosines)}


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options
