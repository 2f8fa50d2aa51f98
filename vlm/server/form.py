"""Forms (multipart/form-data, RFC 7578) that are in memory already.

A parser of streams looks at every line end of a picture, 10 ms for a camera's; here the body is searched for the
boundary, and what is between is copied once.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from vlm.errors import OptionError

MAX_PARTS = 200


@dataclass(frozen=True)
class Part:
    """One field of a form. is_file: whether it has a file's name."""

    name: str
    data: bytes
    is_file: bool


def parse(body: bytes, content_type: str) -> list[Part]:
    """The fields of a form, in order. Raises OptionError for anything else."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise OptionError("Send a form (multipart/form-data) with image and prompt, as `curl -F` does.")
    mark = b"\r\n--" + boundary
    first = body.find(mark[2:])
    if first < 0:
        raise OptionError("The form is empty: its boundary is nowhere in the body.")
    position = first + len(mark) - 2
    parts: list[Part] = []
    while not body.startswith(b"--", position):
        end = body.find(mark, position)
        if end < 0 or len(parts) == MAX_PARTS:
            raise OptionError(f"The form is cut off, or has more than {MAX_PARTS} fields.")
        parts.append(_part(body, position, end))
        position = end + len(mark)
    return parts


def _part(body: bytes, begin: int, end: int) -> Part:
    """The part between two boundaries; its data are copied once."""
    blank = body.find(b"\r\n\r\n", begin, end)
    lines = (line.partition(b":") for line in body[begin : max(begin, blank)].split(b"\r\n"))
    headers = {name.strip().lower(): value.strip() for name, _, value in lines}
    kind, options = parse_options_header(headers.get(b"content-disposition"))
    if blank < 0 or kind != b"form-data" or b"name" not in options:
        raise OptionError("A part of the form has no name (Content-Disposition: form-data; name=...).")
    return Part(options[b"name"].decode("utf-8", "replace"), body[blank + 4 : end], b"filename" in options)
