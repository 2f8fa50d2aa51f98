"""One open model: prepares a run, carries it out, and keeps the conversation between runs.

What the vendor leaves open is decided here:
  history     with keep_history 0 a run starts from an empty cache and leaves it empty; with 1 it goes on from what is
              there. The last token of an answer is not in the cache until the next run puts it there.
  pause       a callback that returns 1 ends the run without FINISH, and keeps the cache, also with keep_history 0. The
              next run appends its prompt to it as it is, without a chat template.
  abort       takes effect between two tokens, not during prefill; FINISH is called, the run returns 0.
  failure     once the run has begun, ERROR is called, the run returns -1, and the cache is empty. Whatever can be told
              before is refused with -1 and no callback, and changes nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm.errors import ContextTooLongError, OptionError, PromptError
from vlm.host.compose import Part, assemble, grid_positions, split_images
from vlm.host.decoder import Context, Decoder, Output
from vlm.host.files import ModelConfig, ModelFiles
from vlm.host.prompt_cache import PromptCache
from vlm.host.report import PAUSE, Perf, Report
from vlm.host.sampling import Sampler
from vlm.host.structs import InitParams, Task
from vlm.host.template import Affixes, JinjaTemplate, NoTemplate, Template, Turn
from vlm.host.text import Text
from vlm.pace import Beat, Pace
from vlm.rkllm.abi import InferMode


@dataclass
class _Conversation:
    """What is kept between runs.

    pending: the last answer's last token, not in the cache yet. recent: the latest tokens, for the penalties. ended:
    the last answer ended with an end token. system_length: positions of the system prompt at the cache's beginning.
    only_system: nothing but that is in the cache.
    """

    context: Context
    pending: list[int] = field(default_factory=list)
    recent: list[int] = field(default_factory=list)
    ended: bool = True
    paused: bool = False
    system_length: int = 0
    only_system: bool = False


@dataclass
class Prepared:
    """A run that has been checked and copied out of the caller's memory; the conversation has not changed yet.

    feed, deepstack: what the decoder is fed. ids: the tokens of it, when it is nothing but tokens. fresh: it begins a
    context. reuse: leading tokens that the loaded prompt cache holds. budget: tokens to generate at most.
    """

    task: Task
    feed: NDArray[Any]
    deepstack: NDArray[Any] | None
    ids: list[int] | None
    positions: NDArray[np.int64] | None
    next_position: int | None
    fresh: bool
    reuse: int
    budget: int
    system_length: int
    recent: list[int]


class Session:
    """One handle's model and conversation. One run at a time, from any thread; `abort` from any other.

    Raises ModelLoadError or OptionError when the model cannot be opened as asked.
    """

    def __init__(
        self,
        files: ModelFiles,
        config: ModelConfig,
        params: InitParams,
        *,
        template: bool,
        threads: int | None,
        pace: Pace,
    ) -> None:
        if params.max_context_len > config.limit:
            raise OptionError(
                f"max_context_len {params.max_context_len} is over the model's max_context_limit {config.limit}."
            )
        self.params = params
        self.decoder = Decoder(files, config, threads=threads)
        self.text = Text(files.tokenizer)
        self.max_context_len = params.max_context_len if params.max_context_len > 0 else config.limit
        self._config = config
        self._pace = pace
        self._template: Template = _own_template(files) if template else NoTemplate()
        self._prompt_cache: PromptCache | None = None
        self._aborted = False
        self._now = _Conversation(Context(self.decoder))

    @property
    def cache_length(self) -> int:
        """Positions in the KV cache."""
        return self._now.context.length

    def set_template(self, system: str, prefix: str, postfix: str) -> None:
        """Take this template in place of the model's own; three empty strings switch templates off."""
        self._template = Affixes(system, prefix, postfix) if system or prefix or postfix else NoTemplate()

    def abort(self) -> None:
        """End the run that is going on after its present token. Without one, nothing happens."""
        self._aborted = True

    def clear(self, *, keep_system: bool) -> None:
        """Empty the cache; keep_system: but for the system prompt, if the first run in it had one."""
        kept, context = self._now.system_length, self._now.context
        if not keep_system or not kept:
            self._now = _Conversation(Context(self.decoder))
            return
        if kept < context.length:
            context.drop(kept, context.length)
        self._now = _Conversation(context, system_length=kept, only_system=True)

    def clear_range(self, start: int, end: int) -> None:
        """Take positions start to end (exclusive) out of the cache. Raises OptionError for a range outside it."""
        at_end = end == self._now.context.length
        self._now.context.drop(start, end)
        if at_end:
            self._now.pending = []
        if start < self._now.system_length:
            self._now.system_length = 0

    def load_prompt_cache(self, cache: PromptCache | None) -> None:
        """Start later runs from a saved cache when their prompt begins with its tokens; None forgets it."""
        if cache is not None:
            Context(self.decoder).restore(cache.tensors)  # refuses another model's
        self._prompt_cache = cache

    def prepare(self, task: Task) -> Prepared:
        """Check a run and copy its input. Raises RequestError for whatever the vendor's runtime refuses."""
        self._aborted = False  # from here on an abort is meant for this run
        if task.mode is InferMode.GET_LAST_HIDDEN_LAYER and not self.decoder.gives_hidden:
            raise OptionError("This export has no hidden_states output; the last hidden layer cannot be given.")
        now = self._now
        fresh = not (now.paused or (task.keep_history and now.context.length))
        parts, system_length = self._parts(task, fresh)
        held, position = (0, 0) if fresh else (now.context.length, now.context.next_position)
        length = sum(part.length for part in parts)
        if not length:
            raise PromptError("The prompt is empty.")
        budget = self._budget(task, held, length)
        ids = [i for part in parts for i in part.ids]
        all_ids = ids if len(ids) == length else None
        positions, next_position = grid_positions(parts, task.images, self.decoder, position)
        feed, deepstack = assemble(parts, self.decoder)
        return Prepared(
            task=task,
            feed=feed,
            deepstack=deepstack,
            ids=all_ids,
            positions=positions,
            next_position=next_position,
            fresh=fresh,
            reuse=self._reusable(task, all_ids) if fresh else 0,
            budget=budget,
            system_length=system_length if fresh else now.system_length,
            recent=ids if fresh else [*now.recent, *ids],
        )

    def run(self, prepared: Prepared, report: Report, seed: int | None) -> None:
        """Carry a prepared run out, calling `report` as it goes. Raises RunError when the decoder fails."""
        task = prepared.task
        try:
            perf, output = self._prefill(prepared)
            if task.mode is InferMode.GET_LOGITS:
                report.logits(output.logits)
            elif task.mode is InferMode.GET_LAST_HIDDEN_LAYER and output.hidden is not None:
                report.hidden(output.hidden)
            else:
                sampler = Sampler(task.sampling, seed=seed, recent=prepared.recent)
                self._generate(output.logits[-1], sampler, report, prepared.budget, perf)
                self._now.recent = list(sampler.recent)
            if self._now.paused:
                return
            if not task.keep_history:
                self._now = _Conversation(Context(self.decoder))
        except BaseException:
            self._now = _Conversation(Context(self.decoder))
            raise
        report.finish(perf)

    def _prefill(self, prepared: Prepared) -> tuple[Perf, Output]:
        context = Context(self.decoder) if prepared.fresh else self._now.context
        if prepared.reuse and self._prompt_cache is not None:
            context.restore(self._prompt_cache.head(prepared.reuse))
        self._now = _Conversation(context, system_length=prepared.system_length)
        tokens = len(prepared.feed) - prepared.reuse
        began = time.perf_counter()
        beat = Beat(self._pace.prefill_s(tokens))
        output = context.prefill(
            prepared.feed[prepared.reuse :],
            deepstack=prepared.deepstack,
            positions=prepared.positions,
            next_position=prepared.next_position,
            all_logits=prepared.task.mode is InferMode.GET_LOGITS,
            hidden=prepared.task.mode is InferMode.GET_LAST_HIDDEN_LAYER,
        )
        beat()
        taken = (time.perf_counter() - began) * 1000
        if prepared.task.save_cache is not None and prepared.ids is not None and prepared.fresh:
            PromptCache(tuple(prepared.ids), context.tensors()).save(prepared.task.save_cache)
        return Perf(prefill_ms=taken, prefill_tokens=tokens), output

    def _generate(self, logits: NDArray[np.float32], sampler: Sampler, report: Report, budget: int, perf: Perf) -> None:
        """Sample until an end token, the budget, an abort or a pause."""
        now = self._now
        stream = self.text.stream(skip_special=self.params.skip_special)
        ends: frozenset[int] = frozenset() if self.params.ignore_eos else self._config.eos
        step, pick, push, tell = now.context.step, sampler.pick, stream.push, report.token
        count, now.ended, going = 0, False, True
        began = time.perf_counter()
        beat = Beat(self._pace.token_s)
        while going and not self._aborted:
            token = pick(logits)
            if token in ends:
                now.ended, now.pending = True, [token]
                break
            data, whole = push(token)
            count += 1
            now.paused = tell(data, token, whole) == PAUSE
            going = not (now.paused or self._aborted or count >= budget)
            if going:
                logits = step(token)
            else:
                now.pending = [token]
            beat()
        perf.generate_ms = (time.perf_counter() - began) * 1000
        perf.generate_tokens = count

    def _parts(self, task: Task, fresh: bool) -> tuple[list[Part], int]:
        """The prompt in parts, and how many tokens of it are the system prompt."""
        now = self._now
        pending = [] if fresh else now.pending
        if now.ended and (task.turn is None or isinstance(self._template, NoTemplate)):
            pending = []  # the caller's own input ends the last turn: the end token must not be there twice
        parts, system_length = [Part(ids=pending)] if pending else [], 0
        if task.rows is not None:
            parts.append(Part(rows=task.rows))
        elif task.ids is not None:
            parts.append(Part(ids=task.ids))
        elif task.turn is not None:
            text = self._render(task.turn, fresh)
            if task.images is not None:
                expected = self._config.image_tokens
                parts += split_images(text, task.images, self.text, start=fresh, expected=expected)
            else:
                parts.append(Part(ids=self.text.encode(text, start=fresh)))
            if fresh and (system := self._template.system()):
                ids = self.text.encode(system, start=True)
                system_length = len(ids) if parts[0].ids[: len(ids)] == ids else 0
        return parts, system_length

    def _render(self, turn: Turn, fresh: bool) -> str:
        if self._now.paused:
            return turn.prompt
        if fresh:
            return self._template.first(turn)
        if self._now.only_system:
            return self._template.first(turn).removeprefix(self._template.system())
        return self._template.following(turn, ended=self._now.ended)

    def _budget(self, task: Task, held: int, length: int) -> int:
        """How many tokens may be generated. Raises ContextTooLongError when they do not fit."""
        if task.mode is not InferMode.GENERATE:
            wanted = 0
        elif task.max_new_tokens > 0:
            wanted = task.max_new_tokens
        else:
            wanted = max(self.max_context_len - held - length, 1)
        needed = held + length + wanted
        if needed > self.max_context_len:
            raise ContextTooLongError(
                f"The prompt has {length} tokens, the KV cache holds {held} and max_new_tokens is {wanted}: {needed} "
                f"are more than max_context_len {self.max_context_len}. Ask for fewer new tokens or pictures."
            )
        return wanted

    def _reusable(self, task: Task, ids: list[int] | None) -> int:
        """How many leading tokens the loaded prompt cache holds; one is always left to be computed, for its logits."""
        cache = self._prompt_cache
        if cache is None or ids is None or task.mode is not InferMode.GENERATE or self.decoder.grid_positions:
            return 0
        return min(len(cache.ids), len(ids) - 1) if tuple(ids[: len(cache.ids)]) == cache.ids else 0


def _own_template(files: ModelFiles) -> Template:
    """The model's chat template, or none."""
    if files.chat_template is None:
        return NoTemplate()
    tokens = {}
    for name in ("bos_token", "eos_token"):
        value = files.tokenizer_config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            tokens[name] = value
    return JinjaTemplate(files.chat_template, tokens)
