"""Many clients at once, some of which leave or send rubbish, while the model's process is killed and hangs.

`python tests/server/load.py [--seconds 60] [--clients 64]` serves the compiled stand-in, compares every answer with
what it has to be, and prints the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from service_rig import STAR, Served, serve, standin_words, told

BROKEN = b"\xff\xd8\xff this is no picture"
PATIENCE_S = 60.0
Form = list[tuple[str, Any]]


@dataclass(frozen=True)
class Plan:
    """seconds or answers: when to stop. leave, broken: every so manieth question is left, or has a broken picture."""

    clients: int = 64
    seconds: float = 60.0
    answers: int | None = None
    tokens: int = 20
    pace_ms: int = 1
    leave: int = 5
    leave_after: int = 5
    broken: int = 10
    kills: int = 3
    hangs: int = 1


@dataclass
class Figures:
    """What became of the questions. wrong: answers that were not as they had to be. lost: ones without any end."""

    asked: int = 0
    answered: int = 0
    left: int = 0
    refused: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    down: list[tuple[float, float]] = field(default_factory=list)
    alone_per_s: float = 0.0
    rss_mib: tuple[float, float] = (0.0, 0.0)

    @property
    def down_s(self) -> float:
        """How long there was no model to answer, or one that hung."""
        total, past = 0.0, 0.0
        for began, ended in sorted(self.down):
            total += max(0.0, ended - max(began, past))
            past = max(past, ended)
        return total

    @property
    def share(self) -> float:
        """Tokens told, over what one client gets in the time in which there was a model."""
        return self.tokens / (self.alone_per_s * (self.seconds - self.down_s))

    def __str__(self) -> str:
        return (
            f"{self.asked} questions in {self.seconds:.1f} s: {self.answered} answered, {self.left} left by their "
            f"client, {self.refused} refused for their picture, {sum(self.errors.values())} ended in an error "
            f"{dict(self.errors)}\n"
            f"{len(self.wrong)} wrong, {len(self.lost)} lost\n"
            f"{self.tokens / self.seconds:.0f} tokens/s; one client alone {self.alone_per_s:.0f}; without a model "
            f"{self.down_s:.1f} s; share {self.share:.1%}\n"
            f"memory of the service {self.rss_mib[0]:.0f} -> {self.rss_mib[1]:.0f} MiB"
        )


async def run(served: Served, plan: Plan) -> Figures:
    """Do what the plan says. Restarts are timed by asking /readyz, hangs by the question that hangs."""
    figures = Figures()
    limits = httpx.Limits(max_connections=plan.clients + 4)
    async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_S, limits=limits) as http:
        figures.alone_per_s = await _alone(http, plan)
        process = psutil.Process(served.process.pid)
        before = process.memory_info().rss
        began = time.monotonic()
        until = began + plan.seconds if plan.answers is None else None
        numbers = itertools.count()
        work = [asyncio.create_task(_client(http, plan, figures, numbers, until)) for _ in range(plan.clients)]
        watching = asyncio.create_task(_watch(http, figures))
        trouble = asyncio.create_task(_trouble(http, process, plan, figures))
        await asyncio.gather(*work)
        figures.seconds = time.monotonic() - began
        watching.cancel()
        await trouble
        figures.rss_mib = before / 2**20, process.memory_info().rss / 2**20
    return figures


async def _alone(http: httpx.AsyncClient, plan: Plan) -> float:
    """Tokens a second that one client gets, which asks one question after the other."""
    figures, began = Figures(), time.monotonic()
    alone = Plan(clients=1, tokens=plan.tokens, pace_ms=plan.pace_ms, leave=0, broken=0)
    for number in range(60):
        await _ask(http, alone, figures, number)
    return figures.tokens / (time.monotonic() - began)


async def _client(
    http: httpx.AsyncClient, plan: Plan, figures: Figures, numbers: itertools.count[int], until: float | None
) -> None:
    for number in numbers:
        if (until is not None and time.monotonic() > until) or (plan.answers is not None and number >= plan.answers):
            return
        await _ask(http, plan, figures, number)


async def _ask(http: httpx.AsyncClient, plan: Plan, figures: Figures, number: int) -> None:
    """Ask one question, and write down what became of it."""
    name, broken = f"q{number}", plan.broken and number % plan.broken == 1
    leaves = plan.leave and number % plan.leave == 0
    words = f"[id={name}][tokens={plan.tokens * 2}][pace={plan.pace_ms}]"
    pictures = [("image", ("picture", BROKEN if broken else STAR.read_bytes()))] if broken or number % 2 else []
    fields = {"prompt": words, "max_new_tokens": str(plan.tokens), "stream": "true"}
    form = [*pictures, *((key, (None, value)) for key, value in fields.items())]
    figures.asked += 1
    text, ended = "", ""
    try:
        async for event, data in events(http, form):
            if event == "token":
                text += data["text"]
                figures.tokens += 1
            elif event in ("done", "error"):
                ended = "done" if event == "done" else data["error"]["type"]
            if leaves and text.count(" ") >= plan.leave_after:
                ended = "left"
                break
    except httpx.HTTPError as exc:
        ended = f"lost: {exc!r}"
    expected = told(name, plan.tokens)
    if not expected.startswith(text) or (ended == "done" and text != expected):
        figures.wrong.append(f"{name}: {text!r}")
    _count(figures, name, ended, bool(broken))


def _count(figures: Figures, name: str, ended: str, broken: bool) -> None:
    if ended == "done":
        figures.answered += 1
    elif ended == "left":
        figures.left += 1
    elif ended == "ImageError" and broken:
        figures.refused += 1
    elif ended.startswith("lost") or not ended:
        figures.lost.append(f"{name} {ended}")
    else:
        figures.errors[ended] += 1


async def events(
    http: httpx.AsyncClient, form: list[tuple[str, object]]
) -> AsyncIterator[tuple[str, dict[str, object]]]:
    """The events of a question, or its error as one."""
    async with http.stream("POST", "/v1/describe", files=form) as response:  # type: ignore[arg-type]
        if response.is_error:
            await response.aread()
            yield "error", response.json()
            return
        event = ""
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: "):
                yield event, json.loads(line[6:])


async def _watch(http: httpx.AsyncClient, figures: Figures) -> None:
    """Write down when there is no model."""
    began = time.monotonic()
    while True:
        ready = (await http.get("/readyz")).status_code == 200
        now = time.monotonic()
        if not ready:
            figures.down.append((began, now))
        began = now
        await asyncio.sleep(0.02)


async def _trouble(http: httpx.AsyncClient, process: psutil.Process, plan: Plan, figures: Figures) -> None:
    """Kill the model's process, and have it hang, one after the other over the whole time."""
    for number in range(plan.kills + plan.hangs):
        await asyncio.sleep(plan.seconds / (plan.kills + plan.hangs + 1))
        if number < plan.kills:
            for child in process.children():
                child.kill()
        else:
            figures.down.append(await _hang(http))


async def _hang(http: httpx.AsyncClient) -> tuple[float, float]:
    """Ask what never returns. Returns from when until when it held the model."""
    began = time.monotonic()
    form: Form = [("prompt", (None, "[hang]")), ("stream", (None, "true"))]
    async for event, data in events(http, form):
        if event == "queued" and data["position"] == 0:
            began = time.monotonic()
    return began, time.monotonic()


LIMITS = ["--deadline-s", 8, "--abort-s", 1, "--queue", 256, "--max-connections", 512, "--log-level", "error"]
"""Options of the service under load: a hang is noticed soon."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serve(*standin_words(Path(folder), "1.3.0"), *LIMITS) as served:
        print(asyncio.run(run(served.ready(), Plan(clients=given.clients, seconds=given.seconds))))


if __name__ == "__main__":
    main()
