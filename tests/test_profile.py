from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from profile_files import BUILT_IN, KEYS, problem, table_of, toml, wrong_value
from pydantic import ValidationError

from encoders.base import VisionSpec
from vlm.errors import ProfileError
from vlm.keys import Key, rewrite
from vlm.profile import Profile, list_profiles, load_profile, parse_profile
from vlm.profile_tables import FilesKeys
from vlm.resources import configs_dir

ROOT = Path(__file__).parent.parent
# Choices of ours rather than facts of the model, and notes on the rest.
NO_SOURCE_NEEDED = {"name", "family", "description", "sources", "unproven", "max_new_tokens", "max_context_len"}

BASE = table_of("qwen2-vl-2b")
BASE |= {
    "thinking": False,
    "unproven": [],
    "sampling": {"top_k": 1},
    "cores": {"encoder_cores": "0", "llm_cores": 3, "overlap": False},
}
BASE["encoder"] |= {"outputs": 1, "separators": False, "filter": "bicubic"}
BASE["files"]["bundled"] = False
BASE |= {key: table_of("qwen3-vl-2b")[key] for key in ("chat_template", "control", "tools")}
BASE["reasoning"] = {"start": "<think>", "end": "</think>", "opened": True}
BASE["sampling"] = {
    key.name.split(".")[1]: 1 if key.type == "integer" else 1.0 for key in KEYS if key.name.startswith("sampling.")
}


def changed(changes: dict[str, Any]) -> str:
    """Return the base profile as TOML with some keys set to another value, or left out (None)."""
    table = copy.deepcopy(BASE)
    for dotted, value in changes.items():
        *parents, leaf = [dotted] if dotted in table else dotted.split(".")
        place = table
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[leaf]
        else:
            place[leaf] = value
    return toml(table)


# --- the built-in ones ----------------------------------------------------------------------------------------------


def test_all_built_in_profiles_are_read() -> None:
    assert [profile.name for profile in list_profiles()] == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_fact_of_a_built_in_profile_says_where_it_was_read(name: str) -> None:
    profile = load_profile(name)
    given = table_of(name)
    facts = {key for key in given if not isinstance(given[key], dict)}
    facts |= {f"{table}.{key}" for table in ("encoder", "tags") for key in given[table]}
    assert not facts - NO_SOURCE_NEEDED - set(profile.sources) - set(profile.unproven)


