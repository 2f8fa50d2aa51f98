"""`vlm bench`: how fast this machine is, as ratios within one run."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Measure speed, as ratios within one run.", no_args_is_help=True)
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
    from pathlib import Path

    from vlm.bench import decode as bench
    from vlm.resources import demo_dir

    print(bench.report(bench.run(Path(model_dir) if model_dir else demo_dir(), tokens, rounds)))


@app.command()
def serve(
    library: Annotated[str, typer.Argument(help="The compiled stand-in: `python tests/native/standin.py 1.3.0`.")],
    rounds: Rounds = 15,
) -> None:
    """What the service adds to a bare loop over the library that it serves."""
    from pathlib import Path

    from vlm.bench import serve as bench

    print(bench.report(bench.run(Path(library), rounds)))
