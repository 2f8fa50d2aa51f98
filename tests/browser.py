"""Debian's Chromium, driven by Playwright, and axe-core, which finds what a page keeps from people."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",  # it will not start as root otherwise, and only our own pages are opened
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = "axe-core-4.14.1"
AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; skips the test where there is none. No asyncio.run() in this thread while it is open."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium here; tests/run.sh installs it, or `apt-get install chromium`")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program, args=FLAGS) as browser:
        yield browser


def axe_faults(page: Page) -> list[str]:
    """What axe finds on the page as it is: its impact, rule and place. Run past the page's security policy."""
    page.evaluate(_axe().read_text())
    found = page.evaluate("async () => (await axe.run()).violations")
    return [f"{fault['impact']}: {fault['id']} {node['target']}" for fault in found for node in fault["nodes"]]


def _axe() -> Path:
    """axe.min.js, fetched once from the npm registry into the tests' cache; skips the test where that cannot be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rkvlm-tests"
    script = cache / AXE / "axe.min.js"
    if not script.exists():
        name, _, version = AXE.rpartition("-")
        with tempfile.TemporaryDirectory() as directory:
            command = ["npm", "pack", "--silent", "--pack-destination", directory, f"{name}@{version}"]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            except (OSError, subprocess.SubprocessError) as exc:
                pytest.skip(f"axe-core was not checked: it cannot be had from the npm registry ({exc})")
            packed = Path(directory) / f"{AXE}.tgz"
            assert hashlib.sha256(packed.read_bytes()).hexdigest() == AXE_SHA256, "not the axe-core that we know"
            with tarfile.open(packed) as archive:
                member = archive.extractfile("package/axe.min.js")
                assert member is not None
                script.parent.mkdir(parents=True, exist_ok=True)
                made = script.with_suffix(f".{os.getpid()}")
                made.write_bytes(member.read())
                made.replace(script)
    return script
