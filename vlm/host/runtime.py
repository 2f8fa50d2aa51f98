"""The RKLLM functions, as C functions take them, over a `Session` for each handle."""

from __future__ import annotations

import _thread
import ctypes
import functools
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import onnxruntime

from vlm.errors import ModelBusyError, ModelClosedError, OptionError, RkvlmError
from vlm.host import prompt_cache
from vlm.host.files import find_model, read_config
from vlm.host.report import Report
from vlm.host.session import Prepared, Session
from vlm.host.structs import default_param, read_param, read_task
from vlm.pace import Pace
from vlm.rkllm.abi import Abi, InferMode

_P = ParamSpec("_P")

MESSAGES_KEPT = 1000
"""How many lines `HostRuntime.messages` holds at most; the oldest go first."""


class _Handle:
    """One handle: its session, its callback, and which thread is in a run."""

    def __init__(self, session: Session, callback: int, userdata: int | None) -> None:
        self.session = session
        self.callback = callback
        self.userdata = userdata
        self.lock = threading.Lock()  # held while a run is going on
        self.runner: int | None = None


def _guarded(function: Callable[Concatenate[HostRuntime, _P], None]) -> Callable[Concatenate[HostRuntime, _P], int]:
    """0 for a call that returned, -1 and a message for one that raised: nothing may be raised into C."""

    @functools.wraps(function)
    def call(self: HostRuntime, /, *args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            function(self, *args, **kwargs)
        except RkvlmError as exc:
            self._say(f"E rkllm: {exc}")
            return -1
        except KeyboardInterrupt:
            self._say("E rkllm: interrupted")
            # Raised in here it would be lost in C; a moment later the caller is back in Python.
            threading.Timer(0.05, _thread.interrupt_main).start()
            return -1
        except BaseException as exc:
            self._say(f"E rkllm: {type(exc).__name__}: {exc}")
            return -1
        return 0

    return call


class HostRuntime:
    """librkllmrt.so's functions on this machine's CPU, for one release of the interface.

    abi: whose structs are taken and given. seed: of the sampling (no RKLLM struct has one); each run begins with it
    anew, so that the same run twice gives the same tokens; None is a different one each time. threads: of ONNX Runtime
    for each model; None is one for each core, or a single one for a small model. pace: the least time that prefill and
    each token take, for a PC that is to take a board's time; see `vlm.pace`.

    The methods called rkllm_* take what the C functions take, as a ctypes callback receives it: handles and void* as
    int or None, char* as bytes or None, struct pointers as POINTER objects, the callback as a function object. They
    return 0, or -1 after appending a line to `messages`; they raise nothing. `rkllm_createDefaultParam` returns the
    struct. Each handle is independent; calls on one may come from any thread, and one run at a time is carried out.

    The board's own settings (base_domain_id, embed_flash, CPU count and mask, n_keep, is_async) mean nothing here.
    """

    def __init__(
        self, abi: Abi, *, seed: int | None = None, threads: int | None = None, pace: Pace | None = None
    ) -> None:
        self.abi = abi
        self.messages: list[str] = []
        self._seed = self._own_seed = seed
        self._threads = threads
        self._pace = pace or Pace()
        self._handles: dict[int, _Handle] = {}
        # Above 32 bits, as real pointers are on AArch64: a handle that a wrong argtype cuts short is not found.
        self._numbers = itertools.count(0x5A00000010, 0x10)

    def functions(self) -> dict[str, Callable[..., Any]]:
        """The functions that this release has and that can be had on a PC, by name.

        LoRA, function tools and cross attention cannot: merge the adapter into the model, render the tools into the
        prompt.
        """
        return {name: getattr(self, name) for name in self.abi.signatures if hasattr(self, name)}

    def set_seed(self, seed: int | None) -> None:
        """Set the seed of the runs that begin from now on, in every handle; None is the runtime's own again."""
        self._seed = self._own_seed if seed is None else seed

    def rkllm_createDefaultParam(self) -> Any:
        """RKLLMParam with the vendor's defaults, see `structs.default_param`."""
        return default_param(self.abi)

    @_guarded
    def rkllm_init(self, handle: Any, param: Any, callback: Any) -> None:
        """Open a model directory. callback: the function, or from 1.3.0 the struct that holds it."""
        if not handle:
            raise OptionError("rkllm_init was given no place for the handle (NULL).")
        handle[0] = None
        params = read_param(self.abi, param)
        address, userdata = self._callback(callback)
        files = find_model(params.model_path)
        config = read_config(files)
        # Facts: the runtime reads the model's chat template from 1.2.0 on.
        template = "rkllm_set_chat_template" in self.abi.signatures
        session = Session(files, config, params, template=template, threads=self._threads, pace=self._pace)
        number = next(self._numbers)
        self._handles[number] = _Handle(session, address, userdata)
        handle[0] = number
        self._say(
            f"I rkllm: rkllm-runtime version: {self.abi.release}, rknpu driver version: none, "
            f"platform: host (ONNX Runtime {onnxruntime.__version__})"
        )
        self._say(
            f"I rkllm: rkllm-toolkit version: none, max_context_limit: {config.limit}, npu_core_num: 0, "
            f"target_platform: host, model_dtype: {session.decoder.dtype_name}"
        )

    @_guarded
    def rkllm_run(self, handle: int | None, given: Any, infer: Any, userdata: int | None) -> None:
        """Run in the caller's thread, which the callback is called in; returns when the run is over."""
        found = self._find(handle)
        prepared = self._begin(found, given, infer)
        self._run(found, prepared, self._report(found, userdata))

    @_guarded
    def rkllm_run_async(self, handle: int | None, given: Any, infer: Any, userdata: int | None) -> None:
        """Check and copy the input, return, and run in a thread of its own."""
        found = self._find(handle)
        prepared = self._begin(found, given, infer)
        report = self._report(found, userdata)
        run = _guarded(lambda runtime: runtime._run(found, prepared, report))
        try:
            threading.Thread(target=run, args=(self,), name="rkllm-host-run", daemon=True).start()
        except BaseException:
            found.lock.release()
            raise

    @_guarded
    def rkllm_abort(self, handle: int | None) -> None:
        """Ask the run that is going on to end after its present token; without one, nothing happens."""
        self._find(handle).session.abort()

    def rkllm_is_running(self, handle: int | None) -> int:
        """Whether a run is going on: 1 or 0 from 1.3.0; before, 0 for yes and 1 for no. -1 for an unknown handle."""
        found = self._handles.get(handle or 0)
        if found is None:
            return -1
        return int(found.lock.locked() == self.abi.has("RKLLMInferParam", "sampling_params"))

    @_guarded
    def rkllm_destroy(self, handle: int | None) -> None:
        """Abort what is running, wait for it, and close the model. Refused from within a callback."""
        found = self._find(handle)
        if found.runner == threading.get_ident():
            raise ModelBusyError("rkllm_destroy was called from the callback of a run; call it when the run is over.")
        self._handles.pop(handle or 0, None)
        while not found.lock.acquire(timeout=0.05):
            found.session.abort()  # again and again: a run that had only just begun would not have seen the first

    @_guarded
    def rkllm_clear_kv_cache(self, handle: int | None, keep_system: int, start: Any = None, end: Any = None) -> None:
        """Empty the cache, or take one range of positions out of it. Refused during a run.

        The vendor's header allows a range only after a pause with keep_history 0; here it works at any time.
        """
        with self._idle(handle) as session:
            if not start and not end:
                session.clear(keep_system=bool(keep_system))
            elif not start or not end:
                raise OptionError("rkllm_clear_kv_cache needs both start_pos and end_pos, or neither.")
            else:
                session.clear_range(start[0], end[0])

    @_guarded
    def rkllm_get_kv_cache_size(self, handle: int | None, sizes: Any) -> None:
        """Write the number of positions in the cache to sizes[0]."""
        if not sizes:
            raise OptionError("rkllm_get_kv_cache_size was given no place for the size (NULL).")
        sizes[0] = self._find(handle).session.cache_length

    @_guarded
    def rkllm_set_chat_template(
        self, handle: int | None, system: bytes | None, prefix: bytes | None, postfix: bytes | None
    ) -> None:
        """Replace the model's chat template; three empty strings switch templates off."""
        parts = [(part or b"").decode() for part in (system, prefix, postfix)]
        with self._idle(handle) as session:
            session.set_template(parts[0], parts[1], parts[2])

    @_guarded
    def rkllm_load_prompt_cache(self, handle: int | None, path: bytes | None) -> None:
        """Read a cache that a run with save_prompt_cache wrote; a prompt that begins with its tokens starts there."""
        if not path:
            raise OptionError("rkllm_load_prompt_cache was given no path (NULL or empty).")
        with self._idle(handle) as session:
            session.load_prompt_cache(prompt_cache.load(Path(path.decode())))

    @_guarded
    def rkllm_release_prompt_cache(self, handle: int | None) -> None:
        """Forget the loaded prompt cache."""
        with self._idle(handle) as session:
            session.load_prompt_cache(None)

    def _say(self, line: str) -> None:
        self.messages.append(line)
        del self.messages[:-MESSAGES_KEPT]

    def _callback(self, callback: Any) -> tuple[int, int | None]:
        """The result callback's address and the user data that goes with it."""
        userdata = None
        function = callback
        if callback and self.abi.RKLLMCallback is not None:
            struct = callback.contents
            if struct.tokenizer_callback or struct.embed_callback:
                raise OptionError(
                    "tokenizer_callback and embed_callback are not supported on the host; leave them NULL."
                )
            function, userdata = struct.result_callback, struct.result_userdata
        # The address, not the object: the object would point into the caller's struct, which may be gone by then.
        address = ctypes.cast(function, ctypes.c_void_p).value if function else None
        if address is None:
            raise OptionError("rkllm_init was given no result callback (NULL).")
        return address, userdata

    def _find(self, handle: int | None) -> _Handle:
        found = self._handles.get(handle or 0)
        if found is None:
            raise ModelClosedError(f"{handle:#x} is no open handle." if handle else "The handle is NULL.")
        return found

    def _idle(self, handle: int | None) -> _Idle:
        return _Idle(self._find(handle))

    def _begin(self, found: _Handle, given: Any, infer: Any) -> Prepared:
        """Take the handle for a run and prepare it; the handle is free again if that fails."""
        _take(found)
        try:
            session = found.session
            decoder = session.decoder
            widths = None if decoder.takes_ids else (decoder.width, decoder.image_width)
            task = read_task(self.abi, session.params, widths, given, infer)
            if task.mode is InferMode.GET_LOGITS and not self.abi.has("RKLLMResult", "logits"):
                raise OptionError(f"Release {self.abi.release} has no logits mode.")
            return session.prepare(task)
        except BaseException:
            found.lock.release()
            raise

    def _report(self, found: _Handle, userdata: int | None) -> Report:
        return Report(self.abi, found.callback, userdata if userdata is not None else found.userdata)

    def _run(self, found: _Handle, prepared: Prepared, report: Report) -> None:
        found.runner = threading.get_ident()
        try:
            found.session.run(prepared, report, self._seed)
        except BaseException:
            report.error()
            raise
        finally:
            found.runner = None
            found.lock.release()


class _Idle:
    """Holds a handle so that no run begins; refuses one that is running."""

    def __init__(self, found: _Handle) -> None:
        self._found = found

    def __enter__(self) -> Session:
        _take(self._found)
        return self._found.session

    def __exit__(self, *exc: object) -> None:
        self._found.lock.release()


def _take(found: _Handle) -> None:
    if not found.lock.acquire(blocking=False):
        raise ModelBusyError("A run is going on on this handle; wait for it, or abort it.")
