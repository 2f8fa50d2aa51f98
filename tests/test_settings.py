"""Settings: where they come from, which wins, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_pictures import ROOT

import vlm
from vlm.errors import OptionError
from vlm.keys import rewrite
from vlm.settings import ServeSettings, load_serve_settings, load_settings


@pytest.fixture(autouse=True)
def _settings(clean_settings: None) -> None:
    """None of the machine's own."""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM_CONFIG", str(tmp_path / "vlm.toml"))
    return tmp_path / "vlm.toml"


def test_the_first_place_that_has_it_counts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('queue = 1\nmax_images = 1\nport = 1\ncors_origins = ["https://a", "https://b"]\n')
    monkeypatch.setenv("VLM_MAX_IMAGES", "2")
    monkeypatch.setenv("VLM_PORT", "2")
    monkeypatch.setenv("VLM_ALLOWED_HOSTS", "a.lan, b.lan")
    settings = load_serve_settings(port=3)
    assert (settings.queue, settings.max_images, settings.port) == (1, 2, 3)
    assert settings.engine_limits().queue == 1
    assert (settings.cors_origins, settings.allowed_hosts) == (("https://a", "https://b"), ("a.lan", "b.lan"))


def test_the_users_own_file_and_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLM_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_settings().threads is None
    (tmp_path / "rkvlm").mkdir()
    (tmp_path / "rkvlm" / "vlm.toml").write_text("threads = 3\n")
    assert load_settings().threads == 3
    monkeypatch.setenv("VLM_CONFIG", "/dev/null")
    assert load_settings().threads is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quueue = 3", 'quueue (did you mean "queue"?)'),
        ("queue = -1", "vlm.toml, queue:"),
        ('queue = "many"', "vlm.toml, queue:"),
        ("queue 3", "cannot be read"),
        ('api_keys = ["secret"]', "--new-key"),
    ],
)
def test_a_file_that_is_wrong(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(OptionError) as caught:
        load_serve_settings()
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    with pytest.raises(OptionError, match="there is no file"):
        load_settings()
    monkeypatch.setenv("VLM_CONFIG", "/dev/null")
    monkeypatch.setenv("VLM_PACE", "{")
    with pytest.raises(OptionError, match="VLM_PACE"):
        load_settings()
    monkeypatch.delenv("VLM_PACE")
    with pytest.raises(OptionError, match="--port"):
        load_serve_settings(port=-1)


def test_the_documented_table_is_that_of_the_settings() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert text == rewrite(text, ServeSettings), "run: python -m vlm.keys"


def test_what_is_given_to_load_wins() -> None:
    with vlm.load("demo", settings={"cache_bytes": 0}) as model:
        star = (ROOT / "samples" / "pictures" / "blue-star.jpg").read_bytes()
        for _ in range(2):
            model.encode(star)
        assert model.cache_stats.hits == 0
