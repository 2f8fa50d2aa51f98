"""What the service adds to the library that it serves: the same questions through HTTP and through a bare loop.

Both have the compiled stand-in for librkllmrt.so, which takes its time by words in the prompt, and the demo's encoder,
which takes at least 100 ms an image. The bare loop does the least that gives the same tokens: decode and fit the
picture, encode it, run. By turns in one run; medians.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vlm.bench.preprocess import draw_jpeg
from vlm.errors import ServiceUnreachableError
from vlm.pipeline import VLM, load
from vlm.rkllm.model import ImageTags, Model, ModelSettings, Request

ENCODE_MS, TOKENS = 100.0, 64
PACED = f"[id=t][tokens={TOKENS}][prefill=20][pace=5]"
"""A language model that takes 20 ms for the prompt and tells 200 tokens a second."""
UNPACED_TOKENS = 1000
UNPACED = f"[id=t][tokens={UNPACED_TOKENS}]"
TARGETS = {"first": 5.0, "token": 0.5, "picture": 10.0, "rate": 15_000.0}
SETTINGS = {"pace": {"encode_ms": ENCODE_MS}}
_END_S = 60.0


@dataclass(frozen=True)
class ServeResult:
    """Medians. first_ms, token_ms, picture_ms: what the service adds to the first token, to each further one, and to
    the first token of a question about a new 12-megapixel JPEG. again_ms: the first token of a second question about
    it, beside bare_ms, that of a text alone. rate: tokens a second that reach the client unpaced, from the question on.
    """

    first_ms: float
    token_ms: float
    picture_ms: float
    again_ms: float
    bare_ms: float
    rate: float


def run(library: Path, rounds: int = 15, *, jpeg: bytes | None = None) -> ServeResult:
    """Measure. library: the compiled stand-in. jpeg: in place of one of 12 megapixels. Raises RkvlmError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        llm = folder / "model[width=160][image-tokens=49].rkllm"
        llm.touch()
        bare = stack.enter_context(_bare(library, llm))
        service = stack.enter_context(_served(library, llm))
        picture, numbers = jpeg or draw_jpeg(), itertools.count()
        texts: list[tuple[_Times, _Times]] = []
        pictures: list[tuple[_Times, _Times, _Times]] = []
        rates: list[float] = []
        for number in range(rounds + 1):
            texts.append((bare.text(), service.ask(PACED)))
            mine, theirs = (picture + bytes([next(numbers) % 256, 1]) for _ in range(2))  # new to every cache
            pictures.append((bare.picture(mine), service.ask(PACED, theirs), service.ask(PACED, theirs)))
            times = service.ask(UNPACED, max_new_tokens=UNPACED_TOKENS)
            rates.append(times.tokens / times.last_s)
            if number == 0:  # to warm up
                texts, pictures, rates = [], [], []
    return ServeResult(
        first_ms=_median(1e3 * (ours.first_s - bare.first_s) for bare, ours in texts),
        token_ms=_median(1e3 * (ours.token_s - bare.token_s) for bare, ours in texts),
        picture_ms=_median(1e3 * (ours.first_s - bare.first_s) for bare, ours, _ in pictures),
        again_ms=_median(1e3 * again.first_s for _, _, again in pictures),
        bare_ms=_median(1e3 * bare.first_s for bare, _ in texts),
        rate=_median(rates),
    )


def report(result: ServeResult) -> str:
    """The figures in words, beside what they are meant to be."""
    return "\n".join(
        [
            f"first token of a text:      {result.first_ms:6.2f} ms more than a bare loop (target {TARGETS['first']})",
            f"each further token:         {result.token_ms:6.3f} ms more (target {TARGETS['token']})",
            f"first token, 12-MP JPEG:    {result.picture_ms:6.2f} ms more than decoding, fitting, encoding, running "
            f"it (target {TARGETS['picture']})",
            f"a second question about it: {result.again_ms:6.2f} ms to the first token; a text alone, bare, "
            f"{result.bare_ms:.2f}",
            f"unpaced, {UNPACED_TOKENS} tokens:      {result.rate:6.0f} tokens/s at the client "
            f"(target {TARGETS['rate']:.0f})",
        ]
    )


