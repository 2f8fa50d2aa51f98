"""A PC at a board's pace: the host runtime and the encoder take at least the time they are given.

Lower bounds only, as a busy machine is slower still; what was taken is printed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rig import Event, Rig

from encoders import ImageEmbedding, PacedEncoder, fit_image, load_image, open_encoder
from vlm.host import HostRuntime
from vlm.pace import Beat, Pace
from vlm.profile import load_profile
from vlm.rkllm.abi import CallState, InferMode, abi
from vlm.rkllm.library import host_library
from vlm.rkllm.model import ImageTags, Model, Request

SAMPLES = Path(__file__).parents[2] / "samples"
PACE = Pace(
    encode_ms=300,
    prefill_ms_per_token=4,
    tokens_per_second=40,
    encode_ms_one_core=450,
    prefill_ms_per_token_one_core=5,
    tokens_per_second_one_core=25,
)


def paced(pace: Pace) -> HostRuntime:
    return HostRuntime(abi("1.3.0"), threads=1, pace=pace)


@pytest.fixture
def encoder() -> Iterator[PacedEncoder]:
    path = SAMPLES / "demo" / "model" / "vision_encoder.onnx"
    assert PACE.encode_ms is not None
    made = PacedEncoder(open_encoder(path, load_profile("demo").vision, threads=1), PACE.encode_ms)
    yield made
    made.close()
    made.close()


@pytest.mark.parametrize("cores", ["all", "one"])
def test_encode_prefill_and_tokens_add_up(cores: str) -> None:
    pace = PACE if cores == "all" else PACE.one_core()
    assert pace.encode_ms is not None
    profile = load_profile("demo")
    plain = open_encoder(SAMPLES / "demo" / "model" / "vision_encoder.onnx", profile.vision, threads=1)
    encoder = PacedEncoder(plain, pace.encode_ms)
    library = host_library("1.3.0", paced(pace))
    tags = ImageTags(profile.tags.start, profile.tags.end, profile.tags.content)
    picture = load_image(SAMPLES / "pictures" / "blue-star.jpg", needed=profile.vision)
    with Model(SAMPLES / "demo" / "model", library, tags=tags, max_new_tokens=6) as model:
        started = time.perf_counter()
        embedding = encoder.encode(fit_image(picture, profile.vision), picture.content_hash)
        encoded = time.perf_counter()
        prompt = "<|im_start|>user\n<image>Describe the picture.<|im_end|>\n<|im_start|>assistant\n"
        generation = model.generate(Request(prompt=prompt, images=embedding.data, image_size=(112, 112)))
        told = len(list(generation))
        ended = time.perf_counter()
    encoder.close()
    perf = generation.perf
    assert perf is not None
    assert perf.prefill_tokens is not None
    assert perf.prefill_tokens > 49
    assert told == perf.generate_tokens == 6
    least = pace.encode_ms / 1000 + pace.prefill_s(perf.prefill_tokens) + 6 * pace.token_s
    taken = ended - started
    print(f"{cores}: {taken:.3f} s, at least {least:.3f} ({taken / least:.2f} times); {perf}")
    assert encoded - started >= pace.encode_ms / 1000
    assert perf.prefill_ms >= pace.prefill_s(perf.prefill_tokens) * 1000
    assert perf.generate_ms >= 6 * pace.token_s * 1000
    assert taken >= least
    assert (perf.prefill_ms + perf.generate_ms) / 1000 <= ended - encoded, "perf is what was taken, and no more"


def test_every_token_takes_its_time(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, runtime=paced(Pace(tokens_per_second=40)), max_new_tokens=50)
    times: list[float] = []

    def answer(event: Event) -> int:
        times.append(time.perf_counter())
        if event.text == b"v":
            time.sleep(0.06)
        return 0

    r.answer = answer
    started = time.perf_counter()
    assert r.run("t") == 0
    assert r.text == b"uvwxyz"
    assert len(times) == 7, "six tokens and FINISH, which comes when the last token has taken its time too"
    assert all(at - started >= i * 0.025 for i, at in enumerate(times))
    late = times[1]
    assert all(at - late >= 0.06 + i * 0.025 for i, at in enumerate(times[2:])), "lost time is not made up for"


def test_what_is_not_known_is_not_held_back(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    slow = Pace(prefill_ms_per_token=9_000, tokens_per_second=0.1, tokens_per_second_one_core=1_000)
    r = rig(alphabet_model, runtime=paced(slow.one_core()))
    started = time.perf_counter()
    assert r.run("wt") == 0
    assert time.perf_counter() - started < 9, "no figure of the other set was taken"
    assert r.text == b"uvwxyz"


def test_logits_take_the_prefill_s_time(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, runtime=paced(Pace(prefill_ms_per_token=30)))
    assert r.run("abc", r.infer(InferMode.GET_LOGITS)) == 0
    assert r.events[-1].perf is not None
    assert r.events[-1].perf["prefill_time_ms"] >= 90


def test_an_abort_is_noticed_at_the_token_boundary(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, runtime=paced(Pace(prefill_ms_per_token=200, tokens_per_second=10)))
    ended = threading.Event()
    r.answer = lambda event: ended.set() if event.state is CallState.FINISH else None
    started = time.perf_counter()
    assert r.run("abc", wait=False) == 0
    assert r.f.rkllm_abort(r.handle) == 0
    assert ended.wait(10)
    assert time.perf_counter() - started >= 0.6, "the prefill goes on to its end"
    assert r.states == [CallState.FINISH]
    assert r.events[-1].perf is not None
    assert r.events[-1].perf["generate_tokens"] == 0

    while r.f.rkllm_is_running(r.handle):
        time.sleep(0.001)
    r.answer = lambda event: int(r.f.rkllm_abort(r.handle)) if event.text == b"c" else 0
    assert r.run("a") == 0
    assert r.text == b"bc"
    assert r.events[-1].perf["generate_time_ms"] >= 200, "the token that was being made took its time"


def test_the_encoder_waits_without_work(encoder: PacedEncoder) -> None:
    spec = encoder.spec
    pixels = np.zeros((1, spec.height, spec.width_px, 3), np.uint8)
    path = SAMPLES / "demo" / "model" / "vision_encoder.onnx"
    plain = open_encoder(path, spec, threads=1)
    assert (encoder.spec, encoder.identity) == (plain.spec, plain.identity)
    expected = plain.encode(pixels, "x")
    started, worked = time.perf_counter(), time.process_time()
    made = encoder.encode(pixels, "x")
    taken, worked = time.perf_counter() - started, time.process_time() - worked
    print(f"encoded in {taken:.3f} s, {worked:.3f} s of them at work")
    assert taken >= 0.3
    assert isinstance(made, ImageEmbedding)
    assert np.array_equal(made.data, expected.data)
    assert made.hashes == ("x",)
    plain.close()


def test_waiting_takes_no_processor() -> None:
    beat = Beat(0.4)
    worked = time.process_time()
    beat()
    assert time.process_time() - worked < 0.2


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan")])
def test_an_encoder_s_time_that_is_none_is_refused(encoder: PacedEncoder, wrong: float) -> None:
    with pytest.raises(ValueError, match="encode_ms must be"):
        PacedEncoder(encoder, wrong)
