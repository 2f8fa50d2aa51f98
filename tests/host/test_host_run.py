"""How a run goes: callbacks and states, limits, abort, pause, threads and handles."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_model
from rig import Event, Rig
from tiny_model import IM_END, IMG

from vlm.host import HostRuntime
from vlm.rkllm.abi import RELEASES, CallState, abi


@pytest.mark.parametrize("release", RELEASES)
def test_every_token_then_finish(release: str, alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, release, max_new_tokens=50)
    assert r.run("wt") == 0
    assert r.text == b"uvwxyz"
    assert r.ids == [ord(c) for c in "uvwxyz"]
    assert r.states == [CallState.NORMAL] * 6 + [CallState.FINISH]
    assert r.events[-1].text is None
    assert {e.userdata for e in r.events} == {5}


def test_userdata_of_the_callback_struct_where_the_run_has_none(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, "1.3.0")
    assert r.run("y", userdata=None) == 0
    assert {e.userdata for e in r.events} == {77}
    r = rig(alphabet_model, "1.2.3")
    assert r.run("y", userdata=None) == 0
    assert {e.userdata for e in r.events} == {None}


def test_perf_at_finish(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, max_new_tokens=50)
    assert r.run("abc") == 0
    perf = r.events[-1].perf
    assert perf is not None
    assert (perf["prefill_tokens"], perf["generate_tokens"]) == (3, 23)
    assert perf["prefill_time_ms"] > 0
    assert perf["generate_time_ms"] > 0
    assert perf["memory_usage_mb"] > 20
    assert r.run("z") == 0
    assert r.events[-1].perf is not None
    assert r.events[-1].perf["generate_tokens"] == 0


def test_limits_on_the_answer(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, max_new_tokens=3)
    assert r.run("a") == 0
    assert r.text == b"bcd"
    assert r.run("a", r.infer(max_new_tokens=5)) == 0
    assert r.text == b"bcdef"
    assert r.run("a", r.infer(max_new_tokens=0)) == 0
    assert r.text == b"bcd", "0 is what was set at init"
    old = rig(alphabet_model, "1.2.3", max_new_tokens=-1, max_context_len=10)
    assert old.run("a") == 0
    assert old.text == b"bcdefghij", "-1 is as many as fit"


def test_end_token_and_special_tokens(tmp_path: Path, rig: Callable[..., Rig]) -> None:
    after = {ord("a"): IMG, IMG: ord("b"), ord("b"): IM_END, IM_END: ord("c"), ord("c"): ord("d")}
    path = tiny_model.build(tmp_path, tiny_model.chain_spec(after))
    r = rig(path, skip_special_token=True)
    assert r.run("a") == 0
    assert [(e.text, e.token) for e in r.events[:-1]] == [(b"", IMG), (b"b", ord("b"))]
    r = rig(path, skip_special_token=False)
    assert r.run("a") == 0
    assert r.text == b"<img>b"
    r = rig(path, skip_special_token=False, ignore_eos_token=True, max_new_tokens=5)
    assert r.run("a") == 0
    assert r.text == b"<img>b<|im_end|>cd"


def test_every_end_token_of_both_config_files(tmp_path: Path, rig: Callable[..., Rig]) -> None:
    after = {ord("a") + i: ord("a") + i + 1 for i in range(25)}
    path = tiny_model.build(tmp_path, tiny_model.chain_spec(after, config={"eos_token_id": [ord("y"), ord("m")]}))
    r = rig(path, max_new_tokens=50)
    assert r.run("k") == 0
    assert r.text == b"l"
    (path / "generation_config.json").write_text('{"eos_token_id": 103}')
    r = rig(path, max_new_tokens=50)
    assert r.run("a") == 0
    assert r.text == b"bcdef"
    assert r.run("n") == 0
    assert r.text == b"opqrstuvwx"


def test_characters_of_several_bytes_wait(tmp_path: Path, rig: Callable[..., Rig]) -> None:
    text = "aé世🙂!"
    path = tiny_model.build(tmp_path, tiny_model.chain_spec(tiny_model.say(text, after=ord("?"))))
    r = rig(path, max_new_tokens=50)
    assert r.run("?") == 0
    assert r.text == text.encode()
    n, w = CallState.NORMAL, CallState.WAITING
    assert r.states == [n, w, n, w, w, n, w, w, w, n, n, CallState.FINISH]
    assert all(len(e.text or b"") == 1 for e in r.events[:-1])


def test_abort_from_another_thread(alphabet_model: Path, tmp_path: Path, rig: Callable[..., Rig]) -> None:
    around = {ord("a"): ord("b"), ord("b"): ord("a")}
    path = tiny_model.build(tmp_path, tiny_model.chain_spec(around))
    r = rig(path, max_new_tokens=200)
    third, aborted = threading.Event(), threading.Event()

    def answer(event: Event) -> int:
        if len(r.events) == 3:
            third.set()
            assert aborted.wait(10)
        return 0

    def abort() -> None:
        assert third.wait(10)
        assert r.f.rkllm_abort(r.handle) == 0
        aborted.set()

    r.answer = answer
    thread = threading.Thread(target=abort)
    thread.start()
    assert r.run("a") == 0
    thread.join()
    assert r.text == b"bab"
    assert r.states == [CallState.NORMAL] * 3 + [CallState.FINISH]
    assert r.events[-1].perf is not None
    assert r.events[-1].perf["generate_tokens"] == 3

    r.answer = lambda event: 0
    assert r.f.rkllm_abort(r.handle) == 0, "nothing to abort is no failure"
    assert r.run("a") == 0
    assert len(r.text) == 200, "and does not end the next run"


def test_abort_during_prefill_comes_before_the_first_token(tmp_path: Path, rig: Callable[..., Rig]) -> None:
    path = tiny_model.build(tmp_path, tiny_model.Spec(layers=4, limit=4096))
    r = rig(path, max_new_tokens=5)
    done = threading.Event()
    r.answer = lambda event: done.set() if event.state is CallState.FINISH else None
    assert r.run("x" * 3000, wait=False) == 0
    assert r.f.rkllm_abort(r.handle) == 0
    assert done.wait(60)
    assert r.states == [CallState.FINISH]


@pytest.mark.parametrize("release", RELEASES)
def test_abort_from_the_callback(release: str, alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, release, max_new_tokens=20)
    r.answer = lambda event: int(r.f.rkllm_abort(r.handle)) if event.text == b"d" else 0
    assert r.run("a") == 0
    assert r.text == b"bcd"
    assert r.states[-1] is CallState.FINISH


def test_pause_and_resume(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model)
    r.answer = lambda event: int(event.text == b"d")
    assert r.run("ab") == 0
    assert r.text == b"cd"
    assert CallState.FINISH not in r.states
    assert r.cache_size() == 3, "the prompt and all of the answer but its last token"
    r.answer = lambda event: 0
    assert r.run("p") == 0
    assert r.text == b"qrstuvwx"
    assert r.events[-1].perf is not None
    assert r.events[-1].perf["prefill_tokens"] == 2, "the token that was left, and the p"
    assert r.cache_size() == 0, "keep_history 0 again"


def test_a_paused_answer_goes_on_as_if_nothing_had_been(random_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(random_model, max_new_tokens=12)
    assert r.run("Hello") == 0
    whole = r.ids
    assert len(whole) == 12
    r.answer = lambda event: int(len(r.events) == 5)
    assert r.run("Hello") == 0
    assert r.ids == whole[:5]
    r.answer = lambda event: 0
    assert r.run("", r.infer(max_new_tokens=7)) == 0
    assert r.ids == whole[5:]


def test_async_runs_in_a_thread_of_its_own(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model)
    done, release, threads = threading.Event(), threading.Event(), set()

    def answer(event: Event) -> int:
        threads.add(threading.get_ident())
        assert release.wait(10)
        if event.state is CallState.FINISH:
            done.set()
        return 0

    r.answer = answer
    assert r.run("a", wait=False) == 0
    assert r.f.rkllm_is_running(r.handle) == 1
    assert r.f.rkllm_run(r.handle, ctypes.byref(r.prompt("a")), ctypes.byref(r.infer()), None) == -1
    assert "A run is going on" in r.said()
    assert r.clear() == -1
    assert r.f.rkllm_set_chat_template(r.handle, b"", b"", b"") == -1
    release.set()
    assert done.wait(10)
    assert threads != {threading.get_ident()}
    assert len(threads) == 1
    assert r.text == b"bcdefghi"
    while r.f.rkllm_is_running(r.handle):  # FINISH is called while the run is still on its way out
        time.sleep(0.001)
    assert r.run("a") == 0


@pytest.mark.parametrize(("release", "running", "idle"), [("1.3.0", 1, 0), ("1.2.3", 0, 1)])
def test_is_running(release: str, running: int, idle: int, alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model, release)
    seen = []
    r.answer = lambda event: seen.append(r.f.rkllm_is_running(r.handle)) or 0  # type: ignore[func-returns-value]
    assert r.f.rkllm_is_running(r.handle) == idle
    assert r.run("x") == 0
    assert set(seen) == {running}
    assert r.f.rkllm_is_running(r.handle) == idle


def test_destroy_waits_for_the_run(alphabet_model: Path, tmp_path: Path, rig: Callable[..., Rig]) -> None:
    path = tiny_model.build(tmp_path, tiny_model.chain_spec({ord("a"): ord("b"), ord("b"): ord("a")}))
    r = rig(path, max_new_tokens=-1)
    r.answer = lambda event: time.sleep(0.01)
    assert r.run("a", wait=False) == 0
    assert r.f.rkllm_destroy(r.handle) == 0
    count = len(r.events)
    assert count < 200, "the run was aborted, not left to come to its end after 255 tokens"
    assert count == 0 or r.states[-1] is CallState.FINISH
    time.sleep(0.05)
    assert len(r.events) == count
    assert r.run("a") == -1
    assert "no open handle" in r.said()
    assert r.f.rkllm_destroy(r.handle) == -1


def test_destroy_from_the_callback_is_refused(alphabet_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(alphabet_model)
    codes = []
    r.answer = lambda event: codes.append(r.f.rkllm_destroy(r.handle)) or 0  # type: ignore[func-returns-value]
    assert r.run("x") == 0
    assert codes == [-1, -1, -1]
    assert r.run("x") == 0


def test_two_handles_know_nothing_of_each_other(alphabet_model: Path, random_model: Path) -> None:
    runtime = HostRuntime(abi("1.3.0"), threads=1)
    one, two = (Rig(path, runtime=runtime, max_new_tokens=12) for path in (alphabet_model, random_model))
    alone = Rig(random_model, max_new_tokens=12)
    keep = {"keep_history": 1}
    assert alone.run("Hello") == 0
    expected = alone.ids
    assert one.run("ab", one.infer(**keep)) == 0
    two.answer = lambda event: int(one.run("m", one.infer(**keep)) != 0)  # one runs inside two's callbacks
    assert two.run("Hello") == 0
    assert two.ids == expected
    assert one.text == b"nopqrstuvwxy"
    assert one.cache_size() > 14
    assert two.cache_size() == 0
    assert one.clear() == 0
    for r in (one, two, alone):
        r.close()


def test_a_failure_after_the_start_calls_error(tmp_path: Path, rig: Callable[..., Rig]) -> None:
    spec = tiny_model.Spec(takes_ids=True)
    r = rig(tiny_model.build(tmp_path, spec))
    assert r.run(r.tokens([1, 99999])) == -1
    assert r.states == [CallState.ERROR]
    assert r.events[0].text is None
    assert "The decoder failed on 2 tokens" in r.said()
    assert r.run("x", r.infer(keep_history=1)) == 0
    assert r.cache_size() > 0
    assert r.run(r.tokens([1, 99999]), r.infer(keep_history=1)) == -1
    assert r.cache_size() == 0, "a conversation that broke off is not gone on with"
    assert r.run("x") == 0
    assert r.run(r.tokens([1, 99999]), wait=False) == 0
    deadline = time.monotonic() + 10
    while not r.events and time.monotonic() < deadline:
        time.sleep(0.001)
    assert r.states == [CallState.ERROR]
