"""Our pixels and prompts against the authors' own, as `python tests/parity/table.py` prints them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compare import pixel_differences, prompt_state
from profile_files import BUILT_IN
from recorded import PROCESSORS, TEMPLATES

from vlm.profile import Profile, load_profile

TABLE = Path(__file__).with_name("table.py")
ONE_EACH = {
    "internvl": "internvl3-1b",
    "janus": "janus-pro-1b",
    "qwen2-vl": "qwen2-vl-2b",
    "qwen2.5-vl": "qwen2.5-vl-3b",
    "qwen3-vl": "qwen3-vl-2b",
    "qwen3.5": "qwen3.5-0.8b",
    "smolvlm": "smolvlm-256m",
}


def seen(profile: Profile) -> dict[str, object]:
    """What decides the pixels that the encoder sees."""
    return profile.encoder.model_dump(include={"height", "width_px", "fit", "filter", "background", "mean", "std"})


@pytest.mark.parametrize("family", PROCESSORS)
def test_pixels_are_the_authors_where_the_policy_is_the_same(family: str) -> None:
    found = pixel_differences(load_profile(ONE_EACH[family]))
    same = [each for each in found if each.way.same]
    assert same
    for each in same:
        assert each.pictures >= 7
        assert each.mean < 0.01  # far under the bound of 1: what is the same is the same to the last bit or so
    for each in found:
        assert each.way.same or each.mean > 0, "a difference that is named must be there"


def test_one_profile_speaks_for_its_family() -> None:
    for profile in map(load_profile, BUILT_IN):
        if profile.family in PROCESSORS:
            assert seen(profile) == seen(load_profile(ONE_EACH[profile.family])), profile.name


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)},
        {"fit": "pad"},
        {"fit": "crop"},
    ],
    ids=["CLIP's mean and std", "padded", "cropped"],
)
def test_a_profile_with_wrong_pixels_is_found_out(changes: dict[str, object]) -> None:
    profile = load_profile("internvl3-1b")
    wrong = profile.model_copy(update={"encoder": profile.encoder.model_copy(update=changes)})
    assert any(found.wrong for found in pixel_differences(wrong))


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "demo"])
def test_prompts_are_as_recorded(name: str) -> None:
    read = [profile for template in TEMPLATES.values() for profile in template.read]
    assert prompt_state(load_profile(name), None).word == ("yes" if name in read else "no template readable")


def test_prompts_are_compared_with_published_files(tmp_path: Path) -> None:
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    profile = load_profile("smolvlm-256m")
    file = tmp_path / "smolvlm-256m" / "chat_template.jinja"
    file.parent.mkdir()
    file.write_text(DEFAULT_CHAT_TEMPLATE, encoding="utf-8")
    assert prompt_state(profile, tmp_path).why == "as rendered now"
    file.write_text(DEFAULT_CHAT_TEMPLATE.replace("'Assistant:'", "'Assistant: '"), encoding="utf-8")
    assert prompt_state(profile, tmp_path).why == "differs: one image, two images, turns, system"


def table(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", TABLE, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def test_the_command_prints_figures_and_sources_and_fails_on_a_difference(tmp_path: Path) -> None:
    done = table("smolvlm-500m", "deepseek-ocr")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert any(line.split()[:7] == ["smolvlm-500m", "smolvlm", "0.000", "0.0", "100%", "yes", "yes"] for line in lines)
    assert any("no template readable" in line and "transformers has no processor" in line for line in lines)
    assert any(line.startswith("  encoder.width (unproven): ") for line in lines)
    for name in ("smolvlm-500m", "deepseek-ocr"):
        assert all(f"  {key}" in done.stdout for key in load_profile(name).sources)
    (tmp_path / "smolvlm-500m").mkdir()
    (tmp_path / "smolvlm-500m/tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    done = table("smolvlm-500m", "--templates", tmp_path)
    assert (done.returncode, " no " in done.stdout) == (1, True)
    assert table("--templates", tmp_path / "none").stderr.endswith("none is not a directory\n")


@pytest.mark.slow
def test_the_whole_table_is_right() -> None:
    done = table()
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n{name} " in done.stdout for name in BUILT_IN if name != "demo")
