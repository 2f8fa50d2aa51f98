"""A prompt's KV cache in a file, for `rkllm_load_prompt_cache`: numpy's .npz, not the vendor's format."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm.errors import OptionError


@dataclass(frozen=True)
class PromptCache:
    """The tokens of a prompt, and the cache after them: tensors (1, heads, len(ids), head_dim) in input order."""

    ids: tuple[int, ...]
    tensors: list[NDArray[Any]]

    def head(self, length: int) -> list[NDArray[Any]]:
        """The tensors of the first `length` tokens alone."""
        return [np.ascontiguousarray(tensor[:, :, :length]) for tensor in self.tensors]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises OptionError when the file cannot be written."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                arrays: dict[str, Any] = {f"t{i}": tensor for i, tensor in enumerate(self.tensors)}
                np.savez(file, ids=np.array(self.ids, np.int64), **arrays)
            temporary.replace(path)
        except OSError as exc:
            temporary.unlink(missing_ok=True)
            raise OptionError(f"The prompt cache cannot be written to {path}: {exc}") from exc


def load(path: Path) -> PromptCache:
    """Read what `PromptCache.save` wrote. Raises OptionError when it is not there, or not such a file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            ids = tuple(int(i) for i in stored["ids"])
            tensors = [stored[f"t{i}"] for i in range(len(stored.files) - 1)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as exc:
        raise OptionError(f"{path} is not a prompt cache that the host wrote: {exc}") from exc
    if not ids or any(t.ndim != 4 or t.shape[2] != len(ids) for t in tensors):
        raise OptionError(f"{path} is not a prompt cache that the host wrote: tokens and tensors do not match.")
    return PromptCache(ids, tensors)
