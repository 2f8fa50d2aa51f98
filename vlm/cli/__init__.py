"""The command line: `vlm COMMAND`. The answer goes to stdout, everything else to stderr."""

from __future__ import annotations

import errno
import logging
import os
import sys

import typer

from vlm import __version__
from vlm.cli import bench, caption, chat, convert, describe, doctor, embed, freq, models, npu, pull, serve
from vlm.errors import RkvlmError

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)
"""Errors that say of the output that it can take no more."""

app = typer.Typer(
    help="Ask questions about pictures on Rockchip NPUs, and on any PC in the same words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("describe")(describe.describe)
app.command("chat")(chat.chat)
app.command("caption")(caption.caption)
app.command("embed")(embed.embed)
app.command("models")(models.models)
app.command("serve")(serve.serve)
app.command("npu")(npu.npu)
app.add_typer(convert.app, name="convert")
app.command("doctor")(doctor.doctor)
app.command("pull")(pull.pull)
app.add_typer(freq.app, name="freq")
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vlm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Say more about what is done, and what the runtime says, on stderr."
    ),
    _: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Options of every command."""
    if verbose:
        os.environ.setdefault("RKLLM_LOG_LEVEL", "1")  # read by librkllmrt.so itself
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def main() -> None:
    """Run the command line; the exit code of an error is its class's."""
    try:
        try:
            app()
        except RkvlmError as exc:
            print(f"vlm: {exc}", file=sys.stderr)
            sys.exit(exc.exit_code)
        finally:
            if sys.stdout is not None:  # as where it was closed
                sys.stdout.flush()
    except OSError as exc:
        if exc.errno not in UNWRITABLE:
            raise
        if exc.errno != errno.EPIPE:  # who stops reading knows
            print(f"vlm: The output cannot be written: {exc.strerror}.", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left must not fail a second time
        sys.exit(1)
