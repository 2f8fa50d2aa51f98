"""A caller of the host runtime: fills the structs of a release as a C program would, and records its callbacks.

Everything goes through C function pointers (`host_library`), so that what is tested is what a run from C sees.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tiny_model
from numpy.typing import NDArray

from vlm.host import HostRuntime
from vlm.rkllm.abi import CallState, InferMode, InputType, abi
from vlm.rkllm.library import host_library

TAGS = (b"<img>", b"</img>", b"<image_pad>")
GREEDY = {"top_k": 1, "repeat_penalty": 1.0}


@dataclass(frozen=True)
class Event:
    """One call of the callback, copied out."""

    state: CallState
    text: bytes | None
    token: int
    userdata: int | None
    array: NDArray[np.float32] | None = None
    perf: dict[str, float] | None = None


class Rig:
    """A host runtime of one release, and the handle of one model in it, if `path` is given."""

    def __init__(self, path: Path | None = None, release: str = "1.3.0", **settings: Any) -> None:
        self.abi = abi(release)
        self.runtime = settings.pop("runtime", None) or HostRuntime(
            self.abi, seed=settings.pop("seed", None), threads=1
        )
        self.library = host_library(release, self.runtime)
        self.f = self.library.functions
        self.events: list[Event] = []
        self.answer: Callable[[Event], int | None] = lambda event: 0
        self.callback = self.abi.ResultCallback(self._record)
        self.handle = ctypes.c_void_p()
        if path is not None:
            assert self.init(path, **settings) == 0, self.said()
            self.greeting = self.said()

    def init(self, path: Path | bytes | None, **changes: Any) -> int:
        """rkllm_init with the default parameters and these changes; greedy unless they say otherwise."""
        param = self.f.rkllm_createDefaultParam()
        param.model_path = str(path).encode() if isinstance(path, Path) else path
        values = {"max_new_tokens": 8, **GREEDY, **changes}
        if self.abi.has("RKLLMParam", "img_start"):
            values = {**dict(zip(("img_start", "img_end", "img_content"), TAGS, strict=True)), **values}
        for name, value in values.items():
            setattr(param.extend_param if hasattr(param.extend_param, name) else param, name, value)
        callback: Any = self.callback
        if self.abi.RKLLMCallback is not None:
            callback = ctypes.byref(self.abi.RKLLMCallback(result_callback=self.callback, result_userdata=77))
        return int(self.f.rkllm_init(ctypes.byref(self.handle), ctypes.byref(param), callback))

    def run(self, given: Any, infer: Any = None, *, userdata: int | None = 5, wait: bool = True) -> int:
        """rkllm_run (or rkllm_run_async) with a prompt, or with an RKLLMInput; the events are recorded anew."""
        self.events = []
        given = self.prompt(given) if isinstance(given, str) else given
        infer = self.infer() if infer is None else infer
        function = self.f.rkllm_run if wait else self.f.rkllm_run_async
        return int(function(self.handle, ctypes.byref(given), ctypes.byref(infer), userdata))

    def prompt(self, text: str | bytes, *, thinking: bool = False) -> Any:
        made = self.abi.RKLLMInput(input_type=InputType.PROMPT)
        made.prompt_input = text.encode() if isinstance(text, str) else text
        if self.abi.has("RKLLMInput", "role"):
            made.role, made.enable_thinking = b"user", thinking
        return made

    def tokens(self, ids: Sequence[int]) -> Any:
        made = self.abi.RKLLMInput(input_type=InputType.TOKEN)
        made.token_input.input_ids = (ctypes.c_int32 * len(ids))(*ids)
        made.token_input.n_tokens = len(ids)
        return made

    def embedding(self, rows: NDArray[np.float32]) -> Any:
        made = self.abi.RKLLMInput(input_type=InputType.EMBED)
        made.embed_input.embed = pointer(rows)
        made.embed_input.n_tokens = len(rows)
        return made

    def multimodal(self, text: str, images: NDArray[np.float32], *, size: tuple[int, int] = (0, 0), **tags: Any) -> Any:
        """images: float32 (n, tokens, width), which must live until the run is over. size: (height, width)."""
        made = self.abi.RKLLMInput(input_type=InputType.MULTIMODAL)
        made.multimodal_input.prompt = text.encode()
        nested = self.abi.has("RKLLMMultiModalInput", "image")
        target = made.multimodal_input.image if nested else made.multimodal_input
        target.image_embed = pointer(images)
        target.n_image_tokens = images.shape[1]
        if nested or self.abi.has("RKLLMMultiModalInput", "n_image"):
            target.n_image, (target.image_height, target.image_width) = images.shape[0], size
        if nested:
            values = dict(zip(("image_start", "image_end", "image_content"), TAGS, strict=True))
            for name, value in {**values, **tags}.items():
                setattr(target, name, value)
        return made

    def infer(self, mode: InferMode = InferMode.GENERATE, **changes: Any) -> Any:
        made = self.abi.RKLLMInferParam(mode=mode)
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    def sampling(self, **changes: Any) -> Any:
        values = {"top_k": 1, "top_p": 1.0, "temperature": 1.0, "repeat_penalty": 1.0, **changes}
        return ctypes.pointer(self.abi.RKLLMSamplingParam(**values))

    def clear(self, keep: int = 0, span: tuple[int, int] | None = None) -> int:
        ends = [(ctypes.c_int * 1)(end) for end in span] if span else [None, None]
        if len(self.abi.signatures["rkllm_clear_kv_cache"].argtypes) == 2:
            return int(self.f.rkllm_clear_kv_cache(self.handle, keep))
        return int(self.f.rkllm_clear_kv_cache(self.handle, keep, *ends))

    def cache_size(self) -> int:
        size = ctypes.c_int(-1)
        assert self.f.rkllm_get_kv_cache_size(self.handle, ctypes.byref(size)) == 0
        return size.value

    def said(self) -> str:
        return "\n".join(self.library.drain_messages())

    @property
    def text(self) -> bytes:
        return b"".join(event.text or b"" for event in self.events)

    @property
    def ids(self) -> list[int]:
        return [event.token for event in self.events if event.state in (CallState.NORMAL, CallState.WAITING)]

    @property
    def states(self) -> list[CallState]:
        return [event.state for event in self.events]

    def close(self) -> None:
        if self.handle:
            self.f.rkllm_destroy(self.handle)

    def _record(self, result: Any, userdata: int | None, state: int) -> int | None:
        r = result.contents
        array, perf = None, None
        if self.abi.has("RKLLMResult", "logits") and r.logits.logits:
            shape = (r.logits.num_tokens, r.logits.vocab_size)
            array = np.ctypeslib.as_array(r.logits.logits, shape).copy()
        elif r.last_hidden_layer.hidden_states:
            shape = (r.last_hidden_layer.num_tokens, r.last_hidden_layer.embd_size)
            array = np.ctypeslib.as_array(r.last_hidden_layer.hidden_states, shape).copy()
        if self.abi.has("RKLLMResult", "perf"):
            perf = {name: getattr(r.perf, name) for name, _ in r.perf._fields_}
        event = Event(CallState(state), r.text, r.token_id, userdata, array, perf)
        self.events.append(event)
        answer = self.answer(event) or 0
        return answer if self.abi.callback_returns_int else None


def pointer(array: NDArray[np.float32]) -> Any:
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


class Reference:
    """The same model without a cache: every token's logits are computed from the whole sequence again."""

    def __init__(self, path: Path, spec: tiny_model.Spec, decoder: str = "decoder_model_merged.onnx") -> None:
        self.spec = spec
        self.session = onnxruntime.InferenceSession(str(path / decoder), providers=["CPUExecutionProvider"])
        self.table = tiny_model.weights(spec)["embed"]
        if spec.fp16:
            self.table = self.table.astype(np.float16).astype(np.float32)

    def rows(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return self.table[list(ids)]

    def logits(self, rows: NDArray[np.float32], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """(n, vocabulary) for embeddings (n, width); positions: (3, n)."""
        spec, n = self.spec, len(rows)
        real = np.float16 if spec.fp16 else np.float32
        if positions is None:
            positions = np.broadcast_to(np.arange(n), (3, n))
        feeds: dict[str, Any] = {
            "inputs_embeds": rows[np.newaxis].astype(real),
            "input_ids": np.argmin(np.abs(rows[:, np.newaxis] - self.table).sum(-1), axis=1)[np.newaxis],
            "attention_mask": np.ones((1, n), np.int64),
            "position_ids": positions[:, np.newaxis] if spec.positions == "3d" else positions[:1],
            "use_cache_branch": np.array([False]),
            "num_logits_to_keep": np.array(0),
        }
        for layer in range(spec.layers):
            for kind in ("key", "value"):
                feeds[f"past_key_values.{layer}.{kind}"] = np.empty((1, spec.heads, 0, spec.head_dim), real)
        wanted = {i.name for i in self.session.get_inputs()}
        made = self.session.run(["logits"], {k: v for k, v in feeds.items() if k in wanted})[0][0]
        return np.asarray(made, np.float32)

    def greedy(self, rows: NDArray[np.float32], count: int) -> list[int]:
        said: list[int] = []
        for _ in range(count):
            said.append(int(self.logits(np.concatenate([rows, self.rows(said)]))[-1].argmax()))
            if said[-1] == tiny_model.IM_END:
                break
        return said
