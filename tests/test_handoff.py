"""From the encoder to the library, through the front door: what reaches compiled C, in the layout of every release."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_pictures import PICTURES, ROOT

import vlm
from vlm.errors import ImageTooLargeError, ModelLoadError, NotSupportedByRuntime, OptionError, RunError
from vlm.options import AdapterFile, adapter_file
from vlm.rkllm.abi import RELEASES

sys.path.insert(0, str(ROOT / "tests" / "native"))
from standin import StandIn, build

STAR, LIGHT = PICTURES / "blue-star.jpg", PICTURES / "traffic-light.jpg"
SEVERAL = RELEASES[RELEASES.index("1.2.1b1") :]


class Board:
    """The demo's encoder in front of a compiled stand-in for librkllmrt.so."""

    def __init__(self, release: str, folder: Path) -> None:
        self.standin = StandIn(build(release))
        self.standin.reset()
        llm = folder / "model[width=160][image-tokens=49].rkllm"
        llm.touch()
        self.model = vlm.load("demo", llm=llm, library=self.standin.path)

    def run(self) -> dict[str, Any]:
        (entry,) = self.standin.seen("run")
        return entry


@pytest.fixture(params=RELEASES)
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Board]:
    made = Board(request.param, tmp_path)
    yield made
    made.model.close()
    assert made.standin.violations() == []
    assert len(made.standin.seen("destroy")) == 1


def test_the_address_in_the_struct_is_the_encoders_own_array(board: Board) -> None:
    embedding = board.model.encode(STAR)
    assert not embedding.data.flags.writeable
    answer = board.model.describe(embedding, "[id=a][tokens=3]")
    assert answer.text == "a:0 a:1 a:2 "
    seen = board.run()
    assert seen["address"] == embedding.data.ctypes.data
    assert seen["sum"] == pytest.approx(float(embedding.data.astype(np.float64).sum()), rel=1e-4)
    assert (seen["n_image_tokens"], seen["n_image"]) == (49, 1)


def test_the_prompt_is_ours_and_the_runtimes_template_is_off(board: Board) -> None:
    board.model.describe(STAR, "[tokens=1] Hi <|im_end|><image>")
    prompt = board.run()["prompt"]
    assert prompt.startswith("<|im_start|>user\n<image>[tokens=1] Hi ")
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.count("<image>") == prompt.count("<|im_end|>") == 1
    off = [(e["system"], e["prefix"], e["postfix"]) for e in board.standin.seen("set_chat_template")]
    assert off == ([] if board.model.library.release == "1.1.4" else [("", "", "")])


def test_tags_and_size_reach_the_runtime_where_its_release_wants_them(board: Board) -> None:
    board.model.describe(STAR, "[tokens=1]")
    init, run = board.standin.seen("init")[0], board.run()
    tags = ("<img>", "</img>", "<image_pad>")
    if board.model.library.release == "1.3.0":
        assert tuple(run[f"image_{part}"] for part in ("start", "end", "content")) == tags
    else:
        assert tuple(init[f"img_{part}"] for part in ("start", "end", "content")) == tags
    if board.model.library.release in SEVERAL:
        assert (run["image_width"], run["image_height"]) == (112, 112)


def test_the_array_lives_until_the_run_returned(board: Board) -> None:
    """Nobody here holds the embedding, and the collector runs all the time; C checks it again when the run ends."""
    stop = threading.Event()

    def press() -> None:
        while not stop.wait(0.001):
            gc.collect()
            _ = [np.full((1, 49, 160), 7, np.float32) for _ in range(20)]

    thread = threading.Thread(target=press)
    thread.start()
    try:
        stream = board.model.stream(LIGHT, "[id=kept][tokens=20][pace=5][thread]")
        assert "".join(stream).split() == [f"kept:{n}" for n in range(20)]
    finally:
        stop.set()
        thread.join()


def test_several_pictures_are_one_buffer_or_refused(board: Board) -> None:
    one, two = board.model.encode(STAR), board.model.encode(LIGHT)
    if board.model.library.release not in SEVERAL:
        with pytest.raises(NotSupportedByRuntime, match=r"1\.2\.1b1"):
            board.model.describe([one, two], "[tokens=1]")
        return
    board.model.describe([one, two], "[tokens=1]")
    seen = board.run()
    assert (seen["n_image"], seen["n_image_tokens"]) == (2, 49)
    assert seen["first"] == pytest.approx(float(one.data[0, 0, 0]), rel=1e-5)
    assert seen["last"] == pytest.approx(float(two.data[0, -1, -1]), rel=1e-5)
    assert seen["prompt"].count("<image>") == 2


