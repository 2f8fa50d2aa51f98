"""The command line as a client: the same words, the same output, the same exit codes, against another process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_pictures import PICTURES, TRUTH
from service_rig import LIGHT, STAR, Served, told

import vlm
from vlm import errors


def run(*words: object, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize(
    "words",
    [
        [LIGHT],
        [STAR, "What colour is the star?"],
        [STAR, "Which picture has more shapes?", "--image", LIGHT],
        ["-", "--stop", " large", "--max-new-tokens", 30],
        [PICTURES / "truth.json"],
        ["gone.png"],
        [STAR, "--max-new-tokens", 3000],
        [STAR, "--temperature", "-1"],
    ],
)
def test_describe_does_the_same(demo_service: Served, words: list[object]) -> None:
    here = run("describe", *words, "-m", "demo", stdin=LIGHT.read_bytes())
    there = run("describe", *words, "-m", "demo", "--server", demo_service.url, stdin=LIGHT.read_bytes())
    assert (there.returncode, there.stdout) == (here.returncode, here.stdout)
    assert len(there.stderr.splitlines()) == len(here.stderr.splitlines())


def test_json_has_the_same_figures(demo_service: Served) -> None:
    here = json.loads(run("describe", STAR, "--json", "-m", "demo").stdout)
    there = json.loads(run("describe", STAR, "--json", "-m", "demo", "--server", demo_service.url).stdout)
    same = ("answer", "model", "finish_reason", "prompt_tokens", "tokens")
    assert [here[name] for name in same] == [there[name] for name in same]
    assert here.keys() == there.keys()


@pytest.mark.parametrize(
    "words",
    [
        ["a red car"],
        ["a red car", "--image", STAR, "--pooling", "last"],
        ["--image", STAR, "-i", "-"],
        [],
        ["-i", "gone.png"],
        ["-i", PICTURES / "truth.json"],
    ],
)
def test_embed_does_the_same(demo_service: Served, words: list[object]) -> None:
    here = run("embed", *words, "-m", "demo", stdin=LIGHT.read_bytes())
    there = run("embed", *words, "-m", "demo", "--server", demo_service.url, stdin=LIGHT.read_bytes())
    assert there.returncode == here.returncode
    assert len(there.stderr.splitlines()) == len(here.stderr.splitlines())
    if here.returncode == 0:
        ours, theirs = json.loads(here.stdout), json.loads(there.stdout)
        assert len(theirs) == 160
        assert theirs == pytest.approx(ours, abs=1e-6)  # ONNX Runtime adds in another order with other threads


def test_what_an_embedding_from_a_service_does_not_take(demo_service: Served) -> None:
    with vlm.connect(demo_service.url, thinking=True) as remote, pytest.raises(errors.OptionError, match="thinking"):
        remote.embed([], "a")
    with vlm.connect(demo_service.url, model="demo@loud") as remote, pytest.raises(errors.UnknownModelError):
        remote.embed([], "a")


def test_a_conversation_with_pictures_in_several_turns(demo_service: Served) -> None:
    lines = f"Describe the picture.\n/image {STAR}\nWhat colour is the star?\n/image gone.png\n".encode()
    here = run("chat", LIGHT, "-m", "demo", stdin=lines)
    there = run("chat", LIGHT, "-m", "demo", "--server", demo_service.url, stdin=lines)
    assert (there.returncode, there.stdout) == (here.returncode, here.stdout)
    assert there.stdout.splitlines() == [TRUTH[LIGHT.name], "The star is blue."]
    assert there.returncode == errors.ImageError.exit_code


def test_without_a_model_named_it_says_which_one(demo_service: Served) -> None:
    done = run("describe", STAR, "--server", demo_service.url)
    assert demo_service.url in done.stderr
    assert "demo" in done.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--model", "qwen2-vl-2b"], errors.UnknownModelError),
        (["--llm", "words"], errors.OptionError),
        (["--encoder-cores", "0"], errors.OptionError),
        (["--no-wait"], errors.OptionError),
    ],
)
@pytest.mark.parametrize("command", [["describe", STAR], ["chat"], ["embed", "a"], ["caption", STAR.parent]])
def test_what_belongs_to_the_service(
    demo_service: Served, command: list[object], words: list[str], error: type[errors.RkvlmError]
) -> None:
    done = run(*command, "--server", demo_service.url, *words)
    assert done.returncode == error.exit_code
    if error is errors.OptionError:
        assert f"{words[0]} is the service's own affair" in done.stderr


def test_a_picture_that_cannot_be_is_told_as_without_a_service(demo_service: Served, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    for given in (tmp_path, tmp_path / "empty.jpg", "gone.png", "https://example.com/a.png", "/dev/zero"):
        said = [
            run("describe", given, *where).stderr.splitlines()[-1]
            for where in (["-m", "demo"], ["--server", demo_service.url])
        ]
        assert said[0] == said[1]
        assert str(given) in said[0]
    with vlm.connect(demo_service.url) as remote, pytest.raises(errors.ImageError, match="got pixels, ndarray"):
        remote.encode(np.zeros((8, 8, 3), np.uint8))


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "nonsense", "http://"):
        done = run("describe", STAR, "--server", url)
        assert done.returncode == errors.ServiceUnreachableError.exit_code
        assert "http://HOST:PORT" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_stream_may_be_left(standin_service: Served) -> None:
    with vlm.connect(standin_service.url) as model:
        stream = model.stream([], "[id=a][tokens=1500][pace=20]")
        assert [next(stream), next(stream)] == ["a:0 ", "a:1 "]
        stream.close()
        assert stream.answer.text == "a:0 a:1 "
        picture = model.encode(STAR)
        with model.stream(picture, "[id=b][tokens=3]") as again:
            assert "".join(again) == told("b", 3)
        assert (again.answer.tokens, again.answer.finish_reason) == (3, "stop")


def test_an_error_in_mid_answer(standin_service: Served) -> None:
    with vlm.connect(standin_service.url) as model:
        stream = model.stream([], "[id=a][tokens=9][error=3][pace=5]")
        with pytest.raises(errors.RunError):
            list(stream)
        assert stream.answer.text == told("a", 3)


def test_another_kind_of_server(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split("(")[1].split(")")[0]
        with pytest.raises(errors.ServiceUnreachableError, match="404"):
            vlm.connect(url)
        process.kill()
