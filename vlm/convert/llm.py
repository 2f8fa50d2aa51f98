"""A language model becomes a .rkllm file: `vlm convert llm`, which drives rkllm-toolkit in whatever Python has it.

A conversion takes hours, and the toolkit says what was wrong with its arguments late or not at all: they are checked
here first, against what the vendor's guide says of them. Then there is a plan, the very calls that the worker makes.
"""

from __future__ import annotations

import filecmp
import math
import os
import reprlib
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from vlm.convert.environment import LOG_OF_WORKER, open_converter, run_worker
from vlm.convert.llm_job import LOADING, TARGETS, LlmJob, LlmOptions, kind_of
from vlm.convert.llm_rules import check
from vlm.errors import ConversionError, ConverterError, OptionError

WORKER: Final = Path(__file__).with_name("llm_worker.py")
MADE: Final = "made"
"""What the toolkit is to call its file, without the ending, before it has its own name."""
WINDOW: Final = 512
"""Tokens that perplexity is counted over at a time, as in the vendor's example."""
CHAT: Final = {"max_length": 256, "do_sample": False, "top_k": 1}
"""How chat_model answers: the likeliest words; max_length counts the prompt too."""
SOURCE_OF_TOOLKIT: Final = (
    "rkllm-toolkit is the vendor's, and not on PyPI: its wheels (Linux on x86-64) lie in rkllm-toolkit/packages of the "
    "repository airockchip/rknn-llm on GitHub. It pins other versions than rknn-toolkit2 works with, so give it an "
    "environment of its own, install the wheel there, and name that Python with --python."
)
_FIND = """
import importlib.util, importlib.metadata
if importlib.util.find_spec("rkllm") is not None:
    try:
        print(importlib.metadata.version("rkllm-toolkit"))
    except importlib.metadata.PackageNotFoundError:
        print("of unknown version")
"""


@dataclass(frozen=True)
class Call:
    """One call of rkllm.api.RKLLM."""

    name: str
    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        short = reprlib.Repr()
        short.maxstring = short.maxother = 200
        words = [short.repr(value) for value in self.positional]
        words += [f"{name}={short.repr(value)}" for name, value in self.named.items()]
        return f"llm.{self.name}({', '.join(words)})"


@dataclass(frozen=True)
class Converted:
    """What was made.

    beside: other .rkllm files that the toolkit wrote with it, such as a LoRA adapter's. replies: the quantised model's
    to each prompt of the job. perplexity: its on the job's text, if there was one.
    """

    file: Path
    beside: tuple[Path, ...]
    toolkit: str
    replies: tuple[str, ...]
    perplexity: float | None


def plan(job: LlmJob) -> tuple[Call, ...]:
    """The calls that convert it, in order. Raises OptionError that names everything wrong with the job."""
    check(job)
    kind = kind_of(job.source)
    if kind == "rkllm":
        return (Call("update_rkllm", named={"model": str(job.source)}),)
    loading = _given(job.options, LOADING)
    model = {"model": str(job.source.resolve())}
    load = Call("load_huggingface", named={**model, **loading}) if kind == "model" else Call("load_gguf", named=model)
    calls = [load, Call("build", named=_build_arguments(job.options))]
    if job.text is not None:
        calls.append(Call("get_logits", (_windows(job.source, job.text),)))
    calls += [Call("chat_model", (message, CHAT)) for message in job.chat]
    return (*calls, Call("export_rkllm", (str(job.out),)))


