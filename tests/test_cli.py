"""The command line, run as a user runs it: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sample_pictures import PICTURES, ROOT, TRUTH

from vlm import errors

STAR, LIGHT = PICTURES / "blue-star.jpg", PICTURES / "traffic-light.jpg"


def vlm(*words: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, input=stdin or b"", capture_output=True, timeout=120, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(autouse=True)
def _settings(clean_settings: None) -> None:
    """Every command here starts without the machine's own settings."""


def test_describe_prints_the_answer_and_says_which_model() -> None:
    done = vlm("describe", LIGHT)
    assert (done.returncode, done.stdout) == (0, TRUTH[LIGHT.name] + "\n")
    assert len(done.stderr.splitlines()) == 1
    assert "demo" in done.stderr


def test_a_named_model_needs_no_saying() -> None:
    done = vlm("describe", STAR, "What colour is the star?", "--model", "demo")
    assert (done.returncode, done.stdout, done.stderr) == (0, "The star is blue.\n", "")


def test_a_picture_from_standard_input() -> None:
    done = vlm("describe", "-", "-m", "demo", stdin=STAR.read_bytes())
    assert (done.returncode, done.stdout) == (0, TRUTH[STAR.name] + "\n")


def test_several_pictures() -> None:
    done = vlm("describe", STAR, "Which picture has more shapes?", "--image", LIGHT, "-m", "demo")
    assert done.stdout == "The second picture has more shapes, three against one.\n"


def test_json_has_the_figures() -> None:
    done = vlm("describe", STAR, "--json", "-m", "demo")
    told = json.loads(done.stdout)
    assert told.pop("answer") == TRUTH[STAR.name]
    assert set(told) == {
        "model", "finish_reason", "encode_ms", "ttft_ms", "prompt_tokens", "tokens", "tokens_per_second",
        "queue_ms", "reasoning",
    }  # fmt: skip
    silent = json.loads(vlm("describe", STAR, "--json", "-m", "demo", "--release", "1.2.0").stdout)
    assert silent["tokens"] is None


def test_options_of_the_sampling_reach_the_model() -> None:
    done = vlm("describe", LIGHT, "-m", "demo", "--max-new-tokens", 3, "--json")
    assert json.loads(done.stdout)["finish_reason"] == "length"
    stopped = vlm("describe", LIGHT, "--stop", "nowhere", "--stop", " large yellow").stdout
    assert stopped == "There is a large red circle at the top, a\n"
    seeded = [vlm("describe", LIGHT, "--top-k", 0, "--temperature", 8, "--seed", 4).stdout for _ in range(2)]
    assert seeded[0] == seeded[1] != TRUTH[LIGHT.name] + "\n"


def test_files_of_ones_own() -> None:
    place = ROOT / "samples" / "demo" / "model"
    done = vlm("describe", STAR, "--encoder", place / "vision_encoder.onnx", "--llm", place, "--model", "demo")
    assert done.stdout == TRUTH[STAR.name] + "\n"


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["describe", "gone.jpg"], errors.ImageError, "gone.jpg"),
        (["describe", __file__], errors.ImageError, "picture"),
        (["describe", PICTURES], errors.ImageError, "directory"),
        (["describe", STAR, "-m", "dmeo"], errors.ProfileError, "did you mean"),
        (["describe", STAR, "-m", "qwen2-vl-2b"], errors.ProfileError, "qwen2-vl-2b"),
        (["describe", STAR, "-m", PICTURES], errors.ProfileError, "pictures has no profile.toml"),
        (["describe", STAR, "--library", "gone.so"], errors.OptionError, "is for ONNX Runtime"),
        (["describe", STAR, "--encoder", "gone.onnx"], errors.EncoderFileError, "gone.onnx"),
        (["describe", STAR, "--encoder", __file__], errors.EncoderFileError, "test_cli.py"),
        (["describe", STAR, "--llm", "gone"], errors.ModelLoadError, "gone"),
        (["describe", STAR, "--release", "9.9"], errors.UnknownReleaseError, "1.3.0"),
        (["describe", STAR, "--top-p", "7"], errors.OptionError, "top_p"),
        (["describe", STAR, "--release", "1.1.4", "-i", STAR], errors.NotSupportedByRuntime, "1.2.1"),
    ],
)
def test_a_users_mistake_is_one_line_and_an_exit_code(
    words: list[object], kind: type[errors.RkvlmError], said: str
) -> None:
    done = vlm(*words)
    assert done.returncode == kind.exit_code
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rkllm_without_its_library_says_where_it_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "model.rkllm").write_bytes(b"RKLLM")
    done = vlm("describe", STAR, "--llm", tmp_path / "model.rkllm")
    assert done.returncode == errors.LibraryNotFoundError.exit_code
    assert "librkllmrt.so" in done.stderr