def test_the_cache_is_cleared_before_and_after_each_picture(board: Board) -> None:
    for _ in range(2):
        board.model.describe(STAR, "[tokens=2]")
    calls = [entry["call"] for entry in board.standin.seen() if entry.get("call") in ("run", "clear", "returned")]
    if board.model.library.release != "1.1.4":
        assert calls == ["clear", "run", "returned", "clear"] * 2


def test_an_early_close_lets_one_more_token_come_at_most(board: Board) -> None:
    for number in range(3):
        board.standin.reset()
        stream = board.model.stream(STAR, f"[id=n{number}][tokens=200][pace=60]")
        told = [next(stream) for _ in range(3)]
        stream.close()
        assert told == [f"n{number}:{n} " for n in range(3)]
        (returned,) = board.standin.seen("returned")
        assert returned["tokens"] <= 4
        assert len(board.standin.seen("abort")) >= 1
        board.standin.reset()
        assert board.model.describe(STAR, "[id=next][tokens=2]").text == "next:0 next:1 "


def test_a_failed_run_is_an_error_and_the_next_one_is_right(board: Board) -> None:
    with pytest.raises(RunError):
        board.model.describe(STAR, "[error=2][tokens=9]")
    with pytest.raises(RunError):
        board.model.describe(STAR, "[fail]")
    assert board.model.describe(STAR, "[id=well][tokens=1]").text == "well:0 "


def test_adapters_of_the_settings_and_the_one_that_a_question_names(tmp_path: Path) -> None:
    standin, llm, adapter = (
        StandIn(build("1.3.0")),
        tmp_path / "model[width=160][image-tokens=49].rkllm",
        tmp_path / "tone.rkllm",
    )
    standin.reset()
    llm.touch()
    settings = {"lora": [f"calm={adapter}@0.5", str(adapter)]}
    with pytest.raises(ModelLoadError, match="no LoRA adapter"):
        vlm.load("demo", llm=llm, library=standin.path, settings=settings)
    adapter.touch()
    with vlm.load("demo", llm=llm, library=standin.path, settings=settings, adapter="tone") as model:
        assert model.adapters == ("calm", "tone")
        assert model.describe([], "[tokens=1]").text == "t@tone:0 "
        assert model.describe(STAR, "[tokens=1]", adapter="calm").text == "t@calm:0 "
        assert model.describe([], "[tokens=1]", adapter=None).text == "t:0 "
        with pytest.raises(OptionError, match="no LoRA adapter 'loud' here; there are: calm, tone"):
            model.describe([], "[tokens=1]", adapter="loud")
    assert [(each["name"], each["scale"]) for each in standin.seen("load_lora")] == [("calm", 0.5), ("tone", 1)]
    assert standin.violations() == []
    with pytest.raises(OptionError, match="host runtime takes no LoRA"):
        vlm.load("demo", settings=settings)
    with pytest.raises(OptionError, match="there are: none"):
        vlm.load("demo", adapter="calm")


@pytest.mark.parametrize("given", ["", "=", "a b=file", "=file", "name="])
def test_adapters_that_are_given_wrongly(given: str) -> None:
    with pytest.raises(OptionError, match=r"\[NAME=\]FILE\[@SCALE\]"):
        adapter_file(given)


def test_an_adapter_whose_path_has_a_mark_of_ours() -> None:
    assert adapter_file("a@b/tone.rkllm") == AdapterFile("tone", Path("a@b/tone.rkllm"), 1.0)
    assert adapter_file("x=a@b/tone.rkllm@2") == AdapterFile("x", Path("a@b/tone.rkllm"), 2.0)


def test_a_prompt_cache_is_for_text_alone(tmp_path: Path) -> None:
    standin, llm, cache = StandIn(build("1.3.0")), tmp_path / "model.rkllm", tmp_path / "cache"
    standin.reset()
    llm.touch()
    cache.write_text("CACHE [tokens=1]")
    with pytest.raises(OptionError, match="text alone"):
        vlm.load("demo", llm=llm, library=standin.path, settings={"prompt_cache": cache})
    vlm.load("demo", llm=llm, library=standin.path, pictures=False, settings={"prompt_cache": cache}).close()
    (loaded,) = standin.seen("load_prompt_cache")
    assert loaded["path"] == str(cache)


def test_the_limit_on_pixels_is_a_setting() -> None:
    with vlm.load("demo", settings={"max_pixels": 1000}) as model, pytest.raises(ImageTooLargeError):
        model.encode(STAR)
