"""`vlm serve` in a process of its own, as users run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sample_pictures import PICTURES, ROOT

sys.path.insert(0, str(ROOT / "tests" / "native"))
from standin import build

STAR, LIGHT = PICTURES / "blue-star.jpg", PICTURES / "traffic-light.jpg"
LONG_S = 60
"""Longer than anything takes on a machine that has other things to do."""


class Served:
    """A running service: its address, and the lines that it wrote to stderr."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._said = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._said.wait(LONG_S)
        assert self.url, self.errors

    @property
    def errors(self) -> str:
        return "".join(self.lines)

    def ready(self) -> Served:
        wait_until(lambda: self.get("/readyz").status_code == 200 or self.process.poll() is not None, self)
        return self

    def get(self, path: str, **more: object) -> httpx.Response:
        return httpx.get(self.url + path, timeout=LONG_S, **more)  # type: ignore[arg-type]

    def post(self, path: str, **more: object) -> httpx.Response:
        return httpx.post(self.url + path, timeout=LONG_S, **more)  # type: ignore[arg-type]

    def ask(self, prompt: str, *images: Path, **fields: object) -> httpx.Response:
        """Our own protocol."""
        form: list[tuple[str, object]] = [("image", (image.name, image.read_bytes())) for image in images]
        form += [(name, (None, str(value))) for name, value in {"prompt": prompt, **fields}.items()]
        return self.post("/v1/describe", files=form)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(LONG_S)
        self._reader.join(LONG_S)
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.lines.append(line)
                if found := re.search(r"listening on (http://\S+)", line):
                    self.url = found[1]
                    self._said.set()
        self._said.set()


@contextmanager
def serve(*words: object, **environment: str) -> Iterator[Served]:
    """Run `vlm serve` on a free port, until the block ends."""
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "serve", "--port", "0"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VLM_")}
    process = subprocess.Popen(
        [*command, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, "VLM_CONFIG": os.devnull, **environment},
    )
    try:
        served = Served(process)
        yield served
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(LONG_S)


def standin_words(folder: Path, release: str, words: str = "") -> list[object]:
    """The options for the demo's encoder before the compiled stand-in; words: for the model's path."""
    llm = folder / f"model[width=160][image-tokens=49]{words}.rkllm"
    llm.touch()
    return ["--model", "demo", "--llm", llm, "--library", build(release)]


def told(name: str, tokens: int) -> str:
    """What the stand-in says to [id=name][tokens=N]."""
    return "".join(f"{name}:{number} " for number in range(tokens))


def wait_until(condition: object, what: object = "it") -> None:
    until = time.monotonic() + LONG_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, f"{what} did not happen within {LONG_S} s"
        time.sleep(0.02)
