"""What the documentation shows is run, or looked up: README in both languages, docs/, and the README of each room."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import fences
import pytest
import tomllib
from desk import bring_conversion
from fences import ELSEWHERE, KINDS, PAGES, Fence
from sample_pictures import ROOT, TRUTH
from service_rig import Served, serve

from vlm.profile import load_profile
from vlm.settings import load_serve_settings

FENCES = list(fences.fences())
SCRIPTS = sorted(path.name for path in (ROOT / "samples").glob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def of(*kinds: str) -> list[Fence]:
    return [fence for fence in FENCES if fence.kind in kinds]


SHOWN = [fence for fence in of("sh") if not set(fence.commands) <= set(ELSEWHERE)]
CHINESE = ROOT / "README.zh-CN.md"  # its blocks are those of README.md, which are run
RUN = [
    fence for fence in [*SHOWN, *of("python")] if not fence.on_a_board and not fence.serves and fence.page != CHINESE
]


@pytest.mark.parametrize(
    "fence",
    [pytest.param(f, id=str(f), marks=[pytest.mark.slow, pytest.mark.timeout(1200)] if f.slow else []) for f in RUN],
)
def test_a_block_does_what_it_says(
    fence: Fence, desk: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ""
    if fence.converts:
        bring_conversion(desk, request.getfixturevalue("conversion"), exported=not fence.exports)
        monkeypatch.setenv("VLM_CONVERTER_DIR", str(request.getfixturevalue("real_converter").directory))
    if fence.served:
        served: Served = request.getfixturevalue("service")
        address = served.url.removeprefix("http://")
    said = fences.run(fence, desk, address)
    assert fences.missing(said, fence.says or "") == [], said


@pytest.mark.parametrize("fence", [f for f in SHOWN if f.serves and not f.on_a_board and f.page != CHINESE], ids=str)
def test_a_service_is_started_as_shown(fence: Fence, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command, which serves until it is ended."""
    (command,) = fence.commands
    monkeypatch.chdir(desk)
    with serve(*command.split()[2:], VLM_MODELS_DIR=str(desk.parent / "models")) as served:
        assert served.ready().get("/healthz").status_code == 200
        assert served.end() == 0


@pytest.mark.parametrize("fence", SHOWN, ids=str)
def test_every_command_and_option_exists(fence: Fence) -> None:
    for command in fence.commands:
        assert fences.wrong_words(command) is None
    assert fence.commands, "nothing to run"


@pytest.mark.parametrize("fence", of("toml"), ids=str)
def test_settings_and_profiles_are_taken(
    fence: Fence, tmp_path: Path, clean_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vlm.toml"
    file.write_text(fence.text.replace("sha256:...", "sha256:" + "0" * 64))
    if "encoder" in tomllib.loads(file.read_text()):
        load_profile(file)
    else:
        monkeypatch.setenv("VLM_CONFIG", str(file))
        load_serve_settings()


def test_no_block_is_of_another_kind() -> None:
    """One without a kind, or with one that no test looks at, would not be tested."""
    assert [str(fence) for fence in FENCES if fence.kind not in KINDS] == []
    for page in PAGES:
        assert page.read_text(encoding="utf-8").count("\n```") % 2 == 0, page


def test_what_is_not_run_here_is_run_elsewhere() -> None:
    for command, place in ELSEWHERE.items():
        assert any(command in fence.commands for fence in FENCES), command
        assert (ROOT / place).is_file()


def test_the_two_commands_are_there() -> None:
    first, second = [fence.commands for fence in of("sh") if fence.page.name == "README.md"][:2]
    assert (first, second) == (["samples/try.sh"], ["tests/run.sh"])
    assert TRUTH["traffic-light.jpg"] in " ".join(README.split())


def test_both_languages_show_the_same() -> None:
    def shown(page: Path) -> list[tuple[str, bool, list[str]]]:
        return [(fence.kind, fence.on_a_board, fence.commands) for fence in FENCES if fence.page == page]

    assert shown(CHINESE) == shown(ROOT / "README.md")
    links = [
        set(re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))) for page in (CHINESE, ROOT / "README.md")
    ]
    assert links[0] ^ links[1] == {"README.md", "README.zh-CN.md"}


def _prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    heads = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", head).lower() for head in heads]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        path = urlsplit(target)
        if path.scheme:
            continue
        there = (page.parent / path.path).resolve() if path.path else page
        assert there.exists(), target
        if path.fragment:
            assert path.fragment in _anchors(there), target


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_sample_script_works(name: str, clean_settings: None) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "samples" / name)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_stays_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 250


def test_every_room_is_on_the_map() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path.parent for package in ("vlm", "encoders") for path in (ROOT / package).rglob("__init__.py")]
    tops = {room.relative_to(ROOT) for room in rooms if len(room.relative_to(ROOT).parts) <= 2} - {Path("vlm")}
    assert {str(room) for room in tops if f"`{room}/`" not in page} == set()


def test_the_doctors_page_is_a_board_s() -> None:
    """What the board page shows of it is what the golden page of a made RK3588 says."""
    (page,) = [fence for fence in of("text") if fence.page.name == "board.md" and "NPU driver" in fence.text]
    golden = (ROOT / "tests" / "doctor" / "golden" / "rk3588.txt").read_text()
    assert fences.missing(golden, page.text) == []
