"""A loaded model and the runs on it: who owns what, one run at a time, and how everything ends.

What people call is in `vlm.rkllm.model`, on top of this.
"""

from __future__ import annotations

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
from vlm.rkllm.abi import InferMode, first_release
from vlm.rkllm.diagnosis import RuntimeFacts
from vlm.rkllm.handle import Clear, Handle
from vlm.rkllm.hooks import Hooks
from vlm.rkllm.library import Library
from vlm.rkllm.request import (
    CACHE_AND_IMAGES,
    ImageTags,
    ModelSettings,
    Placement,
    Request,
    SamplingFixedWarning,
    check_context,
    check_request,
    encode_text,
)
from vlm.rkllm.run import Run
from vlm.rkllm.structs import fill_generation, fill_param, make_run_input, same_sampling
from vlm.rkllm.worker import Worker

_GREEDY = Sampling()

T = TypeVar("T")
M = TypeVar("M", bound="OpenModel")


class OpenModel:
    """Opens a model and gives it back; begins runs, and has other calls made when none is going on."""

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
        self._settings, self._placement = settings or ModelSettings(), placement or Placement()
        self._max_new_tokens, self._max_context_len = max_new_tokens, max_context_len
        self._lock = threading.Lock()
        self._adapters: list[str] = []
        self._history_lora: str | None = None  # the adapter that made what is in the KV cache
        self._history = False
        self._prompt_cache: str | None = None
        self._closed = True
        self._stack = ExitStack()
        if not self.path.exists():
            raise ModelLoadError(f"There is no model at {self.path}.")
        if max_new_tokens < 1:
            raise OptionError(f"max_new_tokens must be at least 1; got {max_new_tokens}.")
        file = encode_text(str(self.path), "model path")
        param = library.functions.rkllm_createDefaultParam()
        keep = fill_param(
            param,
            library.abi,
            path=file,
            tags=self._tags,
            placement=self._placement,
            run_async=self._settings.run_async,
        )
        fill_generation(
            param,
            library.abi,
            self._sampling,
            self._settings,
            max_context_len=max_context_len,
            max_new=max_new_tokens,
        )
        self._handle = Handle(library, Hooks(library.abi, self._settings), asynchronous=self._settings.run_async)
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

    def __enter__(self: M) -> M:
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
            clear = self._settle(request)
            self._handle.last_run = run
            self._worker.submit(partial(self._handle.run, run, prepared, clear=clear, seed=request.seed))
        return run

    def _settle(self, request: Request) -> Clear:
        """Check a request against what was loaded and what the KV cache holds; what has to be cleared for it."""
        if request.lora is not None and request.lora not in self._adapters:
            loaded = ", ".join(self._adapters) or "none"
            raise OptionError(f"No LoRA adapter {request.lora!r} is loaded; loaded: {loaded}.")
        if self._prompt_cache is not None and request.images is not None:
            raise OptionError(CACHE_AND_IMAGES)
        if self._prompt_cache is not None and request.lora is not None:
            raise OptionError(
                f"The prompt cache {self._prompt_cache} was made without a LoRA adapter, so that adapter "
                f"{request.lora!r} cannot go on from it. Release the cache first."
            )
        changed = request.lora != self._history_lora
        if changed and request.keep_history and self._history:
            raise OptionError(
                f"The history was made with {_adapter(self._history_lora)}, and this run has {_adapter(request.lora)}. "
                "Clear the KV cache first, or leave keep_history out."
            )
        self._history_lora, self._history = request.lora, request.keep_history
        if request.images is not None:
            return "around"
        return "before" if changed else "no"

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


def _adapter(name: str | None) -> str:
    return "no LoRA adapter" if name is None else f"LoRA adapter {name!r}"


def _stop_worker(worker: Worker, handle: Handle, timeout: float) -> None:
    if not worker.stop(0 if handle.stuck else timeout) and not handle.stuck:
        raise RunTimeoutError(
            f"The runtime did not give the model back within {timeout:g} s. End the process to free what it holds."
        )