def find_toolkit(python: Path) -> str:
    """The version of the rkllm-toolkit that this Python can import.

    Raises ConverterError that says where to get it, and OptionError for what is no Python.
    """
    try:
        done = subprocess.run([python, "-I", "-c", _FIND], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise OptionError(f"{python} cannot be run as a Python: {exc}.") from exc
    if done.returncode != 0:
        raise OptionError(f"{python} cannot be run as a Python: {done.stderr.strip()[-200:]}")
    if not done.stdout.strip():
        raise ConverterError(f"{python} has no rkllm-toolkit. {SOURCE_OF_TOOLKIT}")
    return done.stdout.strip()


def default_python(directory: Path | None = None) -> Path:
    """The converter's. Raises ConverterError where there is no converter; rkllm-toolkit need not be in one."""
    try:
        return open_converter(directory).python
    except ConverterError as exc:
        raise ConverterError(f"No Python was named. {exc} {SOURCE_OF_TOOLKIT}") from exc


def convert_llm(job: LlmJob, python: Path, say: Callable[[str], None] = lambda _: None) -> Converted:
    """Convert the model with the rkllm-toolkit of `python`; nothing is left of a conversion that failed but its log.

    say: told where the toolkit's log grows. Raises OptionError before anything is loaded, ConverterError where there is
    no toolkit, ConversionError where it fails.
    """
    calls = plan(job)
    toolkit = find_toolkit(python)
    try:
        job.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OptionError(f"The directory {job.out.parent} cannot be made: {exc.strerror}.") from exc
    with TemporaryDirectory(prefix=".llm-", dir=job.out.parent) as name:
        folder = Path(name).resolve()
        say(f"{calls[0].name} and on; what the toolkit prints goes to {folder / LOG_OF_WORKER}")
        worker_job = {"calls": [_within(call, folder) for call in calls], "cuda": job.options.device == "cuda"}
        reply = run_worker(python, WORKER, worker_job, folder, log=job.out.with_suffix(".log"))
        made, *others = _made(folder, job.source)
        os.replace(made, job.out)
        beside = tuple(job.out.with_name(job.out.stem + other.name.removeprefix(MADE)) for other in others)
        for other, place in zip(others, beside, strict=True):
            os.replace(other, place)
    losses: list[float] = reply["losses"]
    perplexity = math.exp(sum(losses) / len(losses)) if losses else None
    return Converted(job.out, beside, toolkit, tuple(reply["replies"]), perplexity)


def _given(options: LlmOptions, names: Sequence[str]) -> dict[str, Any]:
    """Those that are not None, which leaves the toolkit its own default; paths are whole ones."""
    values = {name: getattr(options, name) for name in names}
    return {
        name: str(value.resolve()) if isinstance(value, Path) else value
        for name, value in values.items()
        if value is not None
    }


def _build_arguments(options: LlmOptions) -> dict[str, Any]:
    """What build is told. Where nothing is quantised, nothing is said of how."""
    target = TARGETS[options.target_platform]
    names = [name for name in LlmOptions.model_fields if name not in LOADING]
    if not options.do_quantization:
        names = ["do_quantization", "optimization_level", "target_platform", "num_npu_core", "max_context"]
    defaults = {"quantized_dtype": target.dtypes[0], "num_npu_core": target.cores}
    return {name: value for name, value in {**defaults, **_given(options, names)}.items() if name in names}


def _windows(source: Path, text: Path) -> list[list[int]]:
    """The text's token ids in stretches of WINDOW."""
    from vlm.host.text import Text

    ids = Text(source / "tokenizer.json").encode(text.read_text(encoding="utf-8", errors="replace"), start=True)
    windows = [ids[at : at + WINDOW] for at in range(0, len(ids), WINDOW)]
    windows = [window for window in windows if len(window) > 1]  # a token alone has nothing to be told from
    if not windows:
        raise OptionError(f"{text} has fewer than two tokens; perplexity needs some text.")
    return windows


def _within(call: Call, folder: Path) -> list[Any]:
    """The call as the worker is told it, with the file that it changes or makes inside `folder`."""
    if call.name == "export_rkllm":
        return [call.name, [str(folder / f"{MADE}.rkllm")], {}]
    if call.name == "update_rkllm":
        copy = folder / Path(call.named["model"]).name
        shutil.copyfile(call.named["model"], copy)
        return [call.name, [], {"model": str(copy)}]
    return [call.name, list(call.positional), dict(call.named)]


def _made(folder: Path, source: Path) -> list[Path]:
    """The files that the toolkit wrote, the model's first, which has the shortest name.

    Some releases add .rkllm to the name given; update_rkllm may change its own.
    """
    files = sorted(folder.glob("*.rkllm"), key=lambda file: (file.name == source.name, len(file.name)))
    fresh = [file for file in files if file.name != source.name or not filecmp.cmp(file, source, shallow=False)]
    if not fresh or fresh[0].stat().st_size == 0:
        raise ConversionError("rkllm-toolkit says that all went well, but wrote no .rkllm file.")
    return fresh
