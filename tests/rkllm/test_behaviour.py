"""Everything a runtime may do in a run, played by the compiled stand-in of each release."""

from __future__ import annotations

import time

import numpy as np
import pytest
from backends import Backend

from vlm.errors import (
    ModelBusyError,
    ModelClosedError,
    ModelLoadError,
    NotSupportedByRuntime,
    OptionError,
    RunError,
    RunTimeoutError,
)
from vlm.rkllm.abi import RELEASES
from vlm.rkllm.model import Model, ModelSettings, Request

SENTENCE = "naïve 你好 😀 ß done"
QUICK = ModelSettings(stop_timeout_s=0.4)


def since(backend: Backend, release: str) -> bool:
    return RELEASES.index(backend.library.release) >= RELEASES.index(release)


def begun(backend: Backend) -> None:
    while not backend.standin.seen("run"):
        time.sleep(0.005)


def tokens(name: str, count: int) -> str:
    return "".join(f"{name}:{i} " for i in range(count))


@pytest.mark.parametrize("thread", ["", "[thread]"])
@pytest.mark.parametrize("end", ["now", "later", "text", "again", "null", "none", "late"])
def test_no_token_is_lost_however_the_run_finishes(standin: Backend, end: str, thread: str) -> None:
    generation = standin.open().generate(Request(prompt=f"[id=q][tokens=6][finish={end}]{thread}"))
    assert generation.text() == tokens("q", 6)
    assert generation.finish_reason == "stop"
    assert generation.token_ids == tuple(range(100, 106))
    if end not in ("null", "none") and since(standin, "1.2.1"):
        assert generation.perf is not None
        assert (generation.perf.prefill_ms, generation.perf.prefill_tokens) == (12.5, 7)
        assert (generation.perf.generate_ms, generation.perf.memory_mb) == (50.0, 64.25)
    else:
        assert generation.perf is None


@pytest.mark.parametrize("piece", [1, 2, 3, 5])
@pytest.mark.parametrize("waiting", ["bytes", "null", "again"])
def test_characters_split_over_tokens_are_joined(standin: Backend, waiting: str, piece: int) -> None:
    prompt = f"[say={SENTENCE}][piece={piece}][waiting={waiting}]"
    pieces = list(standin.open(max_new_tokens=99).generate(Request(prompt=prompt)))
    assert "".join(p.text for p in pieces) == SENTENCE
    assert "\ufffd" not in "".join(p.text for p in pieces)
    assert all(p.text for p in pieces)


def test_a_character_never_finished_is_marked(standin: Backend) -> None:
    model = standin.open()
    assert model.generate(Request(prompt="[say=ab你][bytes=4]")).text() == "ab\ufffd"
    cut = model.generate(Request(prompt="[say=ab你][piece=4]", max_new_tokens=1))
    assert cut.text() == "ab"  # cut off by the limit: not a broken character of the model's
    assert cut.finish_reason == "length"


def test_tokens_without_text_are_counted_and_pass(standin: Backend) -> None:
    generation = standin.open().generate(Request(prompt="[id=n][tokens=4][empty=1]"))
    assert generation.text() == "n:0 n:2 n:3 "
    assert len(generation.token_ids) == 4


@pytest.mark.parametrize("piece", [1, 2, 7])
@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        (("STOP",), "one two ", "stop"),
        (("S", "STOP"), "one two ", "stop"),
        (("STOPPED", " thr"), "one two STOP", "stop"),
        (("four",), "one two STOP three", "stop"),
        (("two STOX", "ree!"), "one two STOP three", "stop"),
    ],
)
def test_stop_strings(standin: Backend, stop: tuple[str, ...], text: str, reason: str, piece: int) -> None:
    model = standin.open(max_new_tokens=99)
    generation = model.generate(Request(prompt=f"[say=one two STOP three][piece={piece}]", stop=stop))
    assert generation.text() == text
    assert generation.finish_reason == reason
    assert model.generate(Request(prompt="[id=next][tokens=2]")).text() == tokens("next", 2)


def test_a_stop_string_ends_the_run_itself(standin: Backend) -> None:
    model = standin.open(max_new_tokens=999)
    generation = model.generate(Request(prompt="[id=s][tokens=500][pace=2]", stop=("s:3",)))
    assert generation.text() == "s:0 s:1 s:2 "
    assert standin.standin.seen("abort") != []
    assert standin.standin.seen("returned")[0]["tokens"] < 100


