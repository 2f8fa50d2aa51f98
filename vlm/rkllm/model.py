"""What a loaded model can do: answer, stream, logits, hidden states, KV cache, LoRA, prompt cache, and the rest."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm.errors import ModelLoadError, NotSupportedByRuntime, OptionError, RunError
from vlm.rkllm.abi import RELEASES, InferMode, first_release
from vlm.rkllm.diagnosis import RuntimeFacts
from vlm.rkllm.opened import OpenModel
from vlm.rkllm.request import ImageTags, ModelSettings, Placement, Request, SamplingFixedWarning, encode_text
from vlm.rkllm.run import FinishReason, Generation, Perf, Piece
from vlm.rkllm.structs import CrossAttention, make_cross_attention, make_lora

__all__ = [
    "CrossAttention",
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


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Model(OpenModel):
    """A model loaded by a runtime. One run at a time; every method may be called from any thread.

    path: the .rkllm file (or the host runtime's model directory). tags: what the runtime puts for an image; fixed here
    before 1.3.0. sampling: None is greedy; fixed here before 1.3.0. max_context_len: None leaves the runtime's default.
    max_new_tokens: the default, and before 1.3.0 the most, for a run.

    Raises ModelLoadError (one of its kinds where the runtime says why), OptionError, and NotSupportedByRuntime for a
    setting that the release does not have.
    """

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

        def job() -> None:
            self._handle.clear_kv_cache(keep_system_prompt, span)
            if span is None and not keep_system_prompt:
                self._history = False

        self._call(job)

    def kv_cache_size(self) -> int:
        """Positions held in the KV cache (1.2.1). Raises as `clear_kv_cache`."""
        return self._call(self._handle.kv_cache_size)

    def set_chat_template(self, system: str, prefix: str, postfix: str) -> None:
        """What the runtime puts around a prompt (1.2.0); three empty strings switch its template off.

        Switching it off switches `enable_thinking` off too. Raises as `clear_kv_cache`, and PromptError.
        """
        parts = [encode_text(text, "chat template") for text in (system, prefix, postfix)]
        self._call(lambda: self._handle.check("rkllm_set_chat_template", *parts))

    def is_running(self) -> bool:
        """Whether the runtime says that a run is going on, as its release means it; from any thread, also in a run.

        Releases do not all mean it (see `vlm.rkllm.abi`), so that nothing here relies on it alone. Raises
        ModelClosedError, RunTimeoutError.
        """
        with self._lock:
            self.check_usable()
            return self._handle.is_running()

    def load_lora(self, path: str | os.PathLike[str], name: str, scale: float = 1.0) -> None:
        """Load a LoRA adapter, beside those loaded before; the runs whose request names it use it, no other does.

        scale: how strongly it counts; 1 is as trained. It stays until the model is closed: the runtime has no function
        to unload one. Raises as `clear_kv_cache`; OptionError for a name that is taken or a scale that is no number;
        ModelLoadError where there is no such file.
        """
        self._need("rkllm_load_lora")
        file, named = Path(path), encode_text(name, "name of the LoRA adapter")
        if not name or name in self._adapters:
            raise OptionError(f"A LoRA adapter needs a name of its own; got {name!r}.")
        if not math.isfinite(scale):
            raise OptionError(f"The scale of a LoRA adapter must be a number; got {scale}.")
        if not file.is_file():
            raise ModelLoadError(f"There is no LoRA adapter at {file}.")
        adapter = make_lora(self.library.abi, encode_text(str(file), "path"), named, scale)

        def job() -> None:
            self._handle.check("rkllm_load_lora", ctypes.byref(adapter))
            self._adapters.append(name)

        self._call(job)

    @property
    def loras(self) -> tuple[str, ...]:
        """The names of the LoRA adapters that are loaded."""
        return tuple(self._adapters)

    def save_prompt_cache(self, prompt: str, cache: str | os.PathLike[str]) -> Path:
        """Have the runtime read a prompt and save what it made of it, for `load_prompt_cache`. Returns the file.

        cache: a name, in `ModelSettings.prompt_cache_dir`, or a path. One of that name is replaced when the new one is
        complete. Text only: with images it is refused, because a cache is found again by its tokens alone. Raises what
        `generate` raises, and RunError where the runtime saved nothing.
        """
        file = self._cache_file(cache)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # The runtime saves in a run like any other; its one token is of no interest.
            self.generate(Request(prompt=prompt, max_new_tokens=1, save_cache=part)).text()
            if not part.is_file():
                raise RunError(f"The runtime ran and wrote no prompt cache to {part}.")
            part.replace(file)
        except OSError as exc:
            raise OptionError(f"The prompt cache cannot be written to {file}: {exc}") from exc
        finally:
            part.unlink(missing_ok=True)
        return file

    def load_prompt_cache(self, cache: str | os.PathLike[str]) -> None:
        """Have later prompts that begin as a saved one did start from there; one loaded before is released.

        cache: as for `save_prompt_cache`. Until it is released, images are refused. Raises as `clear_kv_cache`, and
        OptionError where there is no such file.
        """
        file = self._cache_file(cache)
        if not file.is_file():
            raise OptionError(f"There is no prompt cache at {file}.")
        data = encode_text(str(file), "path")

        def job() -> None:
            if self._prompt_cache is not None:
                self._handle.check("rkllm_release_prompt_cache")
                self._prompt_cache = None
            self._handle.check("rkllm_load_prompt_cache", data)
            self._prompt_cache = str(cache)

        self._call(job)

    def release_prompt_cache(self) -> None:
        """Drop the prompt cache that is loaded; without one, nothing happens. Raises as `clear_kv_cache`."""

        def job() -> None:
            if self._prompt_cache is not None:
                self._handle.check("rkllm_release_prompt_cache")
                self._prompt_cache = None

        self._call(job)

    def set_function_tools(self, system: str, tools: str, response: str) -> None:
        """Give the runtime's own chat template functions that the model may call (1.2.1).

        system: the system prompt. tools: JSON, a list of OpenAI's function definitions. response: what stands around a
        function's answer, which is a run of role "tool". The pipeline renders tools itself, from the profile. Raises
        as `clear_kv_cache`, and PromptError.
        """
        parts = [encode_text(text, "function tools") for text in (system, tools, response)]
        self._call(lambda: self._handle.check("rkllm_set_function_tools", *parts))

    def set_cross_attention(self, encoded: CrossAttention) -> None:
        """Give the model an encoder's output to attend to (1.2.1); the arrays are used where they lie until the next.

        Raises as `clear_kv_cache`, EmbeddingError for arrays of another shape, and OptionError for a model that was not
        opened with `Placement.cross_attention`.
        """
        self._need("rkllm_set_cross_attn_params")
        if not self._placement.cross_attention:
            raise OptionError(
                f"{self.path} was opened without cross attention; open it with Placement.cross_attention."
            )
        struct = make_cross_attention(self.library.abi, encoded)
        self._call(lambda: self._handle.set_cross_attention(struct, encoded))

    def _need(self, function: str) -> None:
        """Raise NotSupportedByRuntime where the release, or the runtime behind it, lacks a function."""
        getattr(self.library.functions, function)

    def _cache_file(self, cache: str | os.PathLike[str]) -> Path:
        """The file of a prompt cache: a path, or a name in the directory for them."""
        if not isinstance(cache, str) or "/" in cache:
            return Path(cache)
        if not _NAME.fullmatch(cache):
            raise OptionError(f"The name of a prompt cache is letters, digits, dots, dashes and _; got {cache!r}.")
        folder = self._settings.prompt_cache_dir
        if folder is None:
            raise OptionError(f"Open the model with prompt_cache_dir to call a prompt cache {cache!r}, or give a path.")
        return folder / cache
