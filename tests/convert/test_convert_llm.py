"""`vlm convert llm` on a stand-in with the signatures of rkllm-toolkit: every argument, every rule, every failure."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_words import tokenizer

from vlm import errors
from vlm.convert.llm import LlmJob, LlmOptions, convert_llm, find_toolkit, plan
from vlm.convert.llm_job import LOADING, TARGETS

STANDIN = Path(__file__).with_name("rkllm_standin.py")
TORCH = """
import os, types
tensor = list
cuda = types.SimpleNamespace(is_available=lambda: os.environ.get("RKLLM_STANDIN_GPU") == "1")
"""
Run = Callable[..., tuple[int, str, str]]


def environment(folder: Path) -> tuple[Path, Path]:
    """An environment that sees the packages of this one: its Python, and its own packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next((folder / "lib").glob("python3*")) / "site-packages"
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python", packages


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the stand-in."""
    interpreter, packages = environment(tmp_path_factory.mktemp("toolkit") / "made")
    (packages / "rkllm").mkdir()
    (packages / "rkllm" / "__init__.py").touch()
    (packages / "rkllm" / "api.py").write_text(STANDIN.read_text())
    (packages / "torch.py").write_text(TORCH)
    about = packages / "rkllm_toolkit-1.3.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rkllm-toolkit\nVersion: 1.3.0\n")
    return interpreter


@pytest.fixture(autouse=True)
def _log(clean_settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RKLLM_STANDIN_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("VLM_CONVERTER_DIR", str(tmp_path / "no-converter"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's directory, and beside it a file of each kind that an option names."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2"}')
    tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    (tmp_path / "custom.json").write_text('{"BLOCKNAME": "Layer"}')
    (tmp_path / "gdq.qparams").write_text("parameters")
    (tmp_path / "data.json").write_text(json.dumps([{"input": "a", "target": "b"}, {"input_embed": [], "target": "c"}]))
    (tmp_path / "words.gguf").write_bytes(b"GGUF")
    (tmp_path / "older.rkllm").write_bytes(b"RKLLM older")
    return tmp_path / "model"


def seen(tmp_path: Path) -> list[dict[str, Any]]:
    log = tmp_path / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


# An option, and something other than its default.
EVERY: dict[str, Any] = {
    "model_lora": "lora",
    "device": "cuda",
    "dtype": "bfloat16",
    "custom_config": "custom.json",
    "load_weight": False,
    "target_platform": "rk3576",
    "do_quantization": True,
    "optimization_level": 0,
    "quantized_dtype": "w4a16_g64",
    "quantized_algorithm": "gdq",
    "num_npu_core": 1,
    "extra_qparams": "gdq.qparams",
    "dataset": "data.json",
    "hybrid_rate": 0.25,
    "max_context": 8192,
}


def words_of(options: dict[str, Any], folder: Path) -> list[str]:
    """The options as they are typed."""
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(folder / value if (folder / str(value)).exists() else value)]
    return words


def test_every_argument_arrives(
    model: Path, python: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_STANDIN_GPU", "1")
    assert EVERY.keys() == LlmOptions.model_fields.keys()
    out = tmp_path / "made" / "words.rkllm"
    asked = ["--chat", "<user>hello", "--chat", "<user>again"]
    words = ["convert", "llm", model, "--out", out, "--python", python, *words_of(EVERY, tmp_path), *asked]
    code, told, said = run(*words)
    assert (code, said) == (0, "")
    load, build, *chats, export = seen(tmp_path)
    paths = {name: str(tmp_path / value) for name, value in EVERY.items() if (tmp_path / str(value)).exists()}
    arrived = {**EVERY, **paths}
    assert load == {"call": "load_huggingface", "model": str(model), **{name: arrived[name] for name in LOADING}}
    assert build == {"call": "build", **{name: value for name, value in arrived.items() if name not in LOADING}}
    assert [(chat["call"], chat["messages"]) for chat in chats] == [("chat_model", text) for text in asked[1::2]]
    assert chats[0]["args"]["top_k"] == 1
    assert export["call"] == "export_rkllm"
    assert out.read_bytes() == b"RKLLM exported"
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    assert "<user>again\n-> heard <user>again" in told
    assert f"{out}: 0.00 MB, by rkllm-toolkit 1.3.0" in told


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_not_given_fits_the_soc(target: str, model: Path, python: Path, tmp_path: Path) -> None:
    options = LlmOptions(target_platform=target)
    done = convert_llm(LlmJob(model, tmp_path / "a.rkllm", options), python)
    assert (done.toolkit, done.replies, done.perplexity) == ("1.3.0", (), None)
    build = seen(tmp_path)[1]
    assert (build["quantized_dtype"], build["num_npu_core"]) == (TARGETS[target].dtypes[0], TARGETS[target].cores)
    for dtype in TARGETS[target].dtypes:
        for cores in range(1, TARGETS[target].cores + 1):
            good = LlmOptions(target_platform=target, quantized_dtype=dtype, num_npu_core=cores, max_context=16384)
            assert plan(LlmJob(model, tmp_path / "a.rkllm", good))


def test_paths_are_those_of_where_one_stands(
    model: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toolkit").symlink_to(python.parent.parent)
    options = LlmOptions(dataset=Path("data.json"), model_lora=Path("lora"))
    done = convert_llm(LlmJob(Path(model.name), Path("made") / "a.rkllm", options), Path("toolkit/bin/python"))
    assert done.file.read_bytes() == b"RKLLM exported"
    load, build = seen(tmp_path)[:2]
    assert [load["model"], load["model_lora"], build["dataset"]] == [
        str(tmp_path / name) for name in ("model", "lora", "data.json")
    ]


def test_without_quantisation_nothing_is_said_of_how(model: Path, tmp_path: Path) -> None:
    _, build, _ = plan(LlmJob(model, tmp_path / "a.rkllm", LlmOptions(do_quantization=False)))
    assert set(build.named) == {
        "do_quantization", "optimization_level", "target_platform", "num_npu_core", "max_context",
    }  # fmt: skip


def test_gguf_and_gptq(model: Path, python: Path, tmp_path: Path) -> None:
    convert_llm(LlmJob(tmp_path / "words.gguf", tmp_path / "a.rkllm"), python)
    assert seen(tmp_path)[0] == {"call": "load_gguf", "model": str(tmp_path / "words.gguf")}
    (model / "config.json").write_text('{"quantization_config": {"quant_method": "gptq", "bits": 8}}')
    convert_llm(LlmJob(model, tmp_path / "a.rkllm"), python)
    assert seen(tmp_path)[3]["call"] == "load_huggingface"


def test_an_older_file_is_brought_up_to_date(model: Path, python: Path, tmp_path: Path, run: Run) -> None:
    older = tmp_path / "older.rkllm"
    code, told, _ = run("convert", "llm", older, "--out", tmp_path / "new.rkllm", "--python", python)
    assert (code, told.startswith(str(tmp_path / "new.rkllm"))) == (0, True)
    assert (tmp_path / "new.rkllm").read_bytes() == b"RKLLM older updated"
    assert older.read_bytes() == b"RKLLM older"


def test_perplexity_counts_each_token_by_those_before(model: Path, python: Path, tmp_path: Path, run: Run) -> None:
    """Of 1030 tokens, in three windows; the stand-in finds a token three times as likely where it is there already."""
    words = ["this", "this", "that"] * 343 + ["that"]
    (tmp_path / "text.txt").write_text(" ".join(words))
    command = ["convert", "llm", model, "--out", tmp_path / "a.rkllm", "--python", python]
    code, told, _ = run(*command, "--text", tmp_path / "text.txt")
    assert code == 0
    assert [call["shape"] for call in seen(tmp_path) if call["call"] == "get_logits"] == [[1, 512], [1, 512], [1, 6]]
    pairs = [(words[at - 1], words[at]) for at in range(1, len(words)) if at % 512]
    losses = [math.log(302 / (3 if before == after else 1)) for before, after in pairs]
    assert f"{math.exp(sum(losses) / len(losses)):.3f}" in told


def test_a_dry_run_prints_the_plan_and_needs_no_toolkit(model: Path, tmp_path: Path, run: Run) -> None:
    words = ["convert", "llm", model, "--out", tmp_path / "a.rkllm", "--dry-run", "--target-platform", "rv1126b"]
    code, told, said = run(*words)
    assert code == 0
    load, build, export = told.splitlines()
    assert load.startswith(f"llm.load_huggingface(model='{model}', device='cpu'")
    assert "quantized_dtype='w4a16', num_npu_core=1" in build
    assert export == f"llm.export_rkllm('{tmp_path / 'a.rkllm'}')"
    assert "rv1126b is unproven" in said
    assert not (tmp_path / "a.rkllm").exists()


# --- what is refused before anything is loaded: one rule each ---------------------------------------------------------

GPU: dict[str, Any] = {"target_platform": "rk3576", "device": "cuda"}
RULES: dict[str, tuple[dict[str, Any], str]] = {
    "target": ({"target_platform": "rk3568"}, r"target_platform 'rk3568' is unknown.*; known: rk3588, rk3576, rk3562"),
    "dtype on rk3588": ({"quantized_dtype": "w4a16"}, "rk3588 has no quantized_dtype 'w4a16'; it has w8a8, w8a8_g128"),
    "dtype on rk3576": (
        {"target_platform": "rk3576", "quantized_dtype": "w8a8_g128"},
        "rk3576 has no quantized_dtype 'w8a8_g128'; it has w4a16, w4a16_g32, w4a16_g64, w4a16_g128, w8a8",
    ),
    "dtype on rk3562": (
        {"target_platform": "rk3562", "quantized_dtype": "w4a16"},
        "rk3562 has no quantized_dtype 'w4a16'; it has w8a8, w4a16_g32, w4a16_g64, w4a16_g128, w4a8_g32",
    ),
    "dtype on rv1126b": (
        {"target_platform": "rv1126b", "quantized_dtype": "w4a8_g32"},
        "rv1126b has no quantized_dtype 'w4a8_g32'",
    ),
    "algorithm": ({"quantized_algorithm": "awq"}, "quantized_algorithm 'awq' is unknown; known: normal, grq, gdq"),
    "grq on w8a8": (
        {**GPU, "quantized_dtype": "w8a8", "quantized_algorithm": "grq"},
        "quantized_algorithm grq is for w4a16 only; quantized_dtype is w8a8",
    ),
    "gdq on rk3588": (
        {"device": "cuda", "quantized_algorithm": "gdq"},
        "quantized_algorithm gdq is for w4a16 only; quantized_dtype is w8a8",
    ),
    "gdq on a CPU": (
        {"target_platform": "rk3576", "quantized_algorithm": "gdq"},
        "quantized_algorithm gdq needs a GPU: device cuda; it is cpu",
    ),
    "no core": ({"num_npu_core": 0}, "num_npu_core for rk3588 is 1 to 3; got 0"),
    "cores of rk3588": ({"num_npu_core": 4}, "num_npu_core for rk3588 is 1 to 3; got 4"),
    "cores of rk3576": ({"target_platform": "rk3576", "num_npu_core": 3}, "rk3576 is 1 to 2; got 3"),
    "cores of rk3562": ({"target_platform": "rk3562", "num_npu_core": 2}, "rk3562 is 1; got 2"),
    "cores of rv1126b": ({"target_platform": "rv1126b", "num_npu_core": 2}, "rv1126b is 1; got 2"),
    "long context": ({"max_context": 16416}, "max_context is at most 16384 and at least 32; got 16416"),
    "no context": ({"max_context": 0}, "max_context is at most 16384 and at least 32; got 0"),
    "odd context": ({"max_context": 4100}, "max_context is a multiple of 32; got 4100, take 4128"),
    "hybrid rate 1": ({"hybrid_rate": 1.0}, r"hybrid_rate is at least 0 and below 1; got 1\.0"),
    "hybrid rate below 0": ({"hybrid_rate": -0.1}, r"hybrid_rate is at least 0 and below 1; got -0\.1"),
    "level": ({"optimization_level": 2}, "optimization_level 2 is unknown; known: 0, 1"),
    "device": ({"device": "npu"}, "device 'npu' is unknown"),
    "dtype": ({"dtype": "fp16"}, "dtype 'fp16' is unknown.*; known: float32, float16, bfloat16"),
    "lora": ({"model_lora": "model"}, r"model_lora .*model is no directory of a LoRA adapter"),
    "custom config": ({"custom_config": "data.json"}, r"custom_config .*data\.json is no file with a JSON object"),
    "qparams": ({"extra_qparams": "gone"}, "no file gone, which was given as extra_qparams"),
    "dataset": ({"dataset": "custom.json"}, r"dataset .*custom\.json is no file with a JSON list of samples"),
    "sample": ({"dataset": "wrong.json"}, r"Sample 2 of dataset .*wrong\.json is not \{input, target\}"),
    "unquantised": (
        {"do_quantization": False, "quantized_dtype": "w8a8", "hybrid_rate": 0.5},
        "Without do_quantization there is nothing for quantized_dtype, hybrid_rate to say",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_broken_once(rule: str, model: Path, python: Path, tmp_path: Path, run: Run) -> None:
    options, said = RULES[rule]
    (tmp_path / "wrong.json").write_text('[{"input": "a", "target": "b"}, {"prompt": "a"}]')
    out = tmp_path / "made" / "a.rkllm"
    words = words_of(options, tmp_path)
    code, told, problem = run("convert", "llm", model, "--out", out, "--python", python, *words)
    assert (code, told) == (errors.OptionError.exit_code, "")
    assert problem.count("\n") == 1
    assert not out.parent.exists()
    assert seen(tmp_path) == []
    paths = {name: tmp_path / str(value) for name, value in options.items() if (tmp_path / str(value)).exists()}
    with pytest.raises(errors.OptionError, match=rf"^[^.]*{said}[^.]*(\.json[^.]*)?\.$"):  # and nothing else
        plan(LlmJob(model, out, LlmOptions(**{**options, **paths})))


SOURCES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"source": "gone"}, r"gone is no directory of a model \(it has no config.json\)"),
    "no file": ({"source": "gone.gguf"}, r"There is no file .*gone\.gguf"),
    "out": ({"out": "a.rknn"}, r"The file to write ends in \.rkllm; got .*a\.rknn"),
    "itself": ({"source": "older.rkllm", "out": "older.rkllm"}, "The file to write is the one to read"),
    "options of an update": (
        {"source": "older.rkllm", "options": LlmOptions(max_context=64)},
        r"A \.rkllm file is only brought up to date",
    ),
    "options of a gguf": (
        {"source": "words.gguf", "options": LlmOptions(device="cuda", load_weight=False)},
        "load_gguf takes the file alone; device, load_weight is for",
    ),
    "gptq of 4 bits": ({"source": "gptq"}, "takes GPTQ models of 8 bits .* has 4"),
    "no text": ({"text": Path("gone")}, "There is no text file gone"),
    "a text for a gguf": ({"source": "words.gguf", "text": STANDIN}, r"Perplexity needs the model's tokenizer\.json"),
    "an empty text": ({"text": "model/empty"}, "fewer than two tokens"),
}


@pytest.mark.parametrize("mistake", SOURCES)
def test_files_that_do_not_fit(mistake: str, model: Path, tmp_path: Path) -> None:
    job, said = SOURCES[mistake]
    (tmp_path / "gptq").mkdir()
    (tmp_path / "gptq" / "config.json").write_text('{"quantization_config": {"quant_method": "gptq", "bits": 4}}')
    (model / "empty").touch()
    given = {name: tmp_path / value if isinstance(value, str) else value for name, value in job.items()}
    with pytest.raises(errors.OptionError, match=said):
        plan(LlmJob(**{"source": model, "out": tmp_path / "a.rkllm", **given}))


def test_all_that_is_wrong_is_said_at_once(model: Path, tmp_path: Path) -> None:
    options = LlmOptions(target_platform="rk3576", num_npu_core=3, max_context=100, dtype="int8")
    with pytest.raises(errors.OptionError, match=r"num_npu_core.*max_context.*dtype"):
        plan(LlmJob(model, tmp_path / "a.rkllm", options))


# --- the toolkit ------------------------------------------------------------------------------------------------------


def test_without_the_toolkit(model: Path, tmp_path: Path, run: Run) -> None:
    """Neither in the Python that is named, nor where none is and there is no converter either."""
    command = ["convert", "llm", model, "--out", tmp_path / "a.rkllm"]
    for more in ([], ["--python", environment(tmp_path / "bare")[0]]):
        code, told, said = run(*command, *more)
        assert (code, told) == (errors.ConverterError.exit_code, "")
        for word in ("not on PyPI", "airockchip/rknn-llm", "rkllm-toolkit/packages", "--python"):
            assert word in said


@pytest.mark.parametrize("program", ["gone", "/bin/false", "/bin/ls"])
def test_what_is_no_python(program: str) -> None:
    with pytest.raises(errors.OptionError, match="cannot be run as a Python"):
        find_toolkit(Path(program))


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("load_huggingface", "load_huggingface failed with code -1"),
        ("build", "build failed with code -1"),
        ("raise", "says: RuntimeError: CUDA out of memory"),
        ("export_rkllm", "export_rkllm failed with code -1"),
        ("empty", r"wrote no \.rkllm file"),
        ("silent", "get_logits gave nothing"),
        ("old", r"build of this release of rkllm-toolkit is build\(do_quantization.*unexpected keyword"),
    ],
)
def test_what_the_toolkit_cannot_do(
    mode: str, said: str, model: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_STANDIN", mode)
    (tmp_path / "text.txt").write_text("this and that")
    out = tmp_path / "made" / "a.rkllm"
    with pytest.raises(errors.ConversionError, match=said) as caught:
        convert_llm(LlmJob(model, out, text=tmp_path / "text.txt"), python)
    log = out.with_suffix(".log")
    if mode not in ("empty", "old"):
        assert "what the toolkit prints" in log.read_text()
    if mode != "empty":
        assert str(log) in str(caught.value)
    assert (mode == "old") == (seen(tmp_path) == [])  # known before the long part
    assert {file.suffix for file in out.parent.iterdir()} <= {".log"}


def test_a_gpu_that_is_not_there(model: Path, python: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.ConversionError, match=r"device is cuda, but the PyTorch of .* sees no GPU"):
        convert_llm(LlmJob(model, tmp_path / "a.rkllm", LlmOptions(device="cuda")), python)
    assert seen(tmp_path) == []


def test_a_file_that_the_toolkit_names_otherwise(
    model: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_STANDIN", "suffix")
    done = convert_llm(LlmJob(model, tmp_path / "a.rkllm"), python)
    assert done.file.read_bytes() == b"RKLLM exported"
    monkeypatch.setenv("RKLLM_STANDIN", "unchanged")
    with pytest.raises(errors.ConversionError, match=r"wrote no \.rkllm file"):
        convert_llm(LlmJob(tmp_path / "older.rkllm", tmp_path / "b.rkllm"), python)


def test_what_the_toolkit_writes_beside_the_model_is_kept(
    model: Path, python: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_STANDIN", "lora")
    words = ["--model-lora", tmp_path / "lora", "--python", python]
    code, told, _ = run("convert", "llm", model, "--out", tmp_path / "made" / "calm.rkllm", *words)
    assert code == 0
    written = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}
    assert written == {"calm.rkllm": b"RKLLM exported", "calm_lora.rkllm": b"RKLLM adapter"}
    assert "calm_lora.rkllm: 0.00 MB" in told


def test_an_installed_toolkit_that_does_not_work(model: Path, python: Path, tmp_path: Path) -> None:
    other = tmp_path / "broken"
    interpreter, packages = environment(other)
    shutil.copytree(next((python.parents[1] / "lib").glob("python3*")) / "site-packages" / "rkllm", packages / "rkllm")
    (packages / "rkllm" / "api.py").write_text("import datasets_of_the_toolkit")
    with pytest.raises(errors.ConversionError, match="No module named 'datasets_of_the_toolkit'"):
        convert_llm(LlmJob(model, tmp_path / "a.rkllm"), interpreter)
