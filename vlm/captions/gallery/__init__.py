"""Pages to look at: captions, search, thumbnails as files beside, no network; they open from a disk.

index.html, page-2.html ...    200 pictures each, and those without a caption with what was wrong
thumbnails/                    by content, so that a second gallery makes only those that are new
search/0.js ...                the captions again, in pieces: a page opened from a disk may load scripts, not data
"""

from __future__ import annotations

import json
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from vlm import load_image
from vlm.captions.journal import ERRORS, METADATA, Caption, Failure, Journal, locked, write_beside
from vlm.errors import FolderError, ImageError

PAGE = 200
"""Pictures on a page."""

PIECE = 2000
"""Pictures in a piece of what is searched."""

SIDE = 320
"""The longer side of a thumbnail in pixels."""

_ASSETS = ("gallery.css", "gallery.js")
_MARK = "A gallery of vlm caption"


@dataclass(frozen=True)
class Item:
    """A picture of the gallery. link: its address as seen from a page; thumbnail: that too, or empty."""

    name: str
    link: str
    thumbnail: str
    texts: Sequence[str]
    error: str = ""


def check_place(gallery: Path, root: Path) -> None:
    """Raise FolderError where no gallery can be: thumbnails must not be captioned, nor others' files overwritten."""
    place = Path(os.path.realpath(gallery))
    if place.is_relative_to(os.path.realpath(root)):
        raise FolderError(
            f"The gallery {str(gallery)!r} would lie within the pictures, and its thumbnails be taken for some; choose "
            "a folder outside of them."
        )
    mark = place / _ASSETS[1]
    ours = mark.is_file() and _MARK in mark.read_text("utf-8", "replace")
    if place.exists() and not ours and (not place.is_dir() or any(place.iterdir())):
        raise FolderError(f"{str(gallery)!r} is there and is no gallery; choose a new or an empty folder.")


def write_gallery(gallery: Path, root: Path) -> Iterator[tuple[int, int]]:
    """Write the pages about all the pictures in the files of `root`. Yields after each page: its number, of how many.

    Raises FolderError.
    """
    check_place(gallery, root)
    try:
        with locked(root), ExitStack() as opened:
            (gallery / "thumbnails").mkdir(parents=True, exist_ok=True)
            (gallery / "search").mkdir(exist_ok=True)
            for name in reversed(_ASSETS):
                write_beside(gallery / name, resources.files(__name__).joinpath(name).read_bytes())
            yield from _Pages(gallery, root, opened).write()
    except OSError as exc:
        raise FolderError(f"The gallery cannot be written: {exc}.") from exc


class _Pages:
    """The pages, made one after the other."""

    def __init__(self, gallery: Path, root: Path, opened: ExitStack) -> None:
        self._gallery, self._root = gallery, root
        self._captions, self._failures = Journal(root / METADATA, Caption), Journal(root / ERRORS, Failure)
        opened.callback(self._captions.close)
        opened.callback(self._failures.close)
        self._names = sorted({*self._captions.index, *self._failures.index})
        environment = Environment(loader=PackageLoader(__name__, ""), autoescape=True, undefined=StrictUndefined)
        self._template = environment.get_template("page.html")

    def write(self) -> Iterator[tuple[int, int]]:
        """Write all pages; the first of them last, because it leads to the others."""
        pages = max(1, -(-len(self._names) // PAGE))
        pieces = -(-len(self._names) // PIECE)
        piece: list[Item] = []
        used = set()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for page in range(1, pages + 1):
                names = self._names[(page - 1) * PAGE : page * PAGE]
                items = list(pool.map(self._item, names))
                used |= {item.thumbnail for item in items}
                piece += items
                if page * PAGE % PIECE == 0 or page == pages:
                    self._write_piece((page * PAGE - 1) // PIECE, piece)
                    piece = []
                self._write_page(page, pages, pieces, items)
                yield page, pages
        self._remove_the_rest(pages, pieces, used)
        self._captions.compact()  # leaves no empty file where there was none
        self._failures.compact()

    def _write_page(self, page: int, pages: int, pieces: int, items: Sequence[Item]) -> None:
        text = self._template.render(
            title=os.path.basename(self._root) or "Pictures", page=page, pages=pages, pieces=pieces, items=items,
            pictures=len(self._names), failed=len(self._failures.index), address=address,
        )  # fmt: skip
        write_beside(self._gallery / address(page), text.encode("utf-8", "replace"))

    def _write_piece(self, number: int, items: Sequence[Item]) -> None:
        data = [[item.name, item.link, item.thumbnail, "\n".join(item.texts), item.error] for item in items]
        write_beside(
            self._gallery / "search" / f"{number}.js", f"gallery.add({number}, {json.dumps(data)});\n".encode()
        )

    def _item(self, name: str) -> Item:
        link = urllib.parse.quote(os.path.relpath(self._root / name, self._gallery), errors="replace")
        entry = self._captions.index.get(name)
        if entry is None:
            failure = self._failures.read(self._failures.index[name])
            return Item(name, link, "", (), f"{failure.error}: {failure.message}")
        caption = self._captions.read(entry)
        thumbnail = f"thumbnails/{caption.content_hash}.jpg"
        try:
            self._make_thumbnail(self._gallery / thumbnail, self._root / name)
        except ImageError as exc:  # it has changed or gone since it was told
            return Item(name, link, "", caption.texts, str(exc))
        return Item(name, link, thumbnail, caption.texts)

    def _make_thumbnail(self, path: Path, source: Path) -> None:
        if path.exists():
            return
        picture = load_image(source, needed=(SIDE, SIDE))
        left, top, right, bottom = (round(edge) for edge in picture.box)
        image = Image.fromarray(picture.pixels[top:bottom, left:right])
        image.thumbnail((SIDE, SIDE))
        beside = path.with_suffix(f".{os.urandom(4).hex()}.new")  # two pictures may have the same content
        image.save(beside, "JPEG", quality=80)
        os.replace(beside, path)

    def _remove_the_rest(self, pages: int, pieces: int, used: set[str]) -> None:
        """Remove what an earlier gallery had more of."""
        wanted = {address(page) for page in range(1, pages + 1)} | {f"search/{number}.js" for number in range(pieces)}
        wanted |= used
        for pattern in ("page-*.html", "search/*.js", "thumbnails/*"):
            for path in self._gallery.glob(pattern):
                if str(path.relative_to(self._gallery)) not in wanted:
                    path.unlink()


def address(page: int) -> str:
    """The file of a page; the first is 1."""
    return "index.html" if page == 1 else f"page-{page}.html"
