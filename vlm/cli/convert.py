"""`vlm convert`: files for a board, made on a PC with the vendor's tools."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm.cli.options import Model, takes
from vlm.convert.llm_job import TARGETS, LlmJob, LlmOptions

if TYPE_CHECKING:
    from rich.table import Table

    from vlm.convert.export import Part
    from vlm.convert.vision import Built

app = typer.Typer(help="Make the files that a board wants, on a PC.", no_args_is_help=True)
Directory = Annotated[
    Path | None, typer.Option("--dir", help="Where the converter lies; VLM_CONVERTER_DIR if not given.")
]


@app.command()
def setup(
    directory: Directory = None,
    python: Annotated[
        str | None,
        typer.Option(help="Python to make it with, 3.10 to 3.12; this one, or one on the PATH, if not given."),
    ] = None,
    torch: Annotated[
        str | None, typer.Option(help="PyTorch as pip takes it, a requirement or a wheel; a CPU-only one if not given.")
    ] = None,
    torch_index: Annotated[
        str | None, typer.Option(help="Address of a package index that has it, besides those pip is configured for.")
    ] = None,
) -> None:
    """Make the converter: rknn-toolkit2 in an environment of its own (1.5 GB, of which 400 MB are loaded).

    The vendor's wheels need Linux on x86-64 or aarch64, and Python 3.10, 3.11 or 3.12. What pip is told in its own
    configuration (indexes, proxies) holds here too. Run again, it completes what was interrupted.
    """
    from rich.console import Console

    from vlm.convert import environment

    with Console(stderr=True).status("") as status:

        def say(step: str) -> None:
            status.console.print(f"- {step}")
            status.update(step)

        made = environment.setup(directory, python=python, torch=torch, torch_index=torch_index, say=say)
    print(f"The converter in {made.directory} is ready: rknn-toolkit2 {made.toolkit}, PyTorch {made.torch}.")
    if made.cuda is not None:
        print(f"Its PyTorch is built for CUDA {made.cuda}, which is not needed; --torch names a CPU-only one.")


@app.command()
def vision(
    *,
    model: Model = None,
    onnx: Annotated[Path | None, typer.Option(help="The encoder's ONNX file; the model's own if not given.")] = None,
    target: Annotated[list[str], typer.Option(help="SoC to build for, or all; may be repeated.")] = ["all"],  # noqa: B006
    dtype: Annotated[str, typer.Option(help="What the NPU computes with: fp16 or int8.")] = "fp16",
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of pictures to quantise with; int8 needs it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the .rknn files go.")] = Path(),
    pictures: Annotated[Path | None, typer.Option(help="Folder of pictures to compare on, the first 20.")] = None,
    ask: Annotated[
        str | None, typer.Option(help="A question that the model must answer alike from both embeddings.")
    ] = None,
    least: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Cosine to reach; 0.999 for fp16, 0.99 for int8 if not given.")
    ] = None,
    directory: Directory = None,
) -> None:
    """Build .rknn files of a vision encoder, each compared with the ONNX file in the toolkit's simulator.

    Size, mean and std come from the model's profile. A file that does not compare well is not kept. Example:
    vlm convert vision --model demo --target rk3588 --pictures photos
    """
    from rich.console import Console

    from vlm.convert import environment
    from vlm.convert.vision import VisionJob, convert_vision, refuse_what_was_not_kept

    job = VisionJob(model, onnx, target, dtype, calibration, out, pictures, ask, least)
    with Console(stderr=True).status("") as status:
        builds = list(convert_vision(job, environment.open_converter(directory), status.update))
    print(f"Simulated by rknn-toolkit2 {builds[0].toolkit}, beside ONNX Runtime:")
    Console().print(comparison_table(builds))
    for built in builds:
        if built.kept:
            print(f"{built.file}: {built.dtype} for {built.target}, {built.file.stat().st_size / 1e6:.2f} MB")
    refuse_what_was_not_kept(builds)


Source = Annotated[
    Path,
    typer.Option("--from", help="Directory of the authors' model: config.json, weights, tokenizer.json."),
]
Exported = Annotated[
    str, typer.Argument(metavar="MODEL", help="A profile's name, a profile file, or a model directory.")
]
Out = Annotated[
    Path | None, typer.Option(help="Where the files go; the model's directory, where `vlm` finds them, if not given.")
]


@app.command()
def export(model: Exported, source: Source, out: Out = None, directory: Directory = None) -> None:
    """Export a model's vision tower to ONNX, at the size of its profile: what `vlm convert vision` builds from.

    The model is one that transformers loads: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, Janus, Idefics3, SmolVLM.
    Example: vlm convert export qwen2-vl-2b --from Qwen2-VL-2B-Instruct
    """
    _export("vision", model, source, out, directory)


@app.command()
def host(
    model: Exported,
    source: Source,
    out: Out = None,
    weights: Annotated[str, typer.Option(help="How the weights are stored: fp32, fp16, int8 or int4.")] = "fp16",
    directory: Directory = None,
) -> None:
    """Export a model's language model to ONNX, with its tokenizer: what runs on a PC beside its encoder.

    Together with the encoder of `vlm convert export` in the same directory, `vlm describe --model` runs it.
    """
    _export("words", model, source, out, directory, weights)


def _export(
    part: Part,
    model: str,
    source: Path,
    out: Path | None,
    directory: Path | None,
    weights: str = "fp16",
) -> None:
    from rich.console import Console

    from vlm.convert import environment
    from vlm.convert.export import ExportJob, export

    converter = environment.open_converter(directory)
    with Console(stderr=True).status(f"exporting the {part} of {source.name}"):
        done = export(ExportJob(part, model, source, out, weights), converter)
    for file in done.files:
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    print(f"ONNX Runtime beside PyTorch: cosine {done.cosine:.7f}, largest difference {done.difference:.2g}")


@app.command()
@takes(LlmOptions, into="given", show_defaults=True)
def llm(
    source: Annotated[Path, typer.Argument(help="The model's directory, a .gguf file, or an older .rkllm file.")],
    *,
    out: Annotated[Path, typer.Option(help="The .rkllm file to write.")],
    python: Annotated[
        Path | None, typer.Option(help="The Python that has rkllm-toolkit; the converter's if not given.")
    ] = None,
    chat: Annotated[
        list[str] | None,
        typer.Option(help="Finished prompt for the quantised model to answer on this PC; may be repeated."),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text to count the quantised model's perplexity on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and print what would be done.")] = False,
    directory: Directory = None,
    given: dict[str, Any],
) -> None:
    """Convert a language model to .rkllm with the vendor's rkllm-toolkit.

    Every option is checked before the long run. An older .rkllm file is brought up to the toolkit's release. Example:
    vlm convert llm Qwen2-VL-2B-Instruct --out qwen2-vl-2b.rkllm --target-platform rk3588 --dataset pictures.json
    """
    from rich.console import Console

    from vlm.convert import llm as driver

    job = LlmJob(source, out, LlmOptions(**given), tuple(chat or ()), text)
    calls = driver.plan(job)
    unproven = TARGETS[job.options.target_platform].unproven
    if unproven:
        print(f"vlm: {job.options.target_platform} is unproven: {unproven}", file=sys.stderr)
    if dry_run:
        print(*calls, sep="\n")
        return
    with Console(stderr=True).status("") as status:
        done = driver.convert_llm(job, python or driver.default_python(directory), status.update)
    for prompt, reply in zip(job.chat, done.replies, strict=True):
        print(f"{prompt}\n-> {reply}")
    if done.perplexity is not None:
        print(f"perplexity on {text}: {done.perplexity:.3f}")
    for file in (done.file, *done.beside):
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB, by rkllm-toolkit {done.toolkit}")


@app.command()
def dataset(
    pictures: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    *,
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    model: Model = None,
    ask: Annotated[str, typer.Option(help="The question about each picture.")] = "Describe the picture.",
    most: Annotated[int, typer.Option(min=1, help="Take the first so many pictures.")] = 20,
) -> None:
    """Make the set of pictures and answers that `vlm convert llm --dataset` quantises with.

    The model answers itself, from the ONNX files of `vlm convert export` and `vlm convert host`. Example:
    vlm convert dataset photos --model qwen2-vl-2b --out pictures.json
    """
    from rich.console import Console

    from vlm.convert.dataset import DatasetJob, make_dataset

    with Console(stderr=True).status("") as status:
        samples = make_dataset(DatasetJob(pictures, out, model, ask, most), status.update)
    print(f"{out}: {samples} samples, {out.stat().st_size / 1e6:.2f} MB")


def comparison_table(builds: Sequence[Built]) -> Table:
    """A row for each picture, a column for each build: its cosine, and whether the answers are the same."""
    from rich.table import Table

    table = Table("cosine", *(f"{built.dtype} {built.target}" for built in builds), box=None)
    for row in zip(*(built.comparisons for built in builds), strict=True):
        cells = [f"{each.cosine:.7f}{_said(each.answers)}" for each in row]
        table.add_row(row[0].picture, *cells)
    table.add_section()
    table.add_row("worst picture", *(f"{min(each.cosine for each in built.comparisons):.7f}" for built in builds))
    table.add_row("worst token", *(f"{min(each.worst_token for each in built.comparisons):.7f}" for built in builds))
    return table


def _said(answers: tuple[str, str] | None) -> str:
    if answers is None:
        return ""
    return " same" if answers[0] == answers[1] else " OTHER"