def test_max_new_tokens_of_a_run(standin: Backend) -> None:
    model = standin.open(max_new_tokens=20)
    generation = model.generate(Request(prompt="[id=m][tokens=500][pace=1]", max_new_tokens=3))
    assert generation.text() == tokens("m", 3)
    assert generation.finish_reason == "length"
    assert len(generation.token_ids) == 3
    assert model.generate(Request(prompt="[id=n][tokens=500]")).text() == tokens("n", 20)
    if since(standin, "1.3.0"):
        assert standin.standin.seen("abort") == []  # the runtime stops by itself there
        longer = model.generate(Request(prompt="[id=o][tokens=500]", max_new_tokens=30))
        assert longer.text() == tokens("o", 30)
    else:
        with pytest.raises(OptionError, match="30 is more than the 20"):
            model.generate(Request(prompt="a", max_new_tokens=30))


def test_the_run_ends_with_the_last_token_wanted(standin: Backend) -> None:
    model = standin.open(max_new_tokens=20)
    model.generate(Request(prompt="[tokens=9][pace=150]", max_new_tokens=1)).text()
    assert standin.standin.seen("returned")[0]["tokens"] == 1  # not one more, to see that it is too many


def test_a_runtime_that_goes_on_past_its_limit_is_cut(standin: Backend) -> None:
    generation = standin.open(max_new_tokens=4).generate(Request(prompt="[id=v][tokens=9][over=200][pace=1]"))
    assert generation.text() == tokens("v", 4)
    assert generation.finish_reason == "length"


@pytest.mark.parametrize("answer", ["finish", "error", "none"])
@pytest.mark.parametrize("deaf", [0, 1])
def test_close_aborts_and_the_model_is_free(standin: Backend, answer: str, deaf: int) -> None:
    model = standin.open(max_new_tokens=5000)
    generation = model.generate(Request(prompt=f"[id=a][tokens=5000][pace=2][abort={answer}][deaf={deaf}]"))
    first = [next(generation).text for _ in range(3)]
    generation.close()
    generation.close()
    assert first == ["a:0 ", "a:1 ", "a:2 "]
    assert list(generation) == []
    assert generation.finish_reason == "abort"
    (returned,) = standin.standin.seen("returned")
    assert returned["tokens"] < 1000  # it was stopped, also where the first abort was not heard
    assert model.generate(Request(prompt="[id=b][tokens=3]")).text() == tokens("b", 3)


def test_abort_from_another_place_ends_the_iterator(standin: Backend) -> None:
    model = standin.open(max_new_tokens=5000)
    generation = model.generate(Request(prompt="[id=a][tokens=5000][pace=2]"))
    text = next(generation).text
    model.abort()
    text += generation.text()
    assert generation.finish_reason == "abort"
    assert text == tokens("a", len(generation.token_ids))
    model.abort()  # nothing is running: nothing happens
    assert model.generate(Request(prompt="[id=b][tokens=3]")).text() == tokens("b", 3)


def test_close_during_the_prefill_and_before_the_run_began(standin: Backend) -> None:
    model = standin.open(max_new_tokens=5000)
    with model.generate(Request(prompt="[prefill=100][tokens=5000][pace=1]")):
        time.sleep(0.02)
    for _ in range(5):
        model.generate(Request(prompt="[tokens=5000][pace=1]")).close()
    assert model.generate(Request(prompt="[id=b][tokens=3]")).text() == tokens("b", 3)


def test_a_dropped_iterator_does_not_go_on(standin: Backend) -> None:
    model = standin.open(max_new_tokens=5000)
    next(model.generate(Request(prompt="[tokens=5000][pace=2]")))
    assert model.generate(Request(prompt="[id=b][tokens=3]")).text() == tokens("b", 3)


def test_an_error_comes_after_the_tokens_before_it(standin: Backend) -> None:
    model = standin.open()
    generation = model.generate(Request(prompt="[id=e][tokens=9][error=2]"))
    assert [next(generation).text, next(generation).text] == ["e:0 ", "e:1 "]
    with pytest.raises(RunError, match="the runtime reported an error"):
        next(generation)
    assert list(generation) == []
    assert generation.finish_reason is None
    assert model.generate(Request(prompt="[id=b][tokens=3]")).text() == tokens("b", 3)


