"""The tables of docs/models.md and docs/conversion.md say what the code's own tables say."""

from __future__ import annotations

import re
import sys

from sample_pictures import ROOT

from vlm.convert.export import LEAST as LEAST_EXPORT
from vlm.convert.export import WEIGHTS, WORKER
from vlm.convert.llm_job import TARGETS
from vlm.convert.llm_rules import MOST_CONTEXT
from vlm.convert.vision import LEAST as LEAST_VISION
from vlm.host.files import DECODERS, EMBEDDERS, SUFFIXES
from vlm.profile import Profile, list_profiles
from vlm.rkllm.abi import FUNCTIONS, STRUCTS, first_release
from vlm.rkllm.library import host_library

# The worker runs in the converter's environment; its table of families wants nothing of that.
sys.path.append(str(WORKER))

from families import FAMILIES

MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
CONVERSION = (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
PROFILES = {profile.name: profile for profile in list_profiles()}
NOTHING = "-"


def rows(page: str, head: str) -> list[list[str]]:
    """The cells of the table whose heading begins with this cell."""
    found = re.search(rf"^\| {re.escape(head)} \|.*\n\| ---.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert found, head
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines()]


def test_every_profile_has_its_row() -> None:
    def row(profile: Profile) -> list[str]:
        keys, kind = profile.encoder, re.sub(r"[-.]", "_", profile.family)
        size = f"{keys.width_px} x {keys.height}"
        tokens = f"{keys.tokens} x {keys.width}" + (f" x {keys.outputs}" if keys.outputs > 1 else "")
        public = f"`{profile.hub.repo}`" if profile.hub else NOTHING
        export = "yes" if kind in FAMILIES else "no"
        unproven = ", ".join(f"`{key}`" for key in profile.unproven) or NOTHING
        return [size, tokens, profile.min_release, public, export, unproven]

    told = {cells[0].strip("`"): cells for cells in rows(MODELS, "Profile")}
    assert list(told) == list(PROFILES)
    for name, cells in told.items():
        assert cells[2:] == row(PROFILES[name]), name
        billions = re.search(r"-(\d[\d.]*b|\d+m)$", name)
        assert billions is None or cells[1] == billions[1].upper(), name


def test_every_public_conversion_is_for_one_soc() -> None:
    assert {profile.hub.soc for profile in PROFILES.values() if profile.hub} == {"rk3588"}
    assert "for RK3588" in MODELS


def test_what_a_release_has() -> None:
    """The second column is a function, or `Struct.member`; then the first release with it, and whether a PC has it."""
    functions = {function.name for function in FUNCTIONS}
    host = host_library()
    for what, named, release, pc, *_ in rows(MODELS, "What"):
        name, _, field = named.strip("`").partition(".")
        assert name in STRUCTS or name in functions, name
        assert release == first_release(name, field or None), what
        if name in functions:
            assert pc.startswith("yes") == (name in host.functions), what


def test_which_models_think_and_call_functions() -> None:
    told = {cells[0]: set(re.findall(r"`([a-z0-9][a-z0-9.-]*)`", cells[1])) for cells in rows(MODELS, "A model that")}
    assert told == {
        "thinks": {name for name, profile in PROFILES.items() if profile.thinking},
        "calls tools": {name for name, profile in PROFILES.items() if profile.tools},
        "has deepstack": {name for name, profile in PROFILES.items() if profile.encoder.outputs > 1},
    }


def test_the_files_of_a_pc() -> None:
    for name in (*DECODERS, *EMBEDDERS):
        assert f"`{name}.onnx`" in MODELS
    assert ", ".join(f"`{suffix}`" for suffix in SUFFIXES if suffix) in " ".join(MODELS.split())


def test_what_can_be_exported() -> None:
    listed = re.search(r"`model_type` in `config.json` is ([^(]*)\(", " ".join(CONVERSION.split()))
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) == set(FAMILIES)


def test_what_each_soc_takes() -> None:
    told = {cells[0].strip("`"): cells[1:3] for cells in rows(CONVERSION, "SoC")}
    assert told == {
        name: [", ".join(f"`{dtype}`" for dtype in target.dtypes), str(target.cores)]
        for name, target in TARGETS.items()
    }
    assert f"at most {MOST_CONTEXT}" in CONVERSION


def test_what_must_be_reached() -> None:
    told = {cells[0]: float(cells[2]) for cells in rows(CONVERSION, "Made")}
    assert told == {
        "`export`, `host`": LEAST_EXPORT,
        "`vision`, fp16": LEAST_VISION["fp16"],
        "`vision`, int8": LEAST_VISION["int8"],
    }
    assert [cells[0].strip("`") for cells in rows(CONVERSION, "`--weights`")] == list(WEIGHTS)
