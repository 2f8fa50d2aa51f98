"""What rkllm-toolkit does not take, one rule for each, in words of its own: checked before a long run.

From the vendor's guide to the RKLLM SDK (1.3.0, the table of build's arguments) and its CHANGELOG.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from vlm.convert.llm_job import LOADING, TARGETS, LlmJob, LlmOptions, kind_of
from vlm.errors import OptionError
from vlm.keys import did_you_mean

ALGORITHMS: Final = ("normal", "grq", "gdq")
DEVICES: Final = ("cpu", "cuda")
DTYPES: Final = ("float32", "float16", "bfloat16")
LEVELS: Final = (0, 1)
MOST_CONTEXT: Final = 16384
CONTEXT_STEP: Final = 32
_SAMPLE_KEYS = ({"input", "target"}, {"input_embed", "target"}, {"sample", "token_nums"})


def check(job: LlmJob) -> None:
    """Raise OptionError that names everything that is wrong with a job."""
    problems = [*_files(job), *([] if kind_of(job.source) == "rkllm" else _options(job))]
    if problems:
        raise OptionError(" ".join(problems))


def _files(job: LlmJob) -> Iterator[str]:
    """What is wrong with the files of a job, each in words."""
    kind, source = kind_of(job.source), job.source
    if kind == "model" and not (source / "config.json").is_file():
        yield f"{source} is no directory of a model (it has no config.json), no .gguf and no .rkllm file."
    elif kind != "model" and not source.is_file():
        yield f"There is no file {source}."
    if job.out.suffix != ".rkllm":
        yield f"The file to write ends in .rkllm; got {job.out}."
    elif job.out.exists() and source.exists() and job.out.samefile(source):
        yield f"The file to write is the one to read, {source}; name another."
    if kind == "rkllm":
        if job.options != type(job.options)() or job.chat or job.text:
            yield "A .rkllm file is only brought up to date: it is quantised already, and takes no other options."
        return
    if job.text is not None and not job.text.is_file():
        yield f"There is no text file {job.text} to count perplexity on."
    if job.text is not None and not (source / "tokenizer.json").is_file():
        yield f"Perplexity needs the model's tokenizer.json; {source} has none."


def _options(job: LlmJob) -> Iterator[str]:
    """What is wrong with the options of a job, each in words."""
    for rule in RULES:
        yield from rule(job.options)
    loading = _changed(job.options, LOADING)
    if kind_of(job.source) == "gguf" and loading:
        yield f"load_gguf takes the file alone; {', '.join(loading)} is for a directory that transformers loads."
    bits = _gptq_bits(job.source)
    if bits not in (None, 8):
        yield f"rkllm-toolkit takes GPTQ models of 8 bits (since 1.2.0); this one has {bits}."


def _one_of(name: str, value: object, known: tuple[Any, ...] | list[str]) -> Iterator[str]:
    if value not in known:
        near = did_you_mean(value, list(known)) if isinstance(value, str) else ""
        yield f"{name} {value!r} is unknown{near}; known: {', '.join(map(str, known))}."


def _target(options: LlmOptions) -> Iterator[str]:
    yield from _one_of("target_platform", options.target_platform, list(TARGETS))


def _quantized_dtype(options: LlmOptions) -> Iterator[str]:
    target, dtype = TARGETS.get(options.target_platform), options.quantized_dtype
    if target is not None and dtype is not None and dtype not in target.dtypes:
        yield f"{options.target_platform} has no quantized_dtype {dtype!r}; it has {', '.join(target.dtypes)}."


def _cores(options: LlmOptions) -> Iterator[str]:
    target, cores = TARGETS.get(options.target_platform), options.num_npu_core
    if target is not None and cores is not None and not 1 <= cores <= target.cores:
        most = "1" if target.cores == 1 else f"1 to {target.cores}"
        yield f"num_npu_core for {options.target_platform} is {most}; got {cores}."


def _algorithm(options: LlmOptions) -> Iterator[str]:
    algorithm = options.quantized_algorithm
    yield from _one_of("quantized_algorithm", algorithm, ALGORITHMS)
    if algorithm not in ("grq", "gdq") or options.target_platform not in TARGETS:
        return
    dtype = options.quantized_dtype or TARGETS[options.target_platform].dtypes[0]
    if not dtype.startswith("w4a16"):
        yield f"quantized_algorithm {algorithm} is for w4a16 only; quantized_dtype is {dtype}."
    if options.device != "cuda":
        yield f"quantized_algorithm {algorithm} needs a GPU: device cuda; it is {options.device}."


def _context(options: LlmOptions) -> Iterator[str]:
    tokens = options.max_context
    if not 0 < tokens <= MOST_CONTEXT:
        yield f"max_context is at most {MOST_CONTEXT} and at least {CONTEXT_STEP}; got {tokens}."
    elif tokens % CONTEXT_STEP:
        below = tokens - tokens % CONTEXT_STEP
        yield f"max_context is a multiple of {CONTEXT_STEP}; got {tokens}, take {below + CONTEXT_STEP}."


def _hybrid_rate(options: LlmOptions) -> Iterator[str]:
    if not 0 <= options.hybrid_rate < 1:
        yield f"hybrid_rate is at least 0 and below 1; got {options.hybrid_rate}."


def _level(options: LlmOptions) -> Iterator[str]:
    yield from _one_of("optimization_level", options.optimization_level, LEVELS)


def _loading(options: LlmOptions) -> Iterator[str]:
    yield from _one_of("device", options.device, DEVICES)
    yield from _one_of("dtype", options.dtype, DTYPES)
    if options.model_lora is not None and not (options.model_lora / "adapter_config.json").is_file():
        yield f"model_lora {options.model_lora} is no directory of a LoRA adapter: it has no adapter_config.json."
    if options.custom_config is not None and not isinstance(_json(options.custom_config), dict):
        yield f"custom_config {options.custom_config} is no file with a JSON object."


def _quantising(options: LlmOptions) -> Iterator[str]:
    names = ("quantized_dtype", "quantized_algorithm", "extra_qparams", "dataset", "hybrid_rate")
    given = _changed(options, names)
    if not options.do_quantization and given:
        yield f"Without do_quantization there is nothing for {', '.join(given)} to say."
    if options.extra_qparams is not None and not options.extra_qparams.is_file():
        yield f"There is no file {options.extra_qparams}, which was given as extra_qparams."


def _dataset(options: LlmOptions) -> Iterator[str]:
    if options.dataset is None:
        return
    samples = _json(options.dataset)
    if not isinstance(samples, list) or not samples:
        yield f"dataset {options.dataset} is no file with a JSON list of samples."
        return
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample, dict) or not any(keys <= sample.keys() for keys in _SAMPLE_KEYS):
            yield (
                f"Sample {number} of dataset {options.dataset} is not {{input, target}} for text, nor {{input_embed, "
                "target}} for pictures, as `vlm convert dataset` writes."
            )
            return


RULES: Final[tuple[Callable[[LlmOptions], Iterator[str]], ...]] = (
    _target,
    _quantized_dtype,
    _cores,
    _algorithm,
    _context,
    _hybrid_rate,
    _level,
    _loading,
    _quantising,
    _dataset,
)


def _changed(options: LlmOptions, names: tuple[str, ...]) -> list[str]:
    fields = type(options).model_fields
    return [name for name in names if getattr(options, name) != fields[name].default]


def _gptq_bits(source: Path) -> int | None:
    """The bits of a GPTQ model, as its config.json tells; None for any other."""
    config = _json(source / "config.json")
    about = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(about, dict) or about.get("quant_method") != "gptq":
        return None
    bits = about.get("bits")
    return bits if isinstance(bits, int) else 0


def _json(path: Path) -> Any:
    """What a JSON file holds; None where it holds none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