def test_a_profile_gives_the_encoders_their_spec() -> None:
    assert load_profile("qwen2-vl-2b").vision == VisionSpec(
        height=392,
        width_px=392,
        tokens=196,
        width=1536,
        outputs=1,
        fit="pad",
        background=(128, 128, 128),
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


def test_the_default_sampling_is_greedy() -> None:
    assert {profile.sampling.top_k for profile in list_profiles()} == {1}


def test_control_tags_are_image_tags_and_special_tokens_longest_first() -> None:
    tags = load_profile("demo").control_tags
    assert set(tags) == {"<image>", "<img>", "</img>", "<image_pad>", "<|im_start|>", "<|im_end|>"}
    assert [len(tag) for tag in tags] == sorted((len(tag) for tag in tags), reverse=True)


def test_the_readme_documents_every_key_as_it_is() -> None:
    text = (configs_dir() / "README.md").read_text(encoding="utf-8")
    assert text == rewrite(text, Profile), "run: python -m vlm.keys"
    assert all(key.description for key in KEYS)
    assert all(f"| `{key.name}` |" in text for key in KEYS)


def test_a_profile_cannot_be_changed() -> None:
    profile = load_profile("demo")
    with pytest.raises(ValidationError, match="frozen"):
        profile.encoder.tokens = 50  # type: ignore[misc]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_the_base_profile_is_right_and_has_every_key() -> None:
    parse_profile(toml(BASE), "my.toml")
    for key in KEYS:
        changed({key.name: None})


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_wrong_type_is_named(key: Key) -> None:
    wrong = wrong_value(key)
    said = problem(changed({key.name: wrong}))
    assert f"{key.name}: expected" in said
    assert str(wrong) in said or "table" in said


@pytest.mark.parametrize("key", [key for key in KEYS if key.default == "required"], ids=lambda key: key.name)
def test_a_missing_key_is_named(key: Key) -> None:
    assert f"{key.name}: missing" in problem(changed({key.name: None}))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_misspelt_key_is_named_with_the_right_spelling(key: Key) -> None:
    wrong = key.name + "_"
    assert f'{wrong}: unknown key (did you mean "{key.name}"?).' in problem(changed({wrong: 1}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder.tokens": 200}, "encoder.tokens: expected 196, which is 392 x 392 pixels in cells of 28; got 200."),
        (
            {"encoder.separators": True},
            "encoder.tokens: expected 211, which is 392 x 392 pixels in cells of 28 with separators; got 196.",
        ),
        ({"encoder.height": 400}, "encoder.height: expected a multiple of patch x merge = 28; got 400."),
        ({"encoder.std": [1.0, 0.0, 1.0]}, "encoder.std[1]: expected greater than 0; got the number 0.0."),
        ({"encoder.mean": [1.0, 2.0]}, "encoder.mean[2]: missing"),
        ({"encoder.background": [0, 0, 256]}, "encoder.background[2]: expected less than or equal to 255; got the int"),
        ({"encoder.tokens": 196.0}, "encoder.tokens: expected a valid integer; got the number 196.0."),
        ({"encoder.tokens": True}, "encoder.tokens: expected a valid integer; got the boolean true."),
        ({"tokens": 196}, 'tokens: unknown key (did you mean "encoder.tokens"?).'),
        ({"encoder": 3}, "encoder: expected a table; got the integer 3."),
        ({"name": "Qwen 2"}, "name: String should match pattern"),
        (
            {"max_context_len": 700},
            "max_context_len: expected more than encoder.tokens + max_new_tokens = 708; got 700.",
        ),
        ({"min_release": "1.2.9"}, "min_release: expected one of 1.1.4, 1.2.0"),
        ({"system": "a\0b"}, "system: expected text without a NUL character"),
        ({"system": "Mind the <image>"}, "chat_template: A message holds '<image>'"),
        ({"control": ["<|im start|>"]}, "control[0]: expected a tag of two characters or more, without spaces"),
        ({"control": ["<|im_start|>"]}, "control: expected every tag of chat_template; missing <|im_end|>."),
        ({"tags.content": ""}, "tags.content: expected a tag of two characters or more"),
        ({"tags.start": "< img >"}, "tags.start: expected a tag of two characters or more"),
        ({"files.board.llm": ["../*.rkllm"]}, "files.board.llm[0]: expected a path relative to the model directory"),
        ({"files.host.encoder": []}, "files.host.encoder: "),
        ({"unproven": ["encoder.widht"]}, 'unproven: expected names of keys; got "encoder.widht" (did you mean "encod'),
        ({"chat_template": "{% for %}"}, "chat_template: The chat template of qwen2-vl-2b failed (line 1)"),
        (
            {"chat_template": "{{ message.role }}"},
            "chat_template: The chat template of qwen2-vl-2b failed: 'message' is",
        ),
        ({"chat_template": "hello"}, "chat_template: The prompt must hold <image> once an image; expected 2, got 0."),
        ({"chat_template": "<image><image>"}, "chat_template: The prompt must hold <image> once an image; expected 0"),
        ({"chat_template": "{% if images %}<image><image>{% endif %}"}, "chat_template: expected every message's text"),
        ({"chat_template": "{{ ''.__class__.__mro__ }}"}, "chat_template: The chat template of qwen2-vl-2b failed"),
    ],
)
def test_what_contradicts_itself_is_refused_with_both_values(changes: dict[str, Any], said: str) -> None:
    assert said in problem(changed(changes))


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_none_are_refused(value: str) -> None:
    text = toml(BASE).replace("[0.48145466, 0.4578275, 0.40821073]", f"[0.0, {value}, 0.0]")
    assert "encoder.mean[1]: expected a finite number" in problem(text)


def test_a_date_is_no_text() -> None:
    assert "description: expected a valid string; got the date or time 2024-01-02" in problem(
        toml(BASE).replace('"description" = "Qwen2-VL-2B-Instruct at 392 x 392 pixels."', "description = 2024-01-02")
    )


def test_every_problem_is_said_at_once() -> None:
    said = problem(changed({"encoder.tokens": "196", "encoder.width": None, "colour": 1}))
    assert said.count("\n") == 3
    assert all(key in said for key in ("encoder.tokens", "encoder.width", "colour"))


# --- files and names ------------------------------------------------------------------------------------------------


def test_an_unknown_name_gets_a_suggestion_and_the_list() -> None:
    with pytest.raises(
        ProfileError, match=r'no profile "qwen2-vl-2" \(did you mean "qwen2-vl-2b"\?\). Known: .*demo, '
    ):
        load_profile("qwen2-vl-2")


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "profile.toml"
    file.write_text(changed({"name": "mine"}), encoding="utf-8")
    for given in (file, str(file)):
        profile = load_profile(given)
        assert (profile.name, profile.path) == ("mine", file)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b"\xff", "cannot be read"), (b"name = ", "expected TOML"), (b"", "name: missing")],
)
def test_a_file_that_is_no_profile(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "my.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ProfileError, match=said) as caught:
        load_profile(file)
    assert str(file) in str(caught.value)


def test_directories_of_ones_own_come_first(tmp_path: Path) -> None:
    (tmp_path / "demo.toml").write_text(changed({"name": "demo", "description": "Mine."}), encoding="utf-8")
    (tmp_path / "other.toml").write_text(changed({"name": "other"}), encoding="utf-8")
    assert load_profile("demo", directories=[tmp_path]).description == "Mine."
    listed = {profile.name: profile for profile in list_profiles([tmp_path])}
    assert sorted(listed) == sorted([*BUILT_IN, "other"])
    assert listed["demo"].path == tmp_path / "demo.toml"
    (tmp_path / "wrong.toml").write_text(changed({"name": "right"}), encoding="utf-8")
    with pytest.raises(ProfileError, match='name: expected "wrong", as the file is called; got "right"'):
        list_profiles([tmp_path])


def test_model_files_are_found_by_side_and_soc(tmp_path: Path) -> None:
    profile = load_profile("qwen2-vl-2b")
    with pytest.raises(ProfileError, match="has no llm"):
        profile.find_file(tmp_path, "llm", "host")  # a directory is a model of the host's by its config.json
    for name in (
        "config.json",
        "onnx/decoder_model_merged.onnx",
        "onnx/vision_encoder.onnx",
        "v_vision_rk3588.rknn",
        "v_vision_rk3576.rknn",
        "llm_rk3588.rkllm",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert profile.find_file(tmp_path, "encoder", "host") == tmp_path / "onnx/vision_encoder.onnx"
    assert profile.find_file(tmp_path, "llm", "host") == tmp_path
    assert profile.find_file(tmp_path, "encoder", "board", soc="rk3576") == tmp_path / "v_vision_rk3576.rknn"
    assert profile.find_file(tmp_path, "llm", "board") == tmp_path / "llm_rk3588.rkllm"
    with pytest.raises(ProfileError, match=r"several files .*rk3576\.rknn, .*rk3588\.rknn\. Say which with --encoder"):
        profile.find_file(tmp_path, "encoder", "board")


def test_model_files_that_are_not_there(tmp_path: Path) -> None:
    profile = load_profile("qwen2-vl-2b")
    with pytest.raises(ProfileError, match=r"has no llm for qwen2-vl-2b; looked for \*rk3588\*\.rkllm, \*\.rkllm"):
        profile.find_file(tmp_path, "llm", "board", soc="rk3588")
    with pytest.raises(ProfileError, match=r"looked for \*vision\*\.rknn, \*\.rknn\. Say"):  # of any SoC
        profile.find_file(tmp_path, "encoder", "board")
    with pytest.raises(ProfileError, match=r"no model directory .*`vlm pull qwen2-vl-2b` fetches it\..*VLM_MODELS_DIR"):
        profile.find_file(tmp_path / "none", "llm", "host")
    with pytest.raises(ProfileError, match=r"names no files for the board; add \[files\.board\]"):
        load_profile(ROOT / "configs/demo.toml").model_copy(update={"files": FilesKeys(bundled=True)}).find_file(
            tmp_path, "llm", "board"
        )


# --- import and installation ----------------------------------------------------------------------------------------


def run(code: str, path: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=path,
        env={"PYTHONPATH": str(path), **environment},
    )
    return done.stdout + done.stderr


def test_reading_profiles_needs_no_numpy_and_no_jinja_at_import() -> None:
    code = "import sys, vlm.profile; print({'numpy', 'jinja2', 'ctypes'} & set(sys.modules))"
    assert run(code, ROOT) == "set()\n"


def test_an_installed_package_finds_its_data_and_nothing_else(tmp_path: Path) -> None:
    for package in ("vlm", "encoders"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    code = "from vlm.resources import configs_dir, demo_dir; print(configs_dir()); print(demo_dir())"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/demo.toml").touch()  # somebody else's directory beside the package
    assert f"The built-in profiles are missing; looked in {tmp_path}/vlm/data/configs. Reins" in run(code, tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "vlm/data/configs")
    assert f"The demo model is missing; looked in {tmp_path}/vlm/data/demo. Reinstall" in run(code, tmp_path)
    (tmp_path / "vlm/data/demo").mkdir()
    (tmp_path / "vlm/data/demo/config.json").touch()
    assert run(code, tmp_path).split() == [f"{tmp_path}/vlm/data/configs", f"{tmp_path}/vlm/data/demo"]