@pytest.mark.parametrize("prompt", ["[fail]", "[id=e][tokens=2][rc=-1]", "<image> without the tokens it takes"])
def test_a_refused_run_is_an_error_with_its_code(standin: Backend, prompt: str) -> None:
    model = standin.open()
    request = Request(prompt=prompt)
    if "<image>" in prompt:
        request = Request(prompt=prompt, images=np.zeros((1, 3, 8), np.float32), image_size=(8, 8))
    generation = model.generate(request)
    with pytest.raises(RunError, match="rkllm_run returned -1"):
        generation.text()
    assert model.generate(Request(prompt="[id=b][tokens=3]")).text() == tokens("b", 3)


def test_tokens_of_an_earlier_run_are_dropped(standin: Backend) -> None:
    model = standin.open()
    model.generate(Request(prompt="[id=a]")).text()
    assert model.generate(Request(prompt="[id=b][tokens=4][ghost]")).text() == tokens("b", 4)


def test_a_runtime_that_loses_the_userdata_is_still_understood(standin: Backend) -> None:
    assert standin.open().generate(Request(prompt="[id=u][tokens=4][userdata=null]")).text() == tokens("u", 4)


def test_one_run_at_a_time(standin: Backend) -> None:
    model = standin.open(max_new_tokens=5000)
    generation = model.generate(Request(prompt="[tokens=5000][pace=2]"))
    next(generation)
    for refused in (lambda: model.generate(Request(prompt="a")), model.clear_kv_cache):
        with pytest.raises(ModelBusyError, match="is running"):
            refused()
    generation.close()
    assert len(standin.standin.seen("run")) == 1


def test_closing_the_model_ends_its_run(standin: Backend) -> None:
    model = standin.open(max_new_tokens=5000)
    generation = model.generate(Request(prompt="[tokens=5000][pace=2]"))
    next(generation)
    model.close()
    model.close()
    assert [e["call"] for e in standin.standin.seen() if e["call"] != "abort"][-2:] == ["returned", "destroy"]
    generation.text()
    with pytest.raises(ModelClosedError, match="was closed"):
        model.generate(Request(prompt="a"))
    with pytest.raises(ModelClosedError):
        model.clear_kv_cache()


def test_a_run_that_never_returns(standin: Backend) -> None:
    model = standin.open(settings=QUICK)
    generation = model.generate(Request(prompt="[hang]"))
    begun(standin)
    with pytest.raises(RunTimeoutError, match=r"within 0\.4 s"):
        generation.close()
    generation.close()
    with pytest.raises(RunTimeoutError, match="never returned"):
        model.generate(Request(prompt="a"))
    start = time.monotonic()
    model.close()
    assert time.monotonic() - start < 0.3  # it does not wait a second time
    assert standin.standin.seen("destroy") == []  # C is still inside the handle
    assert standin.standin.release() == 1  # it is given back once it returns after all; checked at the end


def test_closing_a_model_whose_run_never_returns(standin: Backend) -> None:
    model = standin.open(settings=QUICK)
    generation = model.generate(Request(prompt="[hang]"))
    begun(standin)
    with pytest.raises(RunTimeoutError):
        model.close()
    model.close()
    with pytest.raises(RunTimeoutError):
        next(generation)
    standin.standin.release()


def test_the_cache_is_cleared_around_image_runs_only(standin: Backend) -> None:
    model = standin.open()
    image = Request(prompt="<image>[tokens=2]", images=np.zeros((1, 4, 8), np.float32), image_size=(8, 8))
    model.generate(Request(prompt="[tokens=2]")).text()
    model.generate(image).text()
    model.generate(image).text()
    order = [e["call"] for e in standin.standin.seen()][1:]
    around = ["clear", "run", "returned", "clear"] if since(standin, "1.2.0") else ["run", "returned"]
    assert order == ["run", "returned", *around, *around]
    assert all((e["keep_system_prompt"], e["start"], e["end"]) == (0, -1, -1) for e in standin.standin.seen("clear"))


