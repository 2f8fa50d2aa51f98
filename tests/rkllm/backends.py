"""The runtimes that the binding is tested over: the C stand-in of every release, and the host runtime."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlm.host import HostRuntime
from vlm.pace import Pace
from vlm.rkllm.abi import abi
from vlm.rkllm.library import Library, host_library, open_library
from vlm.rkllm.model import ImageTags, Model, Request

sys.path.insert(0, str(Path(__file__).parent.parent / "native"))
from standin import StandIn

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "samples" / "demo" / "model"
DEMO_SHAPE = (49, 160)


@dataclass
class Backend:
    """A runtime with a model: what the contract suite needs to know of it."""

    name: str
    library: Library
    path: Path
    tags: ImageTags
    image_shape: tuple[int, int]
    question: Callable[[int], str]  # a prompt whose answer has more than five tokens, with so many images
    standin: StandIn | None = None
    opened: list[Model] = field(default_factory=list)
    threads: set[threading.Thread] = field(default_factory=lambda: set(threading.enumerate()))  # others' models'

    def open(self, **options: Any) -> Model:
        model = Model(self.path, self.library, **{"tags": self.tags, "max_new_tokens": 24, **options})
        self.opened.append(model)
        return model

    def request(self, images: int = 0, seed: int = 0, **options: Any) -> Request:
        if images:
            shape = (images, *self.image_shape)
            options["images"] = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
            options.setdefault("image_size", (112, 112))
        return Request(**{"prompt": self.question(images), **options})


def c_backend(native: StandIn, folder: Path, words: str = "") -> Backend:
    path = folder / f"model{words}.rkllm"
    path.touch()
    native.reset()

    def question(images: int) -> str:
        return "<image>" * images + "[id=x][tokens=12][pace=2]"

    tags = ImageTags("<img>", "</img>", "<pad>")
    return Backend(f"c-{native.path}", open_library(native.path), path, tags, (4, 8), question, native)


def host_backend(release: str, pace: Pace | None = None) -> Backend:
    library = host_library(release, HostRuntime(abi(release), pace=pace))

    def question(images: int) -> str:
        return f"<|im_start|>user\n{'<image>' * images}Describe the picture.<|im_end|>\n<|im_start|>assistant\n"

    tags = ImageTags("<img>", "</img>", "<image_pad>")
    return Backend(f"host-{release}", library, DEMO, tags, DEMO_SHAPE, question)


def finish(backend: Backend) -> None:
    """Every model is given back, no thread stays, and no rule of the interface was broken."""
    for model in backend.opened:
        model.close()
    assert threads_left(backend.threads) == []
    if backend.standin is not None:
        assert backend.standin.violations() == []
        assert len(backend.standin.seen("destroy")) == len(backend.opened)


def threads_left(before: set[threading.Thread], seconds: float = 5) -> list[threading.Thread]:
    """The binding's threads that were not there before and still are, after some time to end in."""
    until = time.monotonic() + seconds
    while left := [t for t in threading.enumerate() if t.name.startswith("rkllm-") and t not in before]:
        if time.monotonic() > until:
            break
        left[0].join(0.2)
    return left
