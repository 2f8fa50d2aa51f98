"""`vlm bench plan`: how long a folder will take, and what is said of what nobody measured."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sample_pictures import ROOT

from vlm.bench.figures import Figures, as_toml, read_figures, recorded
from vlm.bench.plan import Estimate, estimate
from vlm.errors import OptionError
from vlm.npu import SOCS
from vlm.profile import list_profiles

pytestmark = pytest.mark.usefixtures("clean_settings")

PAGE = (ROOT / "docs" / "performance.md").read_text("utf-8")


def bench(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "bench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def rows(output: str) -> list[list[str]]:
    return [line.replace(" s ", "s ").split() for line in output.splitlines()]


def test_ten_thousand_pictures_on_a_board() -> None:
    done = bench("plan", "--model", "qwen3-vl-2b", "--soc", "rk3588", "--images", 10_000)
    assert done.returncode == 0, done.stderr
    # 2.08 s to encode, 0.649 s of prefill, and 60 tokens at 14.9 a second.
    assert ["together", "6.76s", "18:45:58"] in rows(done.stdout)
    assert ["encode", "2.08s", "5:46:40", "vendor's"] in [row[:4] for row in rows(done.stdout)]
    title, how = (line.strip() for line in done.stdout.splitlines()[:2])
    assert (title, how) == ("10000 pictures, qwen3-vl-2b on rk3588, 60 tokens each", "one stage after the other")


def test_with_overlap_the_figures_of_all_cores_do_not_count(tmp_path: Path) -> None:
    words = ["plan", "--model", "qwen2-vl-2b", "--soc", "rk3588", "--overlap"]
    done = bench(*words)
    assert done.returncode == 0, done.stderr
    one_by_one, side_by_side = done.stdout.split("beside")
    assert "unknown" not in one_by_one
    told = {row[0]: row for row in rows(side_by_side) if row}
    assert told["encode"][1] == "5.50s"
    assert told["prefill"][1] == told["decode"][1] == told["together"][1] == "unknown"
    assert "16.6" not in side_by_side
    # The owner of a board measures what is missing.
    own = tmp_path / "own.toml"
    own.write_text(as_toml([_figures(cores=2, prefill_ms=900, tokens_per_second=12)]))
    done = bench(*words, "--figures", own, "--images", 1000)
    told = {row[0]: row for row in rows(done.stdout.split("beside")[1]) if row}
    # 0.9 s and 60 tokens at 12 a second are longer than 5.5 s; the first encoding comes on top.
    assert told["together"][1:3] == ["5.90s", "1:38:26"]


def test_the_longer_stage_counts_and_the_shorter_is_hidden() -> None:
    known = [_figures(cores=1, encode_ms=1000, prefill_ms=500, tokens_per_second=10, soc="rk3576")]
    plan = estimate(known, model="qwen2-vl-2b", soc="RK3576", images=10, tokens=20, overlap=True)
    assert (plan.picture_s, plan.total_s) == (2.5, 26.0)
    plan = estimate(known, model="qwen2-vl-2b", soc="rk3576", images=10, tokens=1, overlap=True)
    assert plan.picture_s == 1.0
    assert plan.total_s == pytest.approx(10.6)


def test_what_one_measures_can_be_planned_with(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    measured = bench("model", "demo", "--rounds", 1, "--out", own)
    assert measured.returncode == 0, measured.stderr
    assert measured.stdout == own.read_text()
    encode, rest = read_figures(own)
    assert (encode.model, encode.soc) == ("demo", "pc")
    assert encode.encode_ms
    assert rest.prefill_ms
    assert rest.tokens_per_second
    assert bench("plan", "--model", "demo", "--soc", "pc", "--figures", own).returncode == 0


def test_what_was_measured_is_not_lost(tmp_path: Path) -> None:
    """It may have taken minutes, and the file was a mistake."""
    done = bench("model", "demo", "--rounds", 1, "--out", tmp_path / "gone" / "own.toml")
    assert done.returncode == OptionError.exit_code
    assert "tokens_per_second" in done.stdout
    assert re.fullmatch(r"vlm: --out '.*own.toml' cannot be written: .*\n", done.stderr)


@pytest.mark.parametrize(("name", "begins"), [("plan.png", b"\x89PNG"), ("plan.svg", b"<?xml")])
def test_the_plot(tmp_path: Path, name: str, begins: bytes) -> None:
    words = ["--model", "qwen2-vl-2b", "--soc", "rk3588", "--overlap", "--plot", tmp_path / name]
    done = bench("plan", *words)
    assert done.returncode == 0, done.stderr
    first = (tmp_path / name).read_bytes()
    assert first.startswith(begins)
    assert bench("plan", *words).returncode == 0
    assert (tmp_path / name).read_bytes() == first


def test_the_plot_of_the_page_is_what_its_command_draws(tmp_path: Path) -> None:
    found = re.search(r"^vlm bench (plan .* --plot) plan.svg$", PAGE, re.MULTILINE)
    assert found
    done = bench(*shlex.split(found[1]), tmp_path / "plan.svg")
    assert done.returncode == 0, done.stderr
    drawn, shown = (path.read_text("utf-8") for path in (tmp_path / "plan.svg", ROOT / "docs" / "plan.svg"))
    words = re.compile(r"<text[^>]*>(.*?)</text>")
    assert words.findall(shown) == words.findall(drawn)
    assert "unknown" in words.findall(shown)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "gone", "--soc", "rk3588"], "no figures of gone"),
        (["--model", "qwen2-vl-2b", "--soc", "rk9"], "no SoC"),
        (["--model", "qwen2-vl-2b", "--soc", "rk3588", "--figures", "gone.toml"], "gone.toml"),
        (["--model", "qwen2-vl-2b", "--soc", "rk3588", "--overlap", "--encoder-cores", "3"], "none is left"),
        (["--model", "qwen2-vl-2b", "--soc", "rk3588", "--plot", "plan.nothing"], "plan.nothing"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str) -> None:
    done = bench("plan", *words)
    assert done.returncode == OptionError.exit_code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["figures = 3", "[[figures]]\nmodel = 1", "nothing", "[[figures]]\nsped = 3"])
def test_figures_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=r"own\.toml"):
        read_figures(path)


def test_every_recorded_figure_is_of_an_soc_and_says_where_it_is_from() -> None:
    for entry in recorded():
        assert entry.cores <= SOCS[entry.soc].npu_cores
        assert entry.source
        if entry.cores == SOCS[entry.soc].npu_cores:
            plan: Estimate = estimate([entry], model=entry.model, soc=entry.soc, images=1, tokens=1)
            assert plan.total_s


def test_the_page_has_every_recorded_figure() -> None:
    shown = [line for line in PAGE.splitlines() if re.match(r"\| `[\w.-]+` \| (RK|RV)", line)]
    assert shown == [_row(entry) for entry in recorded()]


def test_the_page_has_the_tokens_of_every_profile() -> None:
    cells = {line.split(" | ")[0]: line for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)}
    for profile in list_profiles():
        spec = profile.vision
        assert f"{spec.width_px} x {spec.height}" in cells[f"| {spec.tokens}"], profile.name


def _row(entry: Figures) -> str:
    """An entry as the page's table has it."""
    encode, prefill, rate = (
        "unknown" if value is None else f"{value:g}{unit}"
        for value, unit in ((entry.encode_ms, " ms"), (entry.prefill_ms, " ms"), (entry.tokens_per_second, ""))
    )
    tokens = f" for {entry.prefill_tokens} tokens" if entry.prefill_tokens else ""
    whole = "unknown"
    if entry.cores == SOCS[entry.soc].npu_cores:
        whole = f"{estimate([entry], model=entry.model, soc=entry.soc, images=1, tokens=60).total_s:.1f} s"
    cells = (f"`{entry.model}`", entry.soc.upper(), entry.cores, encode, prefill + tokens, rate, whole, entry.source)
    return f"| {' | '.join(map(str, cells))} |"


def _figures(cores: int, soc: str = "rk3588", **known: float) -> Figures:
    return Figures(model="qwen2-vl-2b", soc=soc, cores=cores, source="a test", **known)  # type: ignore[arg-type]