def test_the_cache_is_cleared_after_an_aborted_image_run_too(standin: Backend) -> None:
    model = standin.open(max_new_tokens=5000)
    image = Request(prompt="<image>[tokens=5000][pace=2]", images=np.zeros((1, 4, 8), np.float32), image_size=(8, 8))
    with model.generate(image) as generation:
        next(generation)
    if since(standin, "1.2.0"):
        assert standin.standin.seen()[-1]["call"] == "clear"
        assert len(standin.standin.seen("clear")) == 2


def test_cache_template_and_size_by_release(standin: Backend) -> None:
    model = standin.open()
    model.generate(Request(prompt="[tokens=2]")).text()
    calls = {
        "1.2.0": [lambda: model.clear_kv_cache(keep_system_prompt=True), lambda: model.set_chat_template("", "", "")],
        "1.2.1": [model.kv_cache_size, lambda: model.clear_kv_cache(span=(0, 2))],
    }
    for first, functions in calls.items():
        for function in functions:
            if since(standin, first):
                function()
            else:
                with pytest.raises(NotSupportedByRuntime, match=f"needs {first} or newer"):
                    function()
    if since(standin, "1.2.0"):
        assert standin.standin.seen("set_chat_template")[0] == {
            "call": "set_chat_template",
            "system": "",
            "prefix": "",
            "postfix": "",
        }
        assert standin.standin.seen("clear")[0]["keep_system_prompt"] == 1
    if since(standin, "1.2.1"):
        assert (standin.standin.seen("clear")[1]["start"], standin.standin.seen("clear")[1]["end"]) == (0, 2)
        model.clear_kv_cache()
        assert model.kv_cache_size() == 0


def test_logits_and_hidden_states(standin: Backend) -> None:
    model = standin.open()
    wanted = np.arange(21, dtype=np.float32).reshape(3, 7) + 0.5
    np.testing.assert_array_equal(model.hidden_states(Request(prompt="a")), wanted)
    assert standin.standin.seen("run")[-1]["mode"] == 1
    if since(standin, "1.2.0"):
        np.testing.assert_array_equal(model.logits(Request(prompt="a")), wanted)
        assert standin.standin.seen("run")[-1]["mode"] == 2
    else:
        with pytest.raises(NotSupportedByRuntime, match=r"logits.*1\.2\.0"):
            model.logits(Request(prompt="a"))
    with pytest.raises(RunError):
        model.hidden_states(Request(prompt="[fail]"))


def test_an_exception_inside_the_callback_does_not_reach_c(standin: Backend) -> None:
    """The stand-in counts what the callback returns; the caller gets the error."""
    model = standin.open()
    with pytest.raises(RunError, match=r"Taking a result .* failed: (ValueError|OverflowError|MemoryError)") as caught:
        model.hidden_states(Request(prompt="[huge]"))
    assert isinstance(caught.value.__cause__, (ValueError, OverflowError, MemoryError))
    assert model.generate(Request(prompt="[id=b][tokens=3]")).text() == tokens("b", 3)


@pytest.mark.parametrize(
    ("words", "match"), [("[refuse]", "rkllm_init returned -1"), ("[null]", "returned 0 and no handle")]
)
def test_a_model_that_does_not_load(standin: Backend, words: str, match: str) -> None:
    path = standin.path.with_name(f"bad{words}.rkllm")
    with pytest.raises(ModelLoadError, match="There is no model at"):
        Model(path, standin.library)
    path.touch()
    with pytest.raises(ModelLoadError, match=match):
        Model(path, standin.library)
    assert len(standin.standin.seen("init")) == 1
    assert standin.standin.seen("destroy") == []


def test_a_cache_that_cannot_be_cleared_is_an_error(standin: Backend) -> None:
    if not since(standin, "1.2.0"):
        pytest.skip("1.1.4 has no such call")
    standin.path = standin.path.with_name("bad[clear=-1].rkllm")
    standin.path.touch()
    generation = standin.open().generate(
        Request(prompt="<image>[id=c][tokens=1]", images=np.zeros((1, 4, 8), np.float32), image_size=(8, 8))
    )
    assert next(generation).text == "c:0 "
    with pytest.raises(RunError, match="Clearing the KV cache failed"):
        next(generation)


def test_a_model_forgotten_without_close_is_given_back(standin: Backend) -> None:
    model = Model(standin.path, standin.library)
    with pytest.warns(ResourceWarning, match="was not closed"):
        del model
    assert len(standin.standin.seen("destroy")) == 1
    standin.standin.reset()
