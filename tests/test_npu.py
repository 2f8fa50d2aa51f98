"""Which SoC this is, from device trees made for it; the plan for it, and `vlm npu` that shows it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlm
from vlm.errors import CorePlanError, OptionError, ProfileError
from vlm.npu import COMPATIBLE, MASKS, SOCS, Soc, advice, choose_soc, find_soc, make_plan
from vlm.options import CoreOptions


@pytest.mark.parametrize(
    ("compatible", "name", "domain"),
    [
        (b"rockchip,rk3588-evb1-v10\0rockchip,rk3588\0", "rk3588", 1),
        (b"radxa,rock-5b\0rockchip,rk3588\0", "rk3588", 1),
        (b"xunlong,orangepi-5\0rockchip,rk3588s\0", "rk3588", 1),
        (b"rockchip,rk3576\0", "rk3576", 1),
        (b"rockchip,rk3562-evb\0rockchip,rk3562\0", "rk3562", 0),
        (b"rockchip,rv1126b-evb1\0rockchip,rv1126b\0", "rv1126b", 0),
    ],
)
def test_a_soc_is_told_from_its_device_tree(tmp_path: Path, compatible: bytes, name: str, domain: int) -> None:
    file = tmp_path / COMPATIBLE
    file.parent.mkdir(parents=True)
    file.write_bytes(compatible)
    soc = find_soc(tmp_path)
    assert soc is not None
    assert (soc.name, soc.llm_domain) == (name, domain)


@pytest.mark.parametrize("soc", SOCS.values(), ids=SOCS)
def test_the_advice_for_a_soc_is_a_plan_that_it_takes(soc: Soc) -> None:
    words = re.search(r"llm_cores (\d), encoder_cores (\d), with overlap", advice(soc))
    assert (words is None) == (soc.npu_cores == 1)
    if words:
        options = CoreOptions(llm_cores=int(words[1]), encoder_cores=words[2], overlap=True)
        plan = make_plan(soc, [("advice", options)])
        assert {*plan.encoder, *(plan.llm or ())} == set(soc.cores)


@pytest.mark.parametrize("compatible", [b"", b"raspberrypi,4-model-b\0brcm,bcm2711\0", b"rockchip,rk3399\0", b"\xff\0"])
def test_another_machine_is_none(tmp_path: Path, compatible: bytes) -> None:
    assert find_soc(tmp_path) is None
    file = tmp_path / COMPATIBLE
    file.parent.mkdir(parents=True)
    file.write_bytes(compatible)
    assert find_soc(tmp_path) is None


def test_a_soc_is_named_only_where_the_device_tree_does_not_say(tmp_path: Path) -> None:
    assert choose_soc(None, tmp_path) is None
    assert choose_soc("RK3576", tmp_path) is SOCS["rk3576"]
    file = tmp_path / COMPATIBLE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"rockchip,rk3588\0")
    assert choose_soc("rk3588", tmp_path) is choose_soc(None, tmp_path) is SOCS["rk3588"]
    with pytest.raises(CorePlanError, match=r"rk3576.*rk3588"):
        choose_soc("rk3576", tmp_path)
    assert choose_soc("rk3576", tmp_path, elsewhere=True) is SOCS["rk3576"]


def test_the_vendors_masks_are_the_bits_of_the_cores() -> None:
    assert {mask: sum(1 << core for core in cores) for cores, mask in MASKS.items()} == {n: n for n in MASKS.values()}
    assert (1, 2) not in MASKS
    assert (0, 2) not in MASKS


OPTIONS = st.builds(
    CoreOptions,
    encoder_cores=st.sampled_from([None, "auto", *(",".join(map(str, cores)) for cores in MASKS)]),
    llm_cores=st.sampled_from([None, 1, 2, 3]),
    overlap=st.sampled_from([None, False, True]),
)


@given(
    st.sampled_from(list(SOCS.values())),
    st.lists(OPTIONS, min_size=1, max_size=3),
    st.sampled_from([None, 1, 2, 3]),
    st.booleans(),
    st.booleans(),
)
def test_a_plan_holds_what_was_said_or_is_refused(
    soc: Any, said: list[CoreOptions], log: int | None, encoder: bool, llm: bool
) -> None:
    first = {
        name: next((value for options in said if (value := getattr(options, name)) is not None), None)
        for name in CoreOptions.model_fields
    }
    words = [(f"place {number}", options) for number, options in enumerate(said)]
    try:
        plan = make_plan(soc, words, encoder_on_npu=encoder, llm_on_npu=llm).settle(log)
    except CorePlanError:
        text, cores = first["encoder_cores"], first["llm_cores"]
        missing = encoder and text not in (None, "auto") and int(str(text)[-1]) >= soc.npu_cores
        too_many = llm and max(cores or 0, log or 0) > soc.npu_cores
        differs = llm and None not in (cores, log) and cores != log
        number = cores or log
        used = {int(core) for core in text.split(",")} if text not in (None, "auto") else set(soc.cores)
        shared = number is None or used & set(range(number))
        assert missing or too_many or differs or (first["overlap"] and encoder and llm and shared)
        return
    assert bool(plan.overlap) == bool(first["overlap"])
    assert set(plan.encoder) <= set(soc.cores)
    assert plan.core_mask == (None if soc.npu_cores == 1 or not encoder else sum(1 << core for core in plan.encoder))
    assert (plan.encoder == ()) is not encoder
    assert (plan.llm == ()) is not llm
    if llm:
        assert plan.llm == (soc.cores[: log or first["llm_cores"]] if log or first["llm_cores"] else None)
    if encoder and llm:
        held = set(plan.encoder_holds), set(plan.llm_holds)
        assert held == ((set(plan.encoder), set(plan.llm or ())) if plan.overlap else (set(soc.cores), set(soc.cores)))
        assert plan.overlap is held[0].isdisjoint(held[1])


# --- vlm npu ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _settings(clean_settings: None) -> None:
    """No settings of the machine's own."""


