"""Many runs with aborts, errors and closes at random: no token lost, none of another run, nothing left behind."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from backends import Backend, c_backend, finish, threads_left
from standin import StandIn

from vlm.errors import ModelBusyError, RunError
from vlm.rkllm.abi import RELEASES
from vlm.rkllm.model import Generation, Model, ModelSettings, Request

ENDS = ("now", "later", "text", "again") * 4 + ("none",)


def prompt(rng: random.Random, name: str, count: int) -> str:
    words = [f"[id={name}][tokens={count}][finish={rng.choice(ENDS)}][abort={rng.choice(('finish', 'error', 'none'))}]"]
    words += [w for w in ("[thread]", "[ghost]", "[pace=1]", "[deaf=1]") if rng.random() < 0.3]
    return "".join(words)


def read(generation: Generation, pieces: int) -> tuple[str, bool]:
    """The text of at most so many pieces, and whether that was all."""
    text = ""
    for _ in range(pieces):
        piece = next(generation, None)
        if piece is None:
            return text, True
        text += piece.text
    return text, False


def one_run(model: Model, rng: random.Random, number: int) -> None:
    count, name = rng.randrange(1, 12), f"r{number}"
    sent = "".join(f"{name}:{i} " for i in range(count))
    request = Request(prompt=prompt(rng, name, count))
    action = rng.choice(("read", "read", "close", "abort", "error", "drop", "thread", "stop", "limit"))
    if action == "error":
        at = rng.randrange(count)
        generation = model.generate(Request(prompt=f"[id={name}][tokens={count}][error={at}]"))
        text, _ = read(generation, at)
        assert text == "".join(f"{name}:{i} " for i in range(at))
        with pytest.raises(RunError):
            next(generation)
        return
    if action == "limit":
        most = rng.randrange(1, count + 1)
        generation = model.generate(Request(prompt=request.prompt, max_new_tokens=most))
        assert generation.text() == "".join(f"{name}:{i} " for i in range(most))
        return
    if action == "stop":
        at = rng.randrange(count)
        generation = model.generate(Request(prompt=request.prompt, stop=(f"{name}:{at} ",)))
        assert generation.text() == sent[: sent.index(f"{name}:{at} ")]
        return
    generation = model.generate(request)
    if action == "read":
        assert generation.text() == sent
        assert generation.finish_reason == "stop"
        return
    if action == "thread":  # closed by another thread while this one reads
        other = threading.Timer(rng.random() * 0.003, generation.close)
        other.start()
        assert sent.startswith(generation.text())
        other.join()
        return
    text, _ = read(generation, rng.randrange(count + 1))
    assert sent.startswith(text)
    if action == "abort":
        model.abort()
        text += generation.text()
        assert sent.startswith(text)
        assert text == sent or generation.finish_reason == "abort"
    elif action == "close":
        generation.close()
        assert list(generation) == []
    else:
        del generation


@pytest.mark.parametrize("release", ["1.1.4", "1.2.3", "1.3.0"])
def test_500_runs(built: Callable[[str], StandIn], tmp_path: Path, release: str) -> None:
    runs = 500 if release == RELEASES[-1] else 60
    rng = random.Random(7)
    backend = c_backend(built(release), tmp_path)
    before = threading.active_count(), open_files()
    model = backend.open(max_new_tokens=64, settings=ModelSettings(stop_timeout_s=20))
    for number in range(runs):
        one_run(model, rng, number)
    finish(backend)
    returned = backend.standin.seen("returned")
    assert len(returned) <= runs  # those closed before they began were never handed to the runtime
    assert len(returned) == len(backend.standin.seen("run"))
    assert len({e["thread"] for e in backend.standin.seen("run")}) == 1
    assert threads_left(backend.threads) == []
    assert (threading.active_count(), open_files()) == before


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_memory_does_not_grow_with_runs_or_models(built: Callable[[str], StandIn], tmp_path: Path) -> None:
    backend = c_backend(built("1.3.0"), tmp_path)

    def work(rounds: int) -> int:
        for _ in range(rounds):
            with Model(backend.path, backend.library) as model:
                for _ in range(8):
                    model.generate(Request(prompt="[tokens=20]" + "x" * 20_000)).text()
        gc.collect()
        backend.standin.reset()
        return psutil.Process().memory_info().rss

    work(20)
    first = work(20)
    assert work(60) - first < 2_000_000  # a prompt kept for each run alone would be 9 MB


def test_many_threads_ask_one_model(built: Callable[[str], StandIn], tmp_path: Path) -> None:
    """Whoever comes second is refused, nobody is mixed up, and C never sees two runs at once."""
    backend: Backend = c_backend(built("1.2.3"), tmp_path)
    model = backend.open()
    wrong: list[str] = []
    answered = []

    def ask(who: int) -> None:
        for i in range(20):
            name = f"t{who}n{i}"
            try:
                text = model.generate(Request(prompt=f"[id={name}][tokens=3]")).text()
            except ModelBusyError:
                continue
            answered.append(name)
            if text != f"{name}:0 {name}:1 {name}:2 ":
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
    assert answered
    finish(backend)
