"""The object that owns a loaded model: open, run, stream, abort, KV cache, close."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vlm.errors import (
    ModelBusyError,
    ModelClosedError,
    ModelLoadError,
    NotSupportedByRuntime,
    OptionError,
    RunError,
    RunTimeoutError,
)
from vlm.options import Sampling
from vlm.rkllm.abi import RELEASES, InferMode, first_release
from vlm.rkllm.diagnosis import RuntimeFacts
from vlm.rkllm.handle import Handle
from vlm.rkllm.library import Library
from vlm.rkllm.request import (
    ImageTags,
    ModelSettings,
    Placement,
    Request,
    SamplingFixedWarning,
    check_context,
    check_request,
    encode_text,
)
from vlm.rkllm.run import FinishReason, Generation, Perf, Piece, Run
from vlm.rkllm.structs import fill_generation, fill_param, make_lora, make_run_input, same_sampling
from vlm.rkllm.worker import Worker

__all__ = [
    "FinishReason",
    "Generation",
    "ImageTags",
    "Model",
    "ModelSettings",
    "Perf",
    "Piece",
    "Placement",
    "Request",
    "RuntimeFacts",
    "SamplingFixedWarning",
]

_GREEDY = Sampling()

T = TypeVar("T")


class Model:
    """A model loaded by a runtime. One run at a time; every method may be called from any thread.

    path: the .rkllm file (or the host runtime's model directory). tags: what the runtime puts for an image; fixed here
    before 1.3.0. sampling: None is greedy; fixed here before 1.3.0. max_context_len: None leaves the runtime's default.
    max_new_tokens: the default, and before 1.3.0 the most, for a run.

    Raises ModelLoadError (one of its kinds where the runtime says why), OptionError, and NotSupportedByRuntime for a
    setting that the release does not have.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: Library,
        *,
        tags: ImageTags | None = None,
        sampling: Sampling | None = None,
        max_context_len: int | None = None,
        max_new_tokens: int = 256,
        placement: Placement | None = None,
        settings: ModelSettings | None = None,
    ) -> None:
        self.path, self.library = Path(path), library
        self._tags, self._sampling = tags or ImageTags(), sampling or _GREEDY
        self._settings = settings or ModelSettings()
        self._max_new_tokens, self._max_context_len = max_new_tokens, max_context_len
        self._lock = threading.Lock()
        self._closed = True
        self._stack = ExitStack()
        if not self.path.exists():
            raise ModelLoadError(f"There is no model at {self.path}.")
        if max_new_tokens < 1:
            raise OptionError(f"max_new_tokens must be at least 1; got {max_new_tokens}.")
        file = encode_text(str(self.path), "model path")
        param = library.functions.rkllm_createDefaultParam()
        keep = fill_param(param, library.abi, path=file, tags=self._tags, placement=placement or Placement())
        fill_generation(
            param,
            library.abi,
            self._sampling,
            self._settings,
            max_context_len=max_context_len,
            max_new=max_new_tokens,
        )
        self._handle = Handle(library)
        with ExitStack() as stack:
            self._worker = Worker(f"rkllm-{self.path.name}")
            # In reverse: destroy after whatever is going on, then let the thread end, then wait for it.
            stack.callback(_stop_worker, self._worker, self._handle, self._settings.stop_timeout_s)
            stack.callback(self._worker.submit, self._handle.destroy)
            self._worker.call(partial(self._handle.init, param, keep, str(self.path), max_context_len))
            self._stack = stack.pop_all()
        self._closed = False

    @property
    def facts(self) -> RuntimeFacts:
        """What the runtime said when the model was opened: versions, SoC, context limit, NPU cores."""
        return self._handle.facts

    def generate(self, request: Request, *, on_return: Callable[[], object] | None = None) -> Generation:
        """Begin a run; its answer comes through the iterator returned. What it holds is alive until the run returned.

        on_return: called once the run has returned and the runtime is at rest, from a thread of the model's own; not
        where this raises.

        Raises PromptError, EmbeddingError, OptionError, ContextTooLongError or NotSupportedByRuntime before anything
        reaches the runtime; ModelBusyError while another run is going on; ModelClosedError; RunTimeoutError after a
        run that never returned.
        """
        return Generation(self._begin(request, InferMode.GENERATE, on_return), self)

    def logits(self, request: Request) -> NDArray[np.float32]:
        """The scores of the next token after each position, float32 (positions, vocabulary); from 1.2.0.

        Which positions the runtime gives (all, or the last only) is its own choice. Raises what `generate` raises, and
        RunError.
        """
        if not self.library.abi.has("RKLLMResult", "logits"):
            raise NotSupportedByRuntime("logits", self.library.release, first_release("RKLLMResult", "logits"))
        return self._array(request, InferMode.GET_LOGITS)

    def hidden_states(self, request: Request) -> NDArray[np.float32]:
        """The last hidden layer, float32 (positions, width). Raises what `generate` raises, and RunError."""
        return self._array(request, InferMode.GET_LAST_HIDDEN_LAYER)

    def abort(self) -> None:
        """Ask the run that is going on to stop, and return at once; its iterator ends with finish_reason "abort"."""
        run = self._handle.last_run
        if run is not None and not run.done.is_set():
            run.ask_abort("abort")

    def clear_kv_cache(self, keep_system_prompt: bool = False, span: tuple[int, int] | None = None) -> None:
        """Forget what was said (1.2.0), or positions span[0] up to but without span[1] only (1.2.1).

        Raises NotSupportedByRuntime, ModelBusyError, ModelClosedError, RunError.
        """
        release = self.library.release
        if span is not None and RELEASES.index(release) < RELEASES.index("1.2.1"):
            raise NotSupportedByRuntime("clearing a part of the KV cache", release, "1.2.1")
        self._call(lambda: self._handle.clear_kv_cache(keep_system_prompt, span))

    def kv_cache_size(self) -> int:
        """Positions held in the KV cache (1.2.1). Raises as `clear_kv_cache`."""
        return self._call(self._handle.kv_cache_size)

    def set_chat_template(self, system: str, prefix: str, postfix: str) -> None:
        """What the runtime puts around a prompt (1.2.0); three empty strings switch its template off.

        Switching it off switches `enable_thinking` off too. Raises as `clear_kv_cache`, and PromptError.
        """
        parts = [encode_text(text, "chat template") for text in (system, prefix, postfix)]
        self._call(lambda: self._handle.check("rkllm_set_chat_template", *parts))

    def load_lora(self, path: str | os.PathLike[str], name: str, scale: float = 1.0) -> None:
        """Load a LoRA adapter; the runs whose request names it use it. Raises as `clear_kv_cache`, and PromptError."""
        file, named = encode_text(os.fspath(path), "path"), encode_text(name, "name of the LoRA adapter")
        adapter = make_lora(self.library.abi, file, named, scale)
        self._call(lambda: self._handle.check("rkllm_load_lora", ctypes.byref(adapter)))

    def load_prompt_cache(self, path: str | os.PathLike[str]) -> None:
        """Load a prompt cache file; for text only. Raises as `clear_kv_cache`."""
        file = encode_text(os.fspath(path), "path")
        self._call(lambda: self._handle.check("rkllm_load_prompt_cache", file))

    def release_prompt_cache(self) -> None:
        """Drop the prompt cache. Raises as `clear_kv_cache`."""
        self._call(lambda: self._handle.check("rkllm_release_prompt_cache"))

    def close(self) -> None:
        """Abort what is going on, wait for it to return, and give the model back. May be called twice.

        Raises RunTimeoutError when a run does not return in time (once); the runtime then keeps what it holds until
        the process ends, or until that run returns after all.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            run = self._handle.last_run
        with self._stack:
            if run is not None and not run.done.is_set() and not run.stuck:
                run.stop()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not sys.is_finalizing():
            warnings.warn(f"{self.path} was not closed", ResourceWarning, source=self, stacklevel=1)
            self.close()

    def _begin(self, request: Request, mode: InferMode, on_return: Callable[[], object] | None = None) -> Run:
        abi, library = self.library.abi, self.library
        check_request(request, abi, self._settings)
        max_new = self._limit_of(request)
        if mode is InferMode.GENERATE:
            check_context(request, max_new, self._max_context_len or self.facts.max_context_limit)
        if request.seed is not None and library.set_seed is None:
            raise NotSupportedByRuntime("a seed for the sampling", abi.release, None)
        sampling = self._sampling_of(request)
        prepared = make_run_input(request, abi, self._tags, sampling, max_new=max_new, mode=mode)
        per_run = abi.has("RKLLMInferParam", "max_new_tokens")
        run = Run(
            abi,
            stop=request.stop,
            limit=max_new,
            runtime_limit=max_new if per_run else self._max_new_tokens,
            mode=mode,
            timeout=self._settings.stop_timeout_s,
        )
        run.on_return = on_return or run.on_return
        self._wait_for_stopping()
        with self._lock:
            self._check_free()
            self._handle.last_run = run
            self._worker.submit(
                partial(self._handle.run, run, prepared, clear=request.images is not None, seed=request.seed)
            )
        return run

    def _array(self, request: Request, mode: InferMode) -> NDArray[np.float32]:
        run = self._begin(request, mode)
        try:
            run.done.wait()
        except BaseException:
            run.stop()
            raise
        if run.error is not None:
            raise run.error
        if not run.arrays:
            raise RunError(f"The runtime gave no array in a {mode.name} run.")
        return np.concatenate(run.arrays) if len(run.arrays) > 1 else run.arrays[0]

    def _limit_of(self, request: Request) -> int:
        wanted = request.max_new_tokens or self._max_new_tokens
        if wanted > self._max_new_tokens and not self.library.abi.has("RKLLMInferParam", "max_new_tokens"):
            raise OptionError(
                f"max_new_tokens {wanted} is more than the {self._max_new_tokens} that the model was opened with, and "
                f"runtime {self.library.release} fixes the most at opening. Open it with more."
            )
        return wanted

    def _sampling_of(self, request: Request) -> Sampling:
        wanted = request.sampling or self._sampling
        if self.library.abi.RKLLMSamplingParam is None and not same_sampling(wanted, self._sampling):
            first = first_release("RKLLMSamplingParam")
            if self._settings.sampling_per_run == "refuse":
                raise NotSupportedByRuntime("sampling for a single run", self.library.release, first)
            warnings.warn(
                f"Runtime {self.library.release} fixes the sampling when a model is opened (until {first}); "
                "this run goes on with that.",
                SamplingFixedWarning,
                stacklevel=4,
            )
        return wanted

    def _wait_for_stopping(self) -> None:
        """A run that is ending or being stopped is no reason to refuse the next one: it only has to return first."""
        run = self._handle.last_run
        if run is not None and run.stopping and not run.stuck:
            run.done.wait(self._settings.stop_timeout_s)

    def check_usable(self) -> None:
        """Raise ModelClosedError after `close`, and RunTimeoutError after a run that never returned."""
        if self._closed:
            raise ModelClosedError(f"{self.path} was closed; open it again.")
        if self._handle.stuck:
            raise RunTimeoutError(f"A run of {self.path} never returned; end the process to use the model again.")

    def _check_free(self) -> None:
        self.check_usable()
        run = self._handle.last_run
        if run is not None and not run.done.is_set():
            raise ModelBusyError(f"{self.path} is running; read or close that answer first.")

    def _call(self, job: Callable[[], T]) -> T:
        self._wait_for_stopping()
        with self._lock:
            self._check_free()
            future = self._worker.submit(job)
        return future.result()

    @property
    def settings(self) -> ModelSettings:
        """What the model was opened with."""
        return self._settings


def _stop_worker(worker: Worker, handle: Handle, timeout: float) -> None:
    if not worker.stop(0 if handle.stuck else timeout) and not handle.stuck:
        raise RunTimeoutError(
            f"The runtime did not give the model back within {timeout:g} s. End the process to free what it holds."
        )
