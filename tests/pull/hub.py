"""A small hub on loopback: the part of the Hugging Face API that `vlm pull` uses, and what can go wrong with it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it holds: repository -> file name -> bytes. Files of more than 1,000 bytes are told as LFS ones.

    wrong: whether the sums it tells are wrong. refuse: repository -> status and error code. stall: file name -> how
    many bytes to send, once, before nothing more comes until `released`, and then the end. ranges: where each request
    for a file wanted to begin. tokens: what each request was authorised with.
    """

    repos: dict[str, dict[str, bytes]]
    wrong: bool = False
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    ranges: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def siblings(self, repo: str) -> list[dict[str, Any]]:
        told = []
        for name, data in self.repos[repo].items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data)}
            seen = b"other" if self.wrong else data
            entry["blobId"] = hashlib.sha1(f"blob {len(data)}\0".encode() + seen).hexdigest()
            if len(data) > 1000:
                sha256 = hashlib.sha256(seen).hexdigest()
                entry["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 130}
            told.append(entry)
        return told


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path)
        file = re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path)
        found = about or file
        if found is None:
            self._answer(404, "")
            return
        repo, name = found.groups()
        self.hub.tokens.append(self.headers.get("Authorization", ""))
        refusal = self._refusal(repo, name, bool(about))
        if refusal:
            self._answer(*refusal)
        elif about:
            told = {"id": repo, "sha": COMMIT, "siblings": self.hub.siblings(repo), "tags": [], "downloads": 0}
            self._answer(200, "", json.dumps(told).encode())
        else:
            self._send(name, self.hub.repos[repo][name])

    def _refusal(self, repo: str, name: str, about: bool) -> tuple[int, str] | None:
        if repo in self.hub.refuse:
            return self.hub.refuse[repo]
        if repo not in self.hub.repos:
            return 404, "RepoNotFound"
        if about:
            return None if name == "main" else (404, "RevisionNotFound")
        return None if name in self.hub.repos[repo] else (404, "EntryNotFound")

    def _answer(self, status: int, error: str, body: bytes = b"{}") -> None:
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, name: str, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        self.hub.ranges.append(first)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if name not in self.hub.stall:
            self.wfile.write(data[first:])
            return
        self.wfile.write(data[first : self.hub.stall.pop(name)])
        self.wfile.flush()
        self.hub.stalled.set()
        self.hub.released.wait(60)
        self.close_connection = True


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub on a port of its own, for the length of a block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
