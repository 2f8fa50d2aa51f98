"""`vlm serve` as its owner sees it: starting, being ready, stopping, its health, its figures and its log."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from sample_pictures import TRUTH
from service_rig import LIGHT, LONG_S, STAR, Served, serve, standin_words, told, wait_until

from vlm import errors
from vlm.server.errors import problem
from vlm.server.health import npu_load


def refused(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "serve", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_says_what_it_serves(demo_service: Served) -> None:
    said = [line for line in demo_service.lines if line.startswith("vlm: ")]
    assert demo_service.url.startswith("http://127.0.0.1:")
    for word in ("model demo", "NPU cores: none", "8 pictures", "32768 characters", "no API key"):
        assert any(word in line for line in said), word


def test_the_core_plan_of_a_board(tmp_path: Path) -> None:
    """A PC that is told to be an RK3588, with the stand-in: the plan is said, and it is in the health answer."""
    with serve(*standin_words(tmp_path, "1.3.0"), "--soc", "rk3588", "--lock-dir", tmp_path) as served:
        served.ready()
        cores = served.get("/healthz").json()["cores"]
        assert cores.startswith("rk3588: encoder on")
        wait_until(lambda: f"NPU cores: {cores}" in served.errors)
        assert served.get("/v1/info").json()["model"]["cores"] == cores


def test_ready_only_when_a_question_would_be_answered(tmp_path: Path) -> None:
    with serve(*standin_words(tmp_path, "1.3.0", "[slow=700]")) as served:
        first = served.get("/readyz")
        assert (first.status_code, first.json()["state"]) == (503, "starting")
        assert served.get("/healthz").status_code == 200
        assert served.get("/v1/models").status_code == 503
        served.ready()
        assert served.ask("[id=a][tokens=2]").json()["text"] == told("a", 2)


def test_a_full_queue_is_not_ready(tmp_path: Path) -> None:
    with serve(*standin_words(tmp_path, "1.3.0"), "--queue", 0, "--in-flight", 1) as served:
        served.ready()
        body = {"model": "demo", "prompt": "[id=a][tokens=1500][pace=20]", "options": {"num_predict": 1500}}
        with httpx.stream("POST", served.url + "/api/generate", json=body) as stream:
            lines = stream.iter_lines()  # held: its end would be the client's leaving
            next(lines)
            assert served.get("/readyz").status_code == 503
            answer = served.ask("[id=b]")
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "EngineQueueFullError")
            assert int(answer.headers["retry-after"]) > 0
        served.ready()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_logged_and_counted_as_one(stream: bool, tmp_path: Path) -> None:
    with serve(*standin_words(tmp_path, "1.3.0")) as served:
        served.ready()
        body = {
            "model": "demo",
            "prompt": "[id=a][tokens=1500][pace=20]",
            "stream": stream,
            "options": {"num_predict": 1500},
        }
        if stream:
            with httpx.stream("POST", served.url + "/api/generate", json=body) as told:
                next(told.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(served.url + "/api/generate", json=body, timeout=httpx.Timeout(10, read=0.5))
        wait_until(lambda: '"status": 499' in served.errors, served.errors)
        assert '"finish_reason": "abort"' in served.errors
        assert 'route="/api/generate",status="499"' in served.get("/metrics").text


def test_a_model_that_cannot_be_opened_ends_it(tmp_path: Path) -> None:
    done = refused("--port", 0, *standin_words(tmp_path, "1.3.0", "[fail=invalid]"))
    assert done.returncode == errors.ModelError.exit_code
    assert done.stderr.splitlines()[-1].startswith("vlm: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "--insecure"),
        (["--host", "203.0.113.7", "--insecure"], "Cannot listen on 203.0.113.7"),
        (["--port", "99999"], "--port"),
        (["--queue", "-1"], "--queue"),
        (["--api-keys", "secret"], "--new-key"),
    ],
)
def test_settings_that_cannot_be(words: list[str], said: str) -> None:
    done = refused(*words)
    assert done.returncode == errors.OptionError.exit_code
    assert said in done.stderr
    assert "secret" not in done.stderr


def test_sigterm_lets_running_answers_end(tmp_path: Path) -> None:
    with serve(*standin_words(tmp_path, "1.3.0")) as served:
        served.ready()
        answers: list[httpx.Response] = []
        begun = threading.Event()

        def ask() -> None:
            body = {"model": "demo", "prompt": "[id=a][tokens=90][pace=30]"}
            with httpx.stream("POST", served.url + "/api/generate", json=body, timeout=60) as response:
                lines = []
                for line in response.iter_lines():
                    lines.append(json.loads(line))
                    begun.set()
            answers.append("".join(line["response"] for line in lines))

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(60)
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Shutting down" in served.errors)
        with pytest.raises(httpx.ConnectError):
            served.get("/readyz")
        asking.join()
        assert answers == [told("a", 90)]
        assert served.process.wait(60) == 0


def test_sigterm_does_not_wait_for_ever(tmp_path: Path) -> None:
    with serve(*standin_words(tmp_path, "1.3.0"), "--grace-s", 1) as served:
        served.ready()
        body = {"model": "demo", "prompt": "[id=a][tokens=1500][pace=20]", "options": {"num_predict": 1500}}
        with httpx.stream("POST", served.url + "/api/generate", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            assert served.end() == 0
            *_, last = lines
    assert "is being stopped" in json.loads(last)["error"]
    assert "Traceback" not in served.errors


def test_sigterm_tells_those_who_wait(tmp_path: Path) -> None:
    """At once, and when to ask again; the answer that has begun goes on."""
    with serve(*standin_words(tmp_path, "1.3.0"), "--in-flight", 1) as served:
        served.ready()
        body = {"model": "demo", "prompt": "[id=a][tokens=90][pace=30]"}
        with ThreadPoolExecutor() as others:
            running = others.submit(served.post, "/api/generate", json=body)
            wait_until(lambda: served.get("/healthz").json()["in_flight"] == 1)
            waiting = others.submit(served.post, "/api/generate", json={**body, "stream": False})
            wait_until(lambda: served.get("/healthz").json()["waiting"] == 1)
            assert served.end() == 0
        refused = waiting.result()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert refused.json() == {"error": "The service is being stopped."}
    lines = [json.loads(line) for line in running.result().text.splitlines()]
    assert ("".join(line["response"] for line in lines), lines[-1]["done"]) == (told("a", 90), True)


def test_metrics(tmp_path: Path) -> None:
    with serve(*standin_words(tmp_path, "1.3.0")) as served:
        served.ready()
        took = [served.ask("[id=a][tokens=4]", STAR).json()["encode_ms"] for _ in range(2)]
        text = served.get("/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures["vlm_cache_hits_total"]) == float(figures["vlm_cache_misses_total"]) == 1
    assert took[0] > 0
    assert took[1] is None  # the embedding was kept
    assert float(figures["vlm_encode_ms_count"]) == 1
    assert float(figures['vlm_requests_total{route="/v1/describe",status="200"}']) == 2
    assert float(figures["vlm_tokens_total"]) == 8
    assert float(figures["vlm_ttft_ms_count"]) == float(figures["vlm_queue_ms_count"]) == 2
    assert float(figures["vlm_ready"]) == 1
    assert float(figures["vlm_model_rss_bytes"]) > 1e7


def test_the_log_holds_no_question_unless_asked(tmp_path: Path) -> None:
    for more, there in (([], False), (["--log-content"], True)):
        with serve("-m", "demo", *more) as served:
            served.ready()
            assert served.ask("What colour is the star, Zaphod?", STAR).status_code == 200
            served.end()
        lines = [json.loads(line) for line in served.lines if line.startswith("{")]
        (line,) = (line for line in lines if line.get("route") == "/v1/describe")
        assert ("Zaphod" in served.errors) == there
        assert (line["status"], line["method"], line["tokens"] > 1) == (200, "POST", True)
        assert line.get("answer", "none").startswith("The star is blue" if there else "none")


def test_no_path_of_the_machine_in_any_answer(tmp_path: Path, demo_service: Served) -> None:
    with serve(*standin_words(tmp_path, "1.2.1")) as served:
        served.ready()
        said = [served.ask(words).text for words in ("[fail]", "[error=1]", "<image>", "")]
        said += [served.get(path).text for path in ("/v1/info", "/api/tags", "/healthz", "/metrics", "/nothing")]
        said += [served.post("/api/show", json={"model": "demo"}).text, served.get("/page/../../../etc/passwd").text]
    said.append(demo_service.ask("Hi", Path(__file__)).text)
    for text in said:
        assert str(tmp_path) not in text
        assert "site-packages" not in text
        assert "root:" not in text


def test_an_npu_that_another_program_holds() -> None:
    """The message names its process and its files, which is for the log."""
    told = problem(errors.NPUBusyError("The NPU's core 1 is held by process 7 (/opt/other --no-wait)."))
    assert (told.status, told.message) == (503, "Another program holds the NPU; ask again later.")


def test_the_page_and_the_samples(demo_service: Served) -> None:
    page = demo_service.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    samples = {entry["name"]: entry["url"] for entry in demo_service.get("/v1/info").json()["samples"]}
    assert set(samples) == set(TRUTH)
    assert demo_service.get(samples[LIGHT.name]).content == LIGHT.read_bytes()


@pytest.mark.parametrize(
    ("text", "load"),
    [
        ("NPU load:  Core0: 18%, Core1:  0%, Core2: 100%,\n", {"0": 18, "1": 0, "2": 100}),
        ("NPU load:  37%\n", {"0": 37}),
        ("nothing that is known", {}),
    ],
)
def test_the_load_of_the_npu(tmp_path: Path, text: str, load: dict[str, int]) -> None:
    (tmp_path / "load").write_text(text)
    assert npu_load(tmp_path / "load") == load
    assert npu_load(tmp_path / "nothing") == {}


def test_sampling_that_a_release_fixes_can_be_refused(tmp_path: Path) -> None:
    words = standin_words(tmp_path, "1.2.1")
    body = {"model": "demo", "messages": [{"role": "user", "content": "[id=a][tokens=2]"}], "temperature": 0.7}
    with serve(*words, "--sampling-per-run", "refuse") as served:
        answer = served.ready().post("/v1/chat/completions", json=body)
        assert answer.status_code == 501
        assert "1.3.0" in answer.json()["error"]["message"]
    with serve(*words, "--sampling-per-run", "refuse", "--temperature", "0.7", "--top-k", "0") as served:
        assert served.ready().post("/v1/chat/completions", json=body).status_code == 200


def test_sigterm_while_the_model_is_opened(tmp_path: Path) -> None:
    with serve(*standin_words(tmp_path, "1.3.0", "[slow=20000]")) as served:
        assert served.get("/readyz").json()["state"] == "starting"
        assert served.end() == 0


def test_the_processes_go_together(tmp_path: Path) -> None:
    """The service killed -9: its model's process is gone soon, whatever it does."""
    with serve(*standin_words(tmp_path, "1.3.0")) as served:
        served.ready()
        (child,) = psutil.Process(served.process.pid).children()
        served.end(signal.SIGKILL)
        child.wait(LONG_S)
