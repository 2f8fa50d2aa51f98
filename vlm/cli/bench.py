"""`vlm bench`: how fast this machine is, as ratios within one run; and what a folder will take on a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm.errors import OptionError

app = typer.Typer(help="Measure speed, and plan with what was measured.", no_args_is_help=True)
Rounds = Annotated[int, typer.Option(min=1, help="How often each way is timed; the median counts.")]


@app.command()
def preprocess(rounds: Rounds = 15) -> None:
    """Decode and fit a 12-megapixel JPEG: our way beside the vendor's demo's."""
    from vlm.bench import preprocess as bench

    print(bench.report(bench.run(rounds)))


@app.command()
def decode(
    model_dir: Annotated[str | None, typer.Argument(help="Model directory; the demo's if none is given.")] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens to tell in each round.")] = 200,
    rounds: Rounds = 5,
) -> None:
    """Tokens per second of the whole path on the host, beside a bare ONNX Runtime loop."""
    from vlm.bench import decode as bench
    from vlm.resources import demo_dir

    print(bench.report(bench.run(Path(model_dir) if model_dir else demo_dir(), tokens, rounds)))


@app.command()
def model(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="A profile's name, file, or a model directory.")
    ] = "demo",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Pictures; the median counts.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this file, for `vlm bench plan`.")] = None,
) -> None:
    """Measure a model's stages on this machine: encode, prefill, decode."""
    from vlm.bench import figures as bench

    text = bench.as_toml(bench.measure(name, tokens, rounds))
    print(text, end="", flush=True)
    if out is not None:
        try:
            out.write_text(text, "utf-8")
        except OSError as exc:  # what was measured is on stdout
            raise OptionError(f"--out {str(out)!r} cannot be written: {exc.strerror}. Save the lines above.") from exc


@app.command()
def plan(
    model: Annotated[str, typer.Option(help="The model's name, as in its profile.")],
    soc: Annotated[str, typer.Option(help="The SoC: rk3588, rk3576, rk3562, rv1126b, or pc.")],
    images: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 1000,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 60,
    overlap: Annotated[bool, typer.Option("--overlap", help="Encoder and language model side by side.")] = False,
    encoder_cores: Annotated[int, typer.Option(min=1, max=3, help="NPU cores of the encoder, with --overlap.")] = 1,
    figures: Annotated[Path | None, typer.Option(help="Figures of your own: what `vlm bench model` wrote.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw it, as .png or .svg.")] = None,
) -> None:
    """How long a folder of pictures will take on a board.

    From figures that were measured with all of its NPU cores at work. With --overlap each part has fewer, and only what
    was measured with that number of them counts; what nobody measured is unknown.
    """
    from rich.console import Console

    from vlm.bench import plan as bench
    from vlm.bench.figures import read_figures, recorded

    known = [*(read_figures(figures) if figures else []), *recorded()]
    about = {"model": model, "soc": soc, "images": images, "tokens": tokens}
    plans = [bench.estimate(known, **about)]  # type: ignore[arg-type]
    if overlap:
        plans.append(bench.estimate(known, **about, overlap=True, encoder_cores=encoder_cores))  # type: ignore[arg-type]
    console = Console()
    for number, each in enumerate(plans):
        if number:
            console.print()
        console.print(bench.report(each))
    if plot is not None:
        bench.plot(plans, plot)


@app.command()
def serve(
    library: Annotated[str, typer.Argument(help="The compiled stand-in: `python tests/native/standin.py 1.3.0`.")],
    rounds: Rounds = 15,
) -> None:
    """What the service adds to a bare loop over the library that it serves."""
    from vlm.bench import serve as bench

    print(bench.report(bench.run(Path(library), rounds)))
