"""The page at /, its files, and the sample pictures: nothing that is not on this machine may be loaded by it."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self)",
    "Cache-Control": "no-cache",  # asked again whether it changed, so that the page's files are always of one version
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Files(StaticFiles):
    """Files of a directory, with the page's headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file at `path`."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def mount(app: Starlette, samples: Path | None) -> None:
    """Serve the page at /, its files below /page, and the sample pictures where there are any."""
    app.mount("/page", Files(directory=PAGE), name="page")
    if samples:
        app.mount("/samples", Files(directory=samples), name="samples")
    app.router.add_route("/", _index)


async def _index(_: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers=HEADERS)
