"""The gallery, opened from the disk in a browser, as people look at it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from browser import axe_faults, chromium
from parrot import Parrot, told
from PIL import Image
from sample_pictures import PICTURES, TRUTH
from scenes import caption, rows

from vlm.captions.gallery import PAGE, PIECE, write_gallery
from vlm.captions.journal import Caption, Journal
from vlm.captions.scan import Stamp
from vlm.errors import FolderError

FOUND = re.compile(r"^\d+ found")
NASTY = "<script>alert(1)<img src=x onerror=alert(2)>.jpg"


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of the browser that no network is behind; whatever it complains of fails the test."""
    complaints: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda request: request.url.startswith("file:") or complaints.append(f"asks for {request.url}")
        )
        yield page
    assert complaints == []


def search(page: Any, words: str) -> list[str]:
    """Type into the search field, and read the names that are found."""
    page.keyboard.press("/")
    page.keyboard.press("Control+A")
    page.keyboard.type(words)
    page.locator("#found").filter(has_text=FOUND).wait_for()  # a function would be forbidden by the page's policy
    return list(page.locator("#results small").all_inner_texts())


def test_thumbnails_search_and_a_broken_picture(tmp_path: Path, page: Any) -> None:
    folder, gallery = tmp_path / "pictures & more", tmp_path / "to look at"
    shutil.copytree(PICTURES, folder)
    shutil.copy(PICTURES / "blue-star.jpg", folder / NASTY)
    (folder / "brökén\n.png").write_bytes(b"no picture")
    assert caption(folder, "--gallery", gallery, "--model", "demo").returncode == 101
    page.goto((gallery / "index.html").as_uri())
    assert page.locator("h1").inner_text() == "pictures & more"
    assert page.locator("figure").count() == len(TRUTH) + 2
    # Lazy ones load when they come into sight.
    decoded = "all => Promise.all(all.map(one => (one.loading = 'eager', one.decode().then(() => one.naturalWidth))))"
    widths = page.locator("img").evaluate_all(decoded)
    assert len(widths) == len(TRUTH) + 1
    assert all(0 < width <= 320 for width in widths)
    star = page.locator("figure", has_text="blue-star.jpg")
    assert TRUTH["blue-star.jpg"] in star.inner_text()
    broken = page.locator("figure", has=page.locator(".error"))
    assert "ImageError: this is not a picture" in broken.inner_text()
    assert "brökén" in broken.inner_text()
    # The original is one click away, whatever its name.
    links = page.locator("figure a").evaluate_all("all => all.map(one => one.href)")
    assert {Path(unquote(urlsplit(link).path)).name for link in links} == {
        path.name for path in folder.iterdir() if path.suffix not in (".json", ".jsonl")
    }
    assert search(page, "HEART background cyan") == ["corners.bmp", "five-shapes.png"]
    assert set(search(page, "night")) == {"night.jpg"}
    assert search(page, "<script>alert") == [NASTY]
    assert search(page, "known here")[0].startswith("brökén")
    page.keyboard.press("Escape")
    assert page.locator("#page figure").first.is_visible()
    page.emulate_media(color_scheme="dark")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in ground[4:-1].split(",")) < 60
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_nothing_is_kept_from_anybody(tmp_path: Path) -> None:
    """What axe finds; it asks for the style sheet itself, which the page's policy refuses."""
    folder = tmp_path / "pictures"
    shutil.copytree(PICTURES, folder)
    (folder / "broken.png").write_bytes(b"no picture")
    told(folder, Parrot())
    list(write_gallery(tmp_path / "gallery", folder))
    with chromium() as browser:
        page = browser.new_page()
        page.goto((tmp_path / "gallery" / "index.html").as_uri())
        faults = axe_faults(page)
    assert not [fault for fault in faults if fault.startswith(("serious", "critical"))], faults


def test_pages_and_pieces(tmp_path: Path, page: Any) -> None:
    """More pictures than a page or a piece of the search holds."""
    folder, gallery = tmp_path / "many", tmp_path / "gallery"
    folder.mkdir()
    Image.new("RGB", (8, 6), "red").save(folder / "one.png")
    count = PIECE + PAGE + 5
    journal = Journal(folder / "metadata.jsonl", Caption)
    stamp = Stamp(1, 1)
    for number in range(count):
        (folder / f"{number:05}.png").hardlink_to(folder / "one.png")
        text = f"This is number {number}."
        journal.append(
            Caption(
                file_name=f"{number:05}.png",
                size_bytes=stamp.size,
                modified_ns=stamp.modified_ns,
                model="demo",
                prompts=["?"],
                options="{}",
                text=text,
                texts=[text],
                content_hash="same",
                told_at="",
                seconds=0.0,
            )
        )  # fmt: skip
    journal.close()
    pages = -(-count // PAGE)
    assert list(write_gallery(gallery, folder))[-1] == (pages, pages)
    assert len(list((gallery / "thumbnails").iterdir())) == 1
    page.goto((gallery / "index.html").as_uri())
    assert page.locator("figure").count() == PAGE
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/page-2.html")
    assert search(page, f"number {count - 1}.") == [f"{count - 1:05}.png"]
    assert len(search(page, "this is")) == PAGE
    assert page.locator("#found").inner_text().startswith(f"{count} found")
    # A smaller gallery in the same place leaves nothing of the larger one.
    for number in range(5, count):
        (folder / f"{number:05}.png").unlink()
    (folder / "one.png").unlink()
    told(folder, Parrot())
    list(write_gallery(gallery, folder))
    assert sorted(path.name for path in gallery.iterdir()) == [
        "gallery.css", "gallery.js", "index.html", "search", "thumbnails",
    ]  # fmt: skip
    assert [path.name for path in (gallery / "search").iterdir()] == ["0.js"]


def test_where_no_gallery_can_be(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(PICTURES, folder)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "index.html").write_text("my own page")
    for place in (folder, folder / "gallery", tmp_path / "papers", tmp_path / "papers" / "index.html"):
        done = caption(folder, "--gallery", place, "--model", "demo")
        assert done.returncode == FolderError.exit_code
        assert "gallery" in done.stderr
    assert (tmp_path / "papers" / "index.html").read_text() == "my own page"
    assert not rows(folder)


def test_a_picture_that_went_after_it_was_told(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(PICTURES, folder)
    assert caption(folder, "--model", "demo").returncode == 0
    (folder / "night.jpg").unlink()
    list(write_gallery(tmp_path / "gallery", folder))
    piece = (tmp_path / "gallery" / "search" / "0.js").read_text()
    items = {item[0]: item for item in json.loads(piece.removeprefix("gallery.add(0, ").removesuffix(");\n"))}
    assert items["night.jpg"][2] == ""
    assert "night.jpg" in items["night.jpg"][4]
