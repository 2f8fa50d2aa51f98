"""A model's handle: the calls on it, the callback, and all that C may still read while it lives.

Every function here is called on the model's worker thread; `rkllm_abort` and `rkllm_is_running` alone from others.
"""

from __future__ import annotations

import ctypes
import time
from functools import partial
from typing import Any, Literal

from vlm.errors import ModelLoadError, RkvlmError, RunError
from vlm.rkllm.abi import CallbackReturn
from vlm.rkllm.diagnosis import Attempt, RuntimeFacts, load_error, read_facts, run_advice
from vlm.rkllm.hooks import Hooks
from vlm.rkllm.library import Library
from vlm.rkllm.messages import log_lines
from vlm.rkllm.run import Run
from vlm.rkllm.structs import RunInput

Clear = Literal["no", "before", "around"]
"""When the whole KV cache is cleared for a run, where the release can."""

_POLL_S = 0.02  # an asynchronous run that ends without a word is noticed this soon
_QUIET_S = 0.2  # and is over when the runtime has said for this long that nothing runs


class Router:
    """The target of the C callback: hands each result to the run it belongs to, and lets no exception out.

    The run's number travels through the runtime as `userdata`. A result with the number of an earlier run came late
    and is dropped. A runtime that hands on no number at all is taken to mean the run going on.
    """

    def __init__(self) -> None:
        self.current: Run | None = None
        self._numbered = False

    def __call__(self, result: Any, userdata: int | None, state: int) -> int:
        """Take one callback. Returns what the run says of it; a run is stopped by an abort, never from in here."""
        run = self.current
        try:
            if run is not None and userdata == run.id:
                self._numbered = True
                return run.on_result(result, state)
            if run is not None and userdata is None and not self._numbered:
                return run.on_result(result, state)
        except BaseException as exc:  # out of here it would become a random return code
            if run is not None:
                run.fail(exc)
        return CallbackReturn.GO_ON


class Handle:
    """The LLMHandle of one loaded model. `destroy` may be called at any time after the constructor, and twice.

    asynchronous: runs are begun by `rkllm_run_async`, and waited for here.
    """

    def __init__(self, library: Library, hooks: Hooks, *, asynchronous: bool = False) -> None:
        self.library = library
        self._hooks = hooks
        self._asynchronous = asynchronous
        self._cross_attention: list[object] = []
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
            table = abi.RKLLMCallback(result_callback=callback, **self._hooks.callbacks)
            self._keep.append(table)
            callback = ctypes.byref(table)
        wrong: list[BaseException] = []
        self._hooks.fail = wrong.append
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
        if attempt.failed and wrong:
            raise ModelLoadError(f"{path} could not be opened: {wrong[0]}") from wrong[0]
        if attempt.failed:
            raise load_error(attempt)
        self._hooks.fail = self._hook_failed

    def _hook_failed(self, exc: BaseException) -> None:
        if self._router.current is not None:
            self._router.current.fail(exc, "The tokenizer or the embeddings of one's own")

    def run(self, run: Run, prepared: RunInput, clear: Clear, seed: int | None) -> None:
        """Make one run from beginning to end. Whatever happens, the run's stream is ended; nothing is raised.

        clear: an image run on 1.3.0 may otherwise see the image before, and what one adapter made another would use.
        """
        try:
            if "rkllm_clear_kv_cache" not in self.library.functions:
                clear = "no"
            if clear != "no":
                self._clear_all(fresh=not self._used)
            self._run(run, prepared, seed)
            if clear == "around":
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
        functions = self.library.functions
        begin = functions.rkllm_run_async if self._asynchronous else functions.rkllm_run
        try:
            code = begin(self._handle, ctypes.byref(prepared.input), ctypes.byref(prepared.infer), run.id)
            if self._asynchronous and code == 0:
                self._wait(run)
            run.finish(code, partial(self._describe, RunError))
        finally:
            self._router.current = None

    def _wait(self, run: Run) -> None:
        """Wait for an asynchronous run: until it has told its end, and the runtime says that nothing runs.

        Neither is enough alone. The end is told while the run is still on its way out, or (after an abort) never. And
        a runtime that never said that the run was going on is not believed when it says that nothing is.
        """
        believed, quiet, told = self.is_running(), 0.0, 0.0
        while quiet < _QUIET_S:
            run.ended.wait(_POLL_S)
            running = self.is_running()
            believed = believed or running
            if run.ended.is_set():
                if not running or told > _QUIET_S:
                    return
                time.sleep(_POLL_S)
                told += _POLL_S
            quiet = quiet + _POLL_S if believed and not running else 0.0

    def is_running(self) -> bool:
        """What the runtime says, read as its release means it."""
        code = int(self.library.functions.rkllm_is_running(self._handle))
        return code == 1 if self.library.abi.running_is_one else code == 0

    def set_cross_attention(self, struct: Any, keep: object) -> None:
        """Give an encoder's output to the runtime. keep: what it points to, kept until the next. Raises RunError."""
        self.check("rkllm_set_cross_attn_params", ctypes.byref(struct))
        self._cross_attention = [struct, keep]

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