@dataclass(frozen=True)
class _Times:
    """Seconds from the question to the first and the last token."""

    first_s: float
    last_s: float
    tokens: int

    @property
    def token_s(self) -> float:
        """For each token after the first."""
        return (self.last_s - self.first_s) / (self.tokens - 1)


class _Bare:
    """The library behind its binding alone, and pictures through the pipeline's encoder."""

    def __init__(self, model: Model, eyes: VLM) -> None:
        self._model, self._eyes = model, eyes

    def text(self) -> _Times:
        return self._run(time.perf_counter(), Request(prompt=PACED, max_new_tokens=TOKENS))

    def picture(self, jpeg: bytes) -> _Times:
        began = time.perf_counter()
        images, spec = self._eyes.encode(jpeg).data, self._eyes.profile.vision
        size = (spec.height, spec.width_px)
        request = Request(prompt="<image>" + PACED, images=images, image_size=size, max_new_tokens=TOKENS)
        return self._run(began, request)

    def _run(self, began: float, request: Request) -> _Times:
        moments = [time.perf_counter() - began for _ in self._model.generate(request)]
        return _Times(moments[0], moments[-1], len(moments))


@contextmanager
def _bare(library: Path, llm: Path) -> Iterator[_Bare]:
    with load("demo", llm=llm, library=library, settings=SETTINGS) as eyes:
        spec, tags = eyes.profile.vision, eyes.profile.tags
        model = Model(
            llm,
            eyes.library,
            tags=ImageTags(tags.start, tags.end, tags.content),
            max_context_len=eyes.profile.max_context_len,
            settings=ModelSettings(image_shape=(spec.tokens, spec.width * spec.outputs)),
        )
        with model:
            yield _Bare(model, eyes)


class _Client:
    """The least that a client of the service has to do, on a connection that is kept."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._http = http.client.HTTPConnection(parts.hostname, parts.port)
        self._http.connect()

    def close(self) -> None:
        self._http.close()

    def ask(self, prompt: str, *pictures: bytes, max_new_tokens: int = TOKENS) -> _Times:
        boundary = uuid.uuid4().hex.encode()
        fields = {"prompt": prompt, "stream": "true", "max_new_tokens": str(max_new_tokens)}
        body = b"".join(
            [
                *(_part(boundary, f'name="{name}"', value.encode()) for name, value in fields.items()),
                *(_part(boundary, 'name="image"; filename="picture"', data) for data in pictures),
                b"--" + boundary + b"--\r\n",
            ]
        )
        began = time.perf_counter()
        self._http.request(
            "POST", "/v1/describe", body, {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}
        )
        response = self._http.getresponse()
        first, last, text = 0.0, 0.0, b""
        while chunk := response.read1(1 << 16):
            last = time.perf_counter() - began
            first = first or (last if b"event: token" in chunk else 0.0)
            text += chunk
        tokens = text.count(b"event: token\n")
        if response.status != 200 or tokens != max_new_tokens:
            raise ServiceUnreachableError(f"Expected {max_new_tokens} tokens of the service; got {text[-300:]!r}.")
        return _Times(first, last, tokens)


@contextmanager
def _served(library: Path, llm: Path) -> Iterator[_Client]:
    command = [sys.executable, "-c", "from vlm.cli import main; main()", "serve", "--port", "0", "--model", "demo"]
    process = subprocess.Popen(
        [*command, "--llm", str(llm), "--library", str(library)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "VLM_PACE": json.dumps(SETTINGS["pace"]), "VLM_LOG_LEVEL": "error"},
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("vlm: limits"):
                break
        found = re.search(r"listening on (\S+)", said)
        if found is None:
            raise ServiceUnreachableError(f"The service did not start: {said}")
        client = _Client(found[1])
        try:
            yield client
        finally:
            client.close()
    finally:
        process.terminate()
        process.stderr.close()
        process.wait(_END_S)


def _part(boundary: bytes, disposition: str, data: bytes) -> bytes:
    return b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (boundary, disposition.encode(), data)


def _median(values: Iterator[float] | list[float]) -> float:
    return statistics.median(values)