def shown(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "npu", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(find_soc() is not None, reason="this machine is a board")
def test_a_pc_has_no_plan_and_says_so() -> None:
    done = shown()
    assert (done.returncode, done.stderr) == (0, "")
    assert "no Rockchip NPU" in done.stdout
    assert "--soc" in done.stdout
    assert json.loads(shown("--json").stdout) == {"model": "demo", "soc": None}


def test_the_plan_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = shown("--soc", "rk3588", "-m", "qwen2-vl-2b", "--encoder-cores", "2", "--llm-cores", 2, "--overlap")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("qwen2-vl-2b", "rk3588", "core 2", "mask 4", "cores 0, 1", "domain 1", "0xf0", "side by side", "call"):
        assert word in done.stdout
    monkeypatch.setenv("VLM_SOC", "rk3588")
    monkeypatch.setenv("VLM_LOCK_DIR", str(tmp_path))
    monkeypatch.setenv("VLM_ENCODER_CORES", "0,1")
    told = json.loads(shown("--json").stdout)
    assert (told["encoder_cores"], told["core_mask"], told["llm_cores"]) == ([0, 1], 3, None)
    assert told["origins"] == {
        "encoder_cores": "the settings, VLM_*", "llm_cores": "default", "overlap": "default"
    }  # fmt: skip
    assert told["held"] == dict.fromkeys("012")
    assert told["lock_dir"] == str(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--soc", "rk3576", "--encoder-cores", "2"], "0, 1 or 0,1"),
        (["--soc", "rk3588", "--encoder-cores", "1,2"], "'0,1,2'"),
        (["--soc", "rk3588", "--llm-cores", "3", "--overlap"], "num_npu_core"),
        (["--soc", "rk1"], "rk3562"),
        (["-m", "qwen"], "did you mean"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(words: list[str], said: str) -> None:
    done = shown(*words)
    assert (done.returncode, done.stdout) == (5, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_same_from_python() -> None:
    assert vlm.core_plan(soc="rk3562", encoder_cores=[0])["core_mask"] is None
    for words, kind in (({"encoder_core": 1}, OptionError), ({"model": "nobody"}, ProfileError)):
        with pytest.raises(kind):
            vlm.core_plan(**words)
