"""The pictures of a request: base64, a data: URI, or an address where that is allowed."""

from __future__ import annotations

import base64
import binascii

from vlm import ImagePart
from vlm.errors import ImageError
from vlm.server import limits
from vlm.server.fetch import Fetcher
from vlm.settings import ServeSettings


async def from_url(url: str, settings: ServeSettings, fetcher: Fetcher) -> ImagePart:
    """The picture at a data: URI or, where that is allowed, a public http or https address.

    Raises ImageError, ImageTooLargeError, PictureURLError.
    """
    if url[:5].lower() != "data:":
        return ImagePart(await fetcher.fetch(url))
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ImageError("A picture's data: URI is written data:image/png;base64,DATA.")
    return from_base64(data, settings)


def from_base64(data: str, settings: ServeSettings) -> ImagePart:
    """The picture that `data` spells. Raises ImageError, ImageTooLargeError."""
    limits.check_image(len(data) // 4 * 3 - 2, settings)
    try:
        return ImagePart(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as exc:
        raise ImageError("A picture's data is not base64.") from exc