def test_a_wrong_word_is_a_usage_error() -> None:
    for words in (["describe"], ["descibe"], ["describe", STAR, "--top-k", "many"], ["describe", STAR, "--nope"]):
        done = vlm(*words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_an_answer_nobody_reads_is_no_traceback() -> None:
    command = f"{sys.executable} -c 'from vlm.cli import main; main()' describe {LIGHT} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["describe", STAR, "-m", "demo"],
        ["describe", STAR, "-m", "demo", "--json"],
        ["embed", "a", "-m", "demo"],
        ["npu"],
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(words: list[object], unbuffered: str) -> None:
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", *map(str, words)]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=120, check=False
        )
    assert (done.returncode, done.stderr) == (1, "vlm: The output cannot be written: No space left on device.\n")


def test_models_lists_the_profiles() -> None:
    done = vlm("models")
    assert done.returncode == 0
    for name in ("demo", "qwen2-vl-2b", "qwen2.5-vl-3b", "internvl2-1b", "janus-pro-1b"):
        assert name in done.stdout
    rows = json.loads(vlm("models", "--json").stdout)
    assert [row["name"] for row in rows if row["encoder"] and row["llm"]] == ["demo"]
    # What could not be read anywhere is said in words, each key by its name.
    unproven = {row["name"]: row["unproven"] for row in rows}
    assert (unproven["demo"], unproven["internvl2-2b"]) == ([], ["control", "encoder.width"])
    assert "Unproven" in done.stdout
    assert "no files" in done.stdout
    assert "  internvl2-2b: control, encoder.width\n" in done.stdout
    assert "  demo:" not in done.stdout


def test_models_says_all_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = vlm("models", "qwen3-vl-2b")
    assert done.returncode == 0
    said = {line[:19].strip(): line[19:].strip() for line in done.stdout.splitlines()}
    assert said["a picture"] == "448 x 448 pixels, 196 tokens"
    assert "looked for vision_encoder.onnx" in said["encoder"]
    assert "ONNX files, config.json among them, *{soc}*.rkllm" in said["language model"]
    assert "with overlap" in said["on rk3588"]
    assert "in turn" in said["on rv1126b"]
    assert "encoder.outputs" in said["unproven"]
    assert "benchmark.md" in said["encoder.tokens"]
    assert str(ROOT / "samples") in vlm("models", "demo").stdout
    assert json.loads(vlm("models", "demo", "--json").stdout)[0]["tokens"] == 49
    done = vlm("models", "nothing-2b")
    assert (done.returncode, "There is no profile" in done.stderr) == (5, True)


def test_version_and_help() -> None:
    assert vlm("--version").stdout.startswith("vlm ")
    assert "--temperature" in vlm("describe", "--help").stdout
    assert vlm().returncode in (0, 2)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["describe", "--help"], ["chat", "--help"], ["models", "--help"], ["convert", "vision", "--help"]],
)
def test_help_is_light(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from vlm.cli import main\n"
        f"sys.argv = ['vlm', *{words}]\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'numpy', 'onnxruntime', 'cv2', 'PIL', 'tokenizers'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "heavy: []" in done.stderr
