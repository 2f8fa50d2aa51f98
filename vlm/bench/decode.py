"""How fast the host runtime decodes, next to a bare ONNX Runtime loop over the same files, in one run.

Ours goes the whole way: structs, C function pointers, callback, queue, iterator. The bare loop is the least that gives
the same tokens: embed, decode with the cache bound to inputs and outputs, take the largest logit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm.errors import OptionError, RunError
from vlm.host.decoder import Decoder
from vlm.host.files import find_model, read_config
from vlm.host.runtime import HostRuntime
from vlm.host.text import Text
from vlm.rkllm.abi import abi
from vlm.rkllm.library import host_library
from vlm.rkllm.model import Model, Request

RELEASE = "1.3.0"
"""Whose layout is spoken: the release that can be told not to stop at the end token, so that the lengths are equal."""

TARGET = 0.85
"""The share of the bare loop's rate that the host runtime must reach."""

_PROMPT = "What is in this picture?"


@dataclass(frozen=True)
class DecodeResult:
    """Tokens per second of both, prefill of a short prompt included, each in its fastest round.

    The fastest is the one that other programs disturbed least; both are taken so, and by turns.
    """

    tokens: int
    rounds: int
    ours_tps: float
    bare_tps: float

    @property
    def ratio(self) -> float:
        """Ours over bare."""
        return self.ours_tps / self.bare_tps


class _Endless(HostRuntime):
    """A host runtime whose models go on after the end token."""

    def rkllm_createDefaultParam(self) -> Any:
        param = super().rkllm_createDefaultParam()
        param.ignore_eos_token = True
        return param


def run(model_dir: Path, tokens: int = 200, rounds: int = 5, *, threads: int | None = None) -> DecodeResult:
    """Decode `tokens` tokens greedily, by ours and by the bare loop in turn, `rounds` times after one to warm up.

    threads: of ONNX Runtime, for both; None is what the host runtime takes by itself.

    Raises OptionError when the model's context is shorter or the decoder is of a kind that the bare loop does not
    know, ModelLoadError, and RunError when the two do not say the same.
    """
    files = find_model(model_dir)
    config = read_config(files)
    prompt = np.array(Text(files.tokenizer).encode(_PROMPT, start=True), np.int32)
    if len(prompt) + tokens > config.limit:
        raise OptionError(f"{tokens} tokens after a prompt of {len(prompt)} exceed the model's context {config.limit}.")
    decoder = Decoder(files, config, threads=threads)
    library = host_library(RELEASE, _Endless(abi(RELEASE), threads=threads))
    with Model(model_dir, library, max_new_tokens=tokens) as model:

        def ours() -> tuple[int, ...]:
            with model.generate(Request(tokens=prompt)) as answer:
                answer.text()
                return answer.token_ids

        def bare() -> tuple[int, ...]:
            return _bare_loop(decoder, prompt, tokens)

        times: dict[Callable[[], tuple[int, ...]], list[float]] = {ours: [], bare: []}
        for turn in range(rounds + 1):
            said = []
            for function, taken in sorted(times.items(), key=lambda item: item[0] is (ours if turn % 2 else bare)):
                began = time.perf_counter()
                said.append(function())
                if turn:
                    taken.append(time.perf_counter() - began)
            if said[0] != said[1]:
                raise RunError("The host runtime and the bare loop do not say the same tokens; the rates mean nothing.")
    return DecodeResult(
        tokens=tokens,
        rounds=rounds,
        ours_tps=tokens / min(times[ours]),
        bare_tps=tokens / min(times[bare]),
    )


def report(result: DecodeResult) -> str:
    """The result in three lines."""
    verdict = "reached" if result.ratio >= TARGET else "MISSED"
    return (
        f"host runtime   {result.ours_tps:8.1f} tokens/s\n"
        f"bare loop      {result.bare_tps:8.1f} tokens/s   (best of {result.rounds} x {result.tokens} tokens each)\n"
        f"ratio          {result.ratio:8.3f}            (target {TARGET}: {verdict})"
    )


def _bare_loop(decoder: Decoder, prompt: NDArray[np.int32], tokens: int) -> tuple[int, ...]:
    """Greedy decoding and nothing else, over the sessions that `decoder` has opened."""
    session, embedder = decoder.session, decoder.embedder
    unknown = set(decoder.plain_dtypes) - {"attention_mask", "position_ids"}
    if embedder is None or decoder.grid_positions or unknown:
        raise OptionError("The bare loop knows decoders of embeddings, with attention_mask and position_ids at most.")
    binding, embedding = session.io_binding(), embedder.io_binding()
    taken, given = decoder.embedder_names
    heads, head_dim = decoder.cache_shape
    for name in decoder.past_names:
        binding.bind_cpu_input(name, np.empty((1, heads, 0, head_dim), decoder.cache_dtype))
    names = ["logits", *decoder.present_names]
    fed, at, said = prompt.astype(np.int64)[np.newaxis], 0, []
    while True:
        embedding.bind_cpu_input(taken, fed)
        embedding.bind_output(given)
        embedder.run_with_iobinding(embedding)
        binding.bind_ortvalue_input("inputs_embeds", embedding.get_outputs()[0])
        end = at + fed.shape[1]
        bound = {"attention_mask": np.ones((1, end), np.int64), "position_ids": np.arange(at, end)[np.newaxis]}
        for name in decoder.plain_dtypes:
            binding.bind_cpu_input(name, bound[name])
        for name in names:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        said.append(int(outputs[0].numpy()[0, -1].argmax()))
        if len(said) == tokens:
            return tuple(said)
        for name, value in zip(decoder.past_names, outputs[1:], strict=True):
            binding.bind_ortvalue_input(name, value)
        fed, at = np.array([[said[-1]]]), end
