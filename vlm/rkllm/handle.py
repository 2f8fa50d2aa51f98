"""A model's handle: the calls on it, the callback, and all that C may still read while it lives.

Every function here is called on the model's worker thread, `rkllm_abort` alone from another.
"""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

from vlm.errors import RkvlmError, RunError
from vlm.rkllm.diagnosis import Attempt, RuntimeFacts, load_error, read_facts, run_advice
from vlm.rkllm.library import Library
from vlm.rkllm.messages import log_lines
from vlm.rkllm.run import Run
from vlm.rkllm.structs import RunInput


class Router:
    """The target of the C callback: hands each result to the run it belongs to, and lets no exception out.

    The run's number travels through the runtime as `userdata`. A result with the number of an earlier run came late
    and is dropped. A runtime that hands on no number at all is taken to mean the run going on.
    """

    def __init__(self) -> None:
        self.current: Run | None = None
        self._numbered = False

    def __call__(self, result: Any, userdata: int | None, state: int) -> int:
        """Take one callback. Returns 0, go on; a run is stopped by asking for an abort, never from in here."""
        run = self.current
        try:
            if run is not None and userdata == run.id:
                self._numbered = True
                run.on_result(result, state)
            elif run is not None and userdata is None and not self._numbered:
                run.on_result(result, state)
        except BaseException as exc:  # out of here it would become a random return code
            if run is not None:
                run.fail(exc)
        return 0


class Handle:
    """The LLMHandle of one loaded model. `destroy` may be called at any time after the constructor, and twice."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._handle = ctypes.c_void_p()
        self._router = Router()
        self._keep: list[object] = []
        self._used = False
        self.last_run: Run | None = None
        self.facts = RuntimeFacts()

    @property
    def stuck(self) -> bool:
        """Whether a run never returned: nothing may be asked of the handle any more."""
        return self.last_run is not None and self.last_run.stuck

    def init(self, param: Any, keep: list[object], path: str, context: int | None) -> None:
        """Load the model. keep: what the struct points to. context: the max_context_len that was asked for, if any.

        Raises ModelLoadError, or OptionError for what the model cannot be opened with.
        """
        abi, functions = self.library.abi, self.library.functions
        callback: Any = abi.ResultCallback(self._router)
        self._keep += [callback, param, *keep]
        if abi.RKLLMCallback is not None:
            # result_userdata stays NULL: what rkllm_run is given is the run's number
            table = abi.RKLLMCallback(result_callback=callback)
            self._keep.append(table)
            callback = ctypes.byref(table)
        self.library.drain_messages()
        handle = ctypes.c_void_p()
        with self.library.listen() as said:
            code = functions.rkllm_init(ctypes.byref(handle), ctypes.byref(param), callback)
        self.facts = read_facts(said)
        attempt = Attempt(
            path=path,
            origin=self.library.origin,
            release=self.library.release,
            code=code,
            handle=bool(handle.value),
            context=context,
            lines=said,
            facts=self.facts,
        )
        log_lines(said, failed=attempt.failed)
        if attempt.loaded:  # a handle with no model behind it is not given back: nobody knows what that would touch
            self._handle = handle
        if attempt.failed:
            raise load_error(attempt)

    def run(self, run: Run, prepared: RunInput, clear: bool, seed: int | None) -> None:
        """Make one run from beginning to end. Whatever happens, the run's stream is ended; nothing is raised.

        clear: clear the whole KV cache before and after, where the release can: an image run on 1.3.0 otherwise may
        see the image before.
        """
        try:
            clear = clear and "rkllm_clear_kv_cache" in self.library.functions
            if clear:
                self._clear_all(fresh=not self._used)
            self._run(run, prepared, seed)
            if clear:
                self._clear_all()
        except RkvlmError as exc:
            run.error = run.error or exc
        except BaseException as exc:
            run.fail(exc)
        finally:
            run.end_stream()

    def _run(self, run: Run, prepared: RunInput, seed: int | None) -> None:
        if self.library.set_seed is not None:
            self.library.set_seed(seed)
        self.library.drain_messages()
        run.abort = partial(self.library.functions.rkllm_abort, self._handle)
        if run.stopping:  # closed before it began
            run.finish(0, partial(self._describe, RunError))
            return
        self._used = True
        self._router.current = run
        try:
            code = self.library.functions.rkllm_run(
                self._handle, ctypes.byref(prepared.input), ctypes.byref(prepared.infer), run.id
            )
            run.finish(code, partial(self._describe, RunError))
        finally:
            self._router.current = None

    def _clear_all(self, fresh: bool = False) -> None:
        code = self._clear(0, None, None)
        if code != 0 and not fresh:  # nothing has run on a fresh handle: nothing to clear is no failure
            raise self._describe(RunError, f"Clearing the KV cache failed: rkllm_clear_kv_cache returned {code}")

    def _clear(self, keep_system_prompt: int, start: Any, end: Any) -> int:
        function = self.library.functions.rkllm_clear_kv_cache
        if len(self.library.abi.signatures["rkllm_clear_kv_cache"].argtypes) == 2:
            return int(function(self._handle, keep_system_prompt))
        return int(function(self._handle, keep_system_prompt, start, end))

    def clear_kv_cache(self, keep_system_prompt: bool, span: tuple[int, int] | None) -> None:
        """Clear the KV cache, or positions span[0] to span[1] of it. Raises RunError."""
        # One position each: the runtime reads as many as its batch size, which is 1 here.
        start, end = ((ctypes.c_int * 1)(span[0]), (ctypes.c_int * 1)(span[1])) if span else (None, None)
        code = self._clear(int(keep_system_prompt), start, end)
        if code != 0:
            raise self._describe(RunError, f"Clearing the KV cache failed: rkllm_clear_kv_cache returned {code}")

    def kv_cache_size(self) -> int:
        """Positions in the KV cache. Raises RunError."""
        size = ctypes.c_int(0)
        self.check("rkllm_get_kv_cache_size", ctypes.byref(size))
        return size.value

    def check(self, name: str, *args: Any) -> None:
        """Call a function on the handle. Raises RunError unless it returns 0."""
        code = getattr(self.library.functions, name)(self._handle, *args)
        if code != 0:
            raise self._describe(RunError, f"{name} returned {code}")

    def destroy(self) -> None:
        """Give the model back."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle.value:
            self.library.functions.rkllm_destroy(handle)

    def _describe(self, kind: type[RkvlmError], what: str) -> RkvlmError:
        """An error of ours from what an open model did, with what it said."""
        said = "; ".join(self.library.drain_messages())
        return kind(
            f"{what}.{run_advice(self.facts)} "
            + (
                f"The runtime ({self.library.origin}, release {self.library.release}) said: {said}"
                if said
                else "What the runtime printed says why."
            )
        )
