"""Embeddings, thoughts and tools through the front door: the demo model, and profiles before the stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sample_pictures import PICTURES, ROOT

import vlm
from vlm.errors import OptionError, PromptError
from vlm.options import Pooling

sys.path.insert(0, str(ROOT / "tests" / "native"))
from standin import StandIn, build

STAR, LIGHT, HEARTS = PICTURES / "blue-star.jpg", PICTURES / "traffic-light.jpg", PICTURES / "two-hearts.png"
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def demo() -> Iterator[vlm.VLM]:
    with vlm.load("demo") as model:
        yield model


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("text", ["", "What is it?"])
def test_equal_pictures_are_nearer_than_different_ones(demo: vlm.VLM, pooling: Pooling, text: str) -> None:
    star, again, light, hearts = (
        demo.embed(picture, text, pooling=pooling) for picture in (STAR, demo.encode(STAR.read_bytes()), LIGHT, HEARTS)
    )
    for made in (star, light):
        assert (made.dtype, made.shape) == (np.float32, (demo.profile.encoder.width,))
        assert np.linalg.norm(made) == pytest.approx(1, abs=1e-5)
    assert star @ again > 0.99999
    assert max(star @ light, star @ hearts, light @ hearts) < (0.999 if text else 0.95)


def test_a_picture_and_another_of_its_kind(demo: vlm.VLM) -> None:
    """A small change of a picture makes a small change of its embedding."""
    from PIL import Image

    star, light = (np.asarray(Image.open(path).convert("RGB")) for path in (STAR, LIGHT))
    darker = (star * 0.9).astype(np.uint8)
    made = {name: demo.embed(picture) for name, picture in (("star", star), ("darker", darker), ("light", light))}
    assert made["star"] @ made["darker"] > made["star"] @ made["light"]


def test_texts(demo: vlm.VLM) -> None:
    one, same, other = (demo.embed([], text) for text in ("How many stars?", "How many stars?", "What is red?"))
    assert one @ same > 0.99999 > one @ other
    with pytest.raises(OptionError, match="pooling is one of mean, last; got 'max'"):
        demo.embed([], "a", pooling="max")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="is empty"):
        demo.embed([])


def test_the_command() -> None:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "embed", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("a star", "-i", STAR, "-m", "demo", "--pooling", "last")
    assert done.returncode == 0, done.stderr
    assert np.linalg.norm(json.loads(done.stdout)) == pytest.approx(1, abs=1e-5)
    assert run("-m", "demo").returncode == OptionError.exit_code
    assert "takes no LoRA adapters" in run("a", "-m", "demo", "--lora", "tone.rkllm").stderr


def opened(tmp_path: Path, profile: str, release: str = "1.3.0") -> vlm.VLM:
    llm = tmp_path / "model.rkllm"
    llm.touch()
    standin = StandIn(build(release))
    standin.reset()
    return vlm.load(profile, llm=llm, library=standin.path, pictures=False)


def test_thoughts_are_no_part_of_the_answer(tmp_path: Path) -> None:
    with opened(tmp_path, "qwen3.5-0.8b") as model:
        pieces = list(model.stream([], "[think=It is red.][say=Red.]", thinking=True))
        assert {type(piece) for piece in pieces} == {str, vlm.Thought}
        answer = model.describe([], "[think=It is red.][say=Red.]", thinking=True)
        assert (answer.text, answer.reasoning) == ("Red.", "It is red.\n")
        plain = model.describe([], "[say=Red.]")
        assert (plain.text, plain.reasoning) == ("Red.", "")
        assert "<think>\n\n</think>" in str(StandIn(build("1.3.0")).seen("run")[-1]["prompt"])
    with opened(tmp_path, "qwen3-vl-2b") as model, pytest.raises(OptionError, match="has no thinking mode"):
        model.describe([], "a", thinking=True)


def test_tools_are_called_and_answered(tmp_path: Path) -> None:
    with opened(tmp_path, "qwen3-vl-2b") as model:
        question = {"role": "user", "content": "[call=weather] Is it raining?"}
        first = model.chat([question], tools=[WEATHER])
        assert (first.text, first.tool_calls) == ("", (vlm.ToolCall("weather", {"place": "Oslo"}),))
        said = {"role": "assistant", "content": first.text, "calls": first.tool_calls}
        second = model.chat([question, said, {"role": "tool", "content": "rain"}], tools=[WEATHER])
        assert (second.text, second.tool_calls) == ("It is rain.", ())
        malformed = model.chat([{"role": "user", "content": "[badcall]"}], tools=[WEATHER])
        assert malformed.text == 'Well: <tool_call>\n{"name": }\n</tool_call>'
        assert model.describe([], "[call=weather]").text.startswith("<tool_call>")  # nobody offered any
        with pytest.raises(PromptError, match="the one before it calls none"):
            model.chat([question, {"role": "tool", "content": "rain"}])


def test_a_model_without_tools(demo: vlm.VLM) -> None:
    with pytest.raises(OptionError, match="knows no tools"):
        demo.chat([{"role": "user", "content": "a"}], tools=[WEATHER])


def test_the_command_line_keeps_thoughts_apart(tmp_path: Path) -> None:
    llm = tmp_path / "model.rkllm"
    llm.touch()
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "chat", "--no-pictures"]
    command += ["-m", "qwen3.5-0.8b", "--llm", str(llm), "--library", str(build("1.3.0")), "--thinking"]
    done = subprocess.run(
        command, input="[think=It is red.][say=Red.]\n/show\n", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "Red.\n")
    assert "It is red." in done.stderr
    assert done.stderr.count("It is red.") == 2  # as it was thought, and in the question that is shown
