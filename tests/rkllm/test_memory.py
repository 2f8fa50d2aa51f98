"""The compiled stand-in under gcc's AddressSanitizer: no read or write outside what the binding gave it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from standin import command, layout_checks

from vlm.rkllm.abi import RELEASES

HERE = Path(__file__).parent
# Memory that was given back stays in quarantine for a while: it does grow.
CHOSEN = "not host and not memory_does_not_grow"
SUITES = ("test_given.py", "test_contract.py", "test_behaviour.py", "test_stress.py")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    shutil.which("gcc") is None, reason="gcc is not installed; zig's own AddressSanitizer does not link"
)
def test_no_bad_access(tmp_path: Path) -> None:
    for release in RELEASES:
        library = tmp_path / release / "librkllmrt.so"
        library.parent.mkdir()
        checks = library.with_name("layout_checks.h")
        checks.write_text(layout_checks(release))
        words = command(["gcc", "-fsanitize=address"], release, "librkllmrt.c", checks)
        subprocess.run([*words, "-o", str(library)], check=True)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    told = {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:abort_on_error=1",
        "PYTHONMALLOC": "malloc",  # so that Python's and NumPy's memory is watched too
        "RKVLM_STANDINS": str(tmp_path),
    }
    pytest_words = [sys.executable, "-X", "dev", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN]
    done = subprocess.run(
        [*pytest_words, *(str(HERE / name) for name in SUITES)],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "AddressSanitizer" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
