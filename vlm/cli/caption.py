"""`vlm caption`: a folder of pictures, captioned."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm.captions.scan import Choice
from vlm.cli.opening import Where
from vlm.cli.options import ApiKey, Encoder, Library, Llm, Model, Release, Server, takes
from vlm.cli.terminal import say
from vlm.errors import OptionError
from vlm.options import DEFAULT_PROMPT, NpuOptions, RunOptions, checked

if TYPE_CHECKING:
    from vlm import EngineLimits
    from vlm.captions.progress import Progress
    from vlm.captions.work import Asker

FAILED, MOST = 100, 25
"""One failed picture is exit code 101, and 25 or more are 125: what lies above belongs to shells and signals."""

INTERRUPTED = 130


@takes(Choice, into="choice")
@takes(RunOptions, into="options")
@takes(NpuOptions, into="cores")
def caption(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR|FILE...", help="A folder, or pictures, or both.")],
    *,
    prompt: Annotated[list[str] | None, typer.Option(help="The question; several are asked one by one.")] = None,
    prompt_file: Annotated[list[Path] | None, typer.Option(help="A text file that holds a question.")] = None,
    model: Model = None,
    encoder: Encoder = None,
    llm: Llm = None,
    library: Library = None,
    release: Release = None,
    server: Server = None,
    api_key: ApiKey = None,
    out: Annotated[Path | None, typer.Option(help="Folder for metadata.jsonl, above all the pictures.")] = None,
    txt: Annotated[bool, typer.Option("--txt", help="Also a .txt beside each picture.")] = False,
    gallery: Annotated[Path | None, typer.Option(help="Also pages to look at and search, in this folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Tell all again, told before or not.")] = False,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Try again what failed before.")] = False,
    retries: Annotated[int, typer.Option(min=0, help="Further attempts where the model crashed.")] = 1,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds for an answer, then the model is restarted.")] = 300,
    memory: Annotated[
        int | None, typer.Option(min=1, help="MiB at which the model is restarted; 3/4 of the machine's if not set.")
    ] = None,
    choice: dict[str, Any],
    options: dict[str, Any],
    cores: dict[str, Any],
) -> None:
    """Caption the pictures of a folder. Interrupted at any instant and started again, it goes on where it was.

    Captions go to metadata.jsonl in the folder (Hugging Face imagefolder), failures to errors.jsonl. Ctrl-C finishes
    the pictures under way, twice stops at once. Exit code: 0; 100 and the number of pictures without a caption, 125
    being 25 or more; 130 after Ctrl-C.
    """
    import vlm
    from vlm.captions.gallery import check_place, write_gallery
    from vlm.captions.progress import Progress, summary
    from vlm.captions.records import Task
    from vlm.captions.scan import find_pictures, root_of
    from vlm.captions.stop import Stop
    from vlm.captions.work import caption as run

    root = root_of(paths, out)
    if gallery is not None:
        check_place(gallery, root)
    where = Where(model, encoder, llm, library, release, server, api_key)
    task = Task(
        root=root,
        pictures=find_pictures(paths, root, checked(Choice, choice)),
        model=_model_name(where, cores),
        prompts=_prompts(prompt or (), prompt_file or ()),
        options=options,
        asked_of={name: os.path.basename(path) for name, path in (("encoder", encoder), ("llm", llm)) if path},
        force=force,
        retry_errors=retry_errors,
        txt=txt,
        retries=retries,
    )
    limits = vlm.EngineLimits(
        deadline_s=deadline, abort_s=min(10, deadline), rss_bytes=memory << 20 if memory else _most_memory()
    )
    stop = Stop()
    try:
        with Progress() as progress:
            result = run(
                task, lambda: _answering(where, {**options, **cores}, limits, task.model, progress), progress, stop
            )
            if gallery is not None:
                for page, pages in write_gallery(gallery, root):
                    progress.page(page, pages)
    except KeyboardInterrupt:
        say("vlm: stopped; the same command goes on where this was.")
        raise typer.Exit(INTERRUPTED) from None
    _print(summary(result))
    if stop.asked.is_set():
        raise typer.Exit(INTERRUPTED)
    if failed := result.failed.total():
        raise typer.Exit(FAILED + min(failed, MOST))


def _model_name(where: Where, cores: Collection[str]) -> str:
    """The name of the model that will answer, which is not opened for that. Raises RkvlmError."""
    import vlm

    if where.server is None:
        return vlm.model_name(where.model)
    where.leave_to_service(cores)
    with vlm.connect(where.server, api_key=where.api_key, model=where.model) as remote:
        return remote.name


@contextmanager
def _answering(
    where: Where, options: dict[str, Any], limits: EngineLimits, name: str, progress: Progress
) -> Iterator[Asker]:
    """The model in a process of its own, ready; or a service."""
    import vlm
    from vlm.captions.service import Service

    if where.server is not None:
        with Service(where.server, where.api_key, where.model) as service:
            progress.say(f"asking the model {name} at {where.server}")
            yield service
        return
    choice = vlm.ModelChoice(
        model=where.model,
        encoder=where.encoder,
        llm=where.llm,
        library=where.library,
        release=where.release,
        options=options,
    )
    with vlm.Engine(choice, limits) as engine:
        progress.say(f"opening the model {name}")
        engine.wait_ready()
        yield engine


def _prompts(given: Sequence[str], files: Sequence[Path]) -> tuple[str, ...]:
    """The questions, those from files last; a description if there are none. Raises OptionError."""
    prompts = list(given)
    for path in files:
        try:
            prompts.append(path.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError) as exc:
            raise OptionError(f"--prompt-file {str(path)!r} cannot be read as UTF-8 text: {exc}.") from exc
    if not all(prompt.strip() for prompt in prompts):
        raise OptionError("A prompt is empty; give a question, or leave it out for a description.")
    return tuple(prompts) or (DEFAULT_PROMPT,)


def _most_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4


def _print(table: object) -> None:
    from rich.console import Console

    Console().print(table)
