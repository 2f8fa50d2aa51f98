"""Hostile and odd picture files: each gives a Picture or an ImageError, and memory stays bounded."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import picture_files as files
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoders import load_image
from encoders.errors import ImageError

# Run in a process of its own, where every Python warning is an error and the memory taken is all its own.
CHILD = """
import json, re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import picture_files
from encoders import ImageLimits, VisionSpec, load_image
from encoders.errors import ImageError

def peak():
    # Not getrusage: it would tell that of the process that started this one, where that was larger.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

limits = ImageLimits(max_pixels=4_000_000)
needed = VisionSpec(height=16, width_px=16, tokens=1, width=1)
cases = list(picture_files.hostile())
load_image(cases[0][1])
outcomes, before = [], peak()
for name, data in cases:
    for wanted in (None, needed):
        try:
            picture = load_image(data, limits=limits, needed=wanted)
            height, width, _ = picture.pixels.shape
            assert picture.pixels.dtype == "uint8" and 0 < height * width <= limits.max_pixels, name
            outcome = "Picture"
        except ImageError as exc:
            assert str(exc).startswith("the given bytes: ") and len(str(exc)) < 400, str(exc)
            outcome = type(exc).__name__
        except BaseException as exc:
            outcome = f"{type(exc).__name__}: {exc}"
        outcomes.append((name, outcome))
print(json.dumps({"outcomes": outcomes, "growth": peak() - before}))
"""


@pytest.fixture(scope="module")
def run() -> dict[str, Any]:
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, here], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_gives_a_picture_or_an_image_error(run: dict[str, Any]) -> None:
    kinds = Counter(outcome for _, outcome in run["outcomes"])
    assert set(kinds) == {"Picture", "ImageError", "ImageTooLargeError"}
    assert sum(kinds.values()) // 2 >= 200
    assert min(kinds.values()) >= 20


def test_what_is_whole_is_read_and_what_is_not_is_refused(run: dict[str, Any]) -> None:
    outcomes = dict(run["outcomes"])
    for name, _ in files.every_mode():
        if name != "TIFF YCbCr":  # Old Pillow releases do not read what they write there.
            assert outcomes[name] == ("ImageError" if name == "TIFF LAB" else "Picture"), name
    for name, _ in files.not_pictures():
        assert outcomes[name].startswith("Image"), name
    for name in ("PNG text bomb", "PNG profile bomb"):  # What is no part of the picture is not looked at.
        assert outcomes[name] == "Picture"
    bombs = [name for name in outcomes if "huge" in name or "2^31" in name or "65535" in name or "00000" in name]
    assert len(bombs) >= 8
    for name in bombs:
        assert outcomes[name].startswith("Image"), name


def test_memory_stays_bounded(run: dict[str, Any]) -> None:
    # 4 million pixels are 16 MB in Pillow and 12 MB as an array; a suspected truncation is decoded twice.
    assert run["growth"] < 100


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_change_to_a_picture_file_gives_a_picture_or_an_image_error(data: st.DataObject) -> None:
    _, whole = data.draw(st.sampled_from(WHOLE))
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        assert load_image(bytes(changed)).pixels.ndim == 3


# A TIFF compressed with deflate is left out, because libtiff itself prints what it finds damaged there.
WHOLE = [case for case in files.every_mode() if "deflate" not in case[0]]
