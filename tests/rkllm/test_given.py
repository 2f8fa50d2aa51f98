"""What the runtime is given: every field, read back by compiled C at the place its release has it."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest
from backends import Backend

from vlm.errors import (
    ContextTooLongError,
    EmbeddingError,
    NotSupportedByRuntime,
    OptionError,
    PromptError,
    RkvlmError,
)
from vlm.options import Sampling
from vlm.rkllm.abi import RELEASES
from vlm.rkllm.model import ImageTags, Model, ModelSettings, Placement, Request, SamplingFixedWarning

SAMPLING = Sampling(
    top_k=7,
    top_p=0.25,
    temperature=1.5,
    repeat_penalty=1.25,
    frequency_penalty=0.5,
    presence_penalty=-0.75,
    mirostat=2,
    mirostat_tau=3.5,
    mirostat_eta=0.125,
)
OTHER = Sampling(top_k=3, temperature=0.5)


def since(backend: Backend, release: str) -> bool:
    return RELEASES.index(backend.library.release) >= RELEASES.index(release)


def one(backend: Backend, call: str) -> dict[str, object]:
    (entry,) = backend.standin.seen(call)
    return entry


def images(count: int = 1, tokens: int = 4, width: int = 8) -> np.ndarray:
    return np.arange(count * tokens * width, dtype=np.float32).reshape(count, tokens, width) + 0.5


def test_every_parameter_arrives(standin: Backend) -> None:
    placement = Placement(base_domain_id=1)
    settings = ModelSettings(skip_special_token=False)
    if since(standin, "1.2.0"):
        placement = Placement(base_domain_id=1, cpu_mask=0x70, embed_flash=True)
        settings = ModelSettings(skip_special_token=False, n_keep=9)
    standin.open(
        sampling=SAMPLING,
        max_context_len=1024,
        max_new_tokens=33,
        placement=placement,
        settings=settings,
        tags=ImageTags("<开>", "</img>", ""),
    )
    wanted = {
        **SAMPLING.model_dump(),
        "model_path": str(standin.path),
        "max_context_len": 1024,
        "max_new_tokens": 33,
        "skip_special_token": 0,
        "is_async": 0,
        "base_domain_id": 1,
        "reserved": 0,
    }
    if since(standin, "1.2.0"):
        wanted |= {"n_keep": 9, "embed_flash": 1, "enabled_cpus_num": 3, "enabled_cpus_mask": 0x70}
    if since(standin, "1.2.1"):
        wanted |= {"n_batch": 1, "use_cross_attn": 0}
    if since(standin, "1.3.0"):
        wanted |= {"ignore_eos_token": 0}
    else:
        wanted |= {"img_start": "<开>", "img_end": "</img>", "img_content": ""}
    seen = one(standin, "init")
    assert {k: seen[k] for k in wanted} == wanted


def test_defaults_of_the_runtime_stay(standin: Backend) -> None:
    standin.open(tags=None)
    seen = one(standin, "init")
    assert (seen["max_context_len"], seen["base_domain_id"], seen["mirostat_tau"]) == (512, 0, 5)
    assert seen["top_k"] == 1  # ours: greedy unless told otherwise
    if since(standin, "1.2.0"):
        assert (seen["n_keep"], seen["enabled_cpus_num"], seen["enabled_cpus_mask"]) == (-1, 4, 0xF0)
    if not since(standin, "1.3.0"):
        assert (seen["img_start"], seen["img_end"], seen["img_content"]) == ("", "", "")  # never NULL


def test_one_image_is_handed_over_where_it_lies(standin: Backend) -> None:
    data = images()
    data.flags.writeable = False
    model = standin.open()
    model.generate(Request(prompt="<image>[tokens=2]", images=data, image_size=(112, 96))).text()
    seen = one(standin, "run")
    assert seen["address"] == data.ctypes.data
    assert (seen["first"], seen["last"], seen["sum"]) == (0.5, 31.5, float(data.sum()))
    assert (seen["input_type"], seen["n_image_tokens"], seen["n_image"], seen["mode"]) == (3, 4, 1, 0)
    assert seen["prompt"] == "<image>[tokens=2]"
    if since(standin, "1.2.1b1"):
        assert (seen["image_height"], seen["image_width"]) == (112, 96)
    if since(standin, "1.2.1"):
        assert (seen["role"], seen["enable_thinking"]) == ("user", 0)
    if since(standin, "1.2.0"):
        assert seen["keep_history"] == 0
    if since(standin, "1.3.0"):
        assert (seen["image_start"], seen["image_end"], seen["image_content"]) == ("<img>", "</img>", "<pad>")


def test_several_images_are_one_buffer_or_refused(standin: Backend) -> None:
    data = images(3)
    model = standin.open()
    request = Request(prompt="<image>a<image>b<image>[tokens=1]", images=data, image_size=(8, 8))
    if not since(standin, "1.2.1b1"):
        with pytest.raises(NotSupportedByRuntime, match=r"more than one image.*1\.2\.1b1"):
            model.generate(request)
        return
    model.generate(request).text()
    seen = one(standin, "run")
    assert seen["address"] == data.ctypes.data
    assert (seen["n_image"], seen["n_image_tokens"], seen["sum"]) == (3, 4, float(data.sum()))


def test_array_and_prompt_live_until_the_run_returned(standin: Backend) -> None:
    """Nobody on the Python side holds them, and the collector runs all the time: C must still find them unchanged."""
    model = standin.open()
    data = images()
    address, held = data.ctypes.data, weakref.ref(data)
    prompt = "<image>" + "".join(["[id=held]", "[tokens=20]", "[pace=5]", "[thread]"])
    generation = model.generate(Request(prompt=prompt, images=data, image_size=(8, 8)))
    del data, prompt
    stop = threading.Event()

    def press() -> None:
        while not stop.wait(0.001):
            gc.collect()
            _ = [np.full((1, 4, 8), 9, np.float32) for _ in range(50)]

    thread = threading.Thread(target=press)
    thread.start()
    try:
        next(generation)
        assert held() is not None
        text = generation.text()
    finally:
        stop.set()
        thread.join()
    assert text.split() == [f"held:{i}" for i in range(1, 20)]
    assert one(standin, "run")["address"] == address
    assert standin.standin.violations() == []  # among them: the input changed during the run
    until = time.monotonic() + 5
    while held() is not None and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert held() is None  # and not longer than that


def test_tokens_and_embeddings(standin: Backend) -> None:
    model = standin.open()
    ids = np.array([5, 6, 7], np.int32)
    model.generate(Request(tokens=ids)).text()
    seen = standin.standin.seen("run")[-1]
    assert (seen["input_type"], seen["n_tokens"], seen["first"], seen["last"]) == (1, 3, 5, 7)
    assert seen["address"] == ids.ctypes.data
    rows = images()[0]
    model.generate(Request(embedding=rows)).text()
    seen = standin.standin.seen("run")[-1]
    assert (seen["input_type"], seen["n_tokens"], seen["sum"]) == (2, 4, float(rows.sum()))
    assert seen["address"] == rows.ctypes.data


def test_sampling_of_a_single_run(standin: Backend) -> None:
    model = standin.open(sampling=SAMPLING)
    request = Request(prompt="[tokens=1]", sampling=OTHER, max_new_tokens=5)
    if since(standin, "1.3.0"):
        model.generate(request).text()
        seen = one(standin, "run")
        assert {k: seen[k] for k in OTHER.model_dump()} == OTHER.model_dump()
        assert seen["max_new_tokens"] == 5
        model.generate(Request(prompt="[tokens=1]")).text()
        seen = standin.standin.seen("run")[-1]
        assert {k: seen[k] for k in SAMPLING.model_dump()} == SAMPLING.model_dump()
        return
    with pytest.warns(SamplingFixedWarning, match="when a model is opened"):
        model.generate(request).text()
    model.generate(Request(prompt="[tokens=1]", sampling=SAMPLING)).text()  # what it was opened with: no warning
    strict = standin.open(settings=ModelSettings(sampling_per_run="refuse"))
    with pytest.raises(NotSupportedByRuntime, match=r"single run.*1\.3\.0"):
        strict.generate(request)


def test_thinking_and_history(standin: Backend) -> None:
    model = standin.open()
    for option, first in (("keep_history", "1.2.0"), ("enable_thinking", "1.2.1")):
        request = Request(prompt="[tokens=1]", **{option: True})
        if since(standin, first):
            model.generate(request).text()
            assert standin.standin.seen("run")[-1][option] == 1
        else:
            with pytest.raises(NotSupportedByRuntime, match=f"{option}.*{first}"):
                model.generate(request)


def test_settings_that_a_release_lacks_are_refused_at_opening(standin: Backend) -> None:
    for options in (
        {"placement": Placement(cpu_mask=0xF)},
        {"placement": Placement(embed_flash=True)},
        {"settings": ModelSettings(n_keep=4)},
    ):
        if since(standin, "1.2.0"):
            standin.open(**options)
        else:
            with pytest.raises(NotSupportedByRuntime, match=r"1\.2\.0"):
                Model(standin.path, standin.library, **options)
    with pytest.raises(RkvlmError, match=r"cpu_mask|CPUs"):
        Model(standin.path, standin.library, placement=Placement(cpu_mask=0))


BAD = {
    "no input": (Request(), PromptError, "one of prompt, tokens and embedding; got none"),
    "two inputs": (Request(prompt="a", tokens=np.ones(2, np.int32)), PromptError, "prompt and tokens"),
    "NUL": (Request(prompt="a\0b"), PromptError, "NUL character at position 1"),
    "surrogate": (Request(prompt="a\ud800"), PromptError, "not valid Unicode"),
    "images without prompt": (Request(tokens=np.ones(2, np.int32), images=images()), PromptError, "prompt"),
    "tags": (Request(prompt="none", images=images()), PromptError, "0 <image> and there are 1 images"),
    "width": (Request(prompt="<image>", images=images(width=9)), EmbeddingError, r"4 tokens x 8 .* has 4 x 9"),
    "tokens": (Request(prompt="<image>", images=images(tokens=5)), EmbeddingError, r"4 tokens x 8 .* has 5 x 8"),
    "dtype": (Request(prompt="<image>", images=images().astype(np.float64)), EmbeddingError, "got float64"),
    "layout": (Request(prompt="<image>", images=images()[:, ::2]), EmbeddingError, "not C-contiguous"),
    "list": (Request(prompt="<image>", images=[1.0]), EmbeddingError, "got list"),
    "ids": (Request(tokens=np.ones(3, np.int64)), EmbeddingError, "tokens must be .* int32"),
    "empty ids": (Request(tokens=np.ones(0, np.int32)), EmbeddingError, "not empty"),
    "max_new_tokens": (Request(prompt="a", max_new_tokens=0), OptionError, "at least 1; got 0"),
    "stop": (Request(prompt="a", stop=("",)), OptionError, "must not be empty"),
    "seed": (Request(prompt="a", seed=1), NotSupportedByRuntime, "seed"),
    "context": (Request(tokens=np.ones(500, np.int32)), ContextTooLongError, "500 tokens of input and 24 new"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_done_is_refused_before_the_call(standin: Backend, what: str) -> None:
    request, error, match = BAD[what]
    model = standin.open(settings=ModelSettings(image_shape=(4, 8)), max_context_len=512)
    with pytest.raises(error, match=match):
        model.generate(request)
    assert standin.standin.seen("run") == []


def test_image_size_and_history_with_images(standin: Backend) -> None:
    model = standin.open()
    if since(standin, "1.2.1b1"):
        with pytest.raises(OptionError, match="image_size"):
            model.generate(Request(prompt="<image>", images=images()))
    if since(standin, "1.2.0"):
        with pytest.raises(OptionError, match="keep_history does not go with images"):
            model.generate(Request(prompt="<image>", images=images(), image_size=(8, 8), keep_history=True))
    assert standin.standin.seen("run") == []
