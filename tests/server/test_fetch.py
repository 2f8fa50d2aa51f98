"""Pictures from other machines: what is fetched, and a table of what is not, with a listener that counts."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from service_rig import STAR, Served

from vlm.errors import ImageError, ImageTooLargeError, PictureURLError
from vlm.server.fetch import Fetcher, is_public
from vlm.server.images import from_url
from vlm.settings import load_serve_settings

LIMITS = {"allow_urls": True, "url_timeout_s": 1.0, "max_image_bytes": 100_000}


class Listener(ThreadingHTTPServer):
    """Counts connections, and answers as its path says."""

    daemon_threads = True

    def __init__(self, address: str = "127.0.0.1", family: socket.AddressFamily = socket.AF_INET) -> None:
        self.address_family, self.connections, self.stop = family, 0, threading.Event()
        super().__init__((address, 0), Answers)

    def get_request(self) -> tuple[socket.socket, object]:
        self.connections += 1
        return super().get_request()


class Answers(BaseHTTPRequestHandler):
    server: Listener

    def do_GET(self) -> None:
        what, _, rest = self.path.strip("/").partition("/")
        self.send_response({"to": 302, "round": 307, "missing": 404}.get(what, 200))
        if what == "to":
            self.send_header("Location", rest.replace("~", "/"))
        if what == "round":
            self.send_header("location", self.path)
        self.end_headers()
        if what == "picture":
            self.wfile.write(STAR.read_bytes())
        elif what == "endless":
            while not self.server.stop.is_set():
                self.wfile.write(b"x" * 50_000)
        elif what == "slow":
            self.server.stop.wait(20)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(url: str, allowed: Callable[[str], bool] = is_public, **settings: object) -> bytes:
    chosen = load_serve_settings(**{**LIMITS, **settings})
    return asyncio.run(from_url(url, chosen, Fetcher(chosen, allowed))).data


def everywhere(_: str) -> bool:
    return True


HOSTS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001",
    "127.0.0.1.", "0", "0.0.0.0", "localhost", "localhost.", "LOCALHOST", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "[fec0::1]", "[ff02::1]",
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.2.1",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.88.99.1",
    "user@127.0.0.1", "example.org@127.0.0.1", "127.0.0.1#@example.org", "127。0。0。1", "①②⑦.0.0.1", "%31%32%37.0.0.1",
]  # fmt: skip
WHOLE = [
    "file:///etc/passwd", "file://127.0.0.1/etc/passwd", "FILE:///etc/passwd", "/etc/passwd", "etc/passwd", "",
    "ftp://127.0.0.1/", "gopher://127.0.0.1/", "unix:///run/docker.sock", "javascript:alert(1)", "about:blank",
    "http:127.0.0.1", "http:///127.0.0.1", "http://", "//127.0.0.1/", "http://127.0.0.1\\@example.org/",
    " http://127.0.0.1/", "http://127.0.0.1/\r\nHost: x", "http://exa\tmple.org", "http://[::1", "http://a:99999/",
    "http://127.0.0.1:22/", "data:,hello", "data:image/png,hello", "data:image/png;base64,@@@", "data:image/png",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_no_address_that_is_not_public_is_fetched_from(host: str, listener: Listener) -> None:
    port = listener.server_address[1]
    name, hash_, rest = host.partition("#")
    with pytest.raises(PictureURLError):
        fetch(f"http://{name}:{port}{hash_}{rest}/picture")
    assert listener.connections == 0


@pytest.mark.parametrize("url", WHOLE)
def test_nothing_else_is_fetched(url: str, listener: Listener) -> None:
    with pytest.raises(ImageError if url.startswith("data:") else PictureURLError):
        fetch(url.replace("127.0.0.1/", f"127.0.0.1:{listener.server_address[1]}/"))
    assert listener.connections == 0


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8"])
def test_public_addresses_are_told(address: str) -> None:
    assert is_public(address)


def test_a_name_with_one_private_address_is_refused(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads to a public address and to this machine: the second one would be tried next."""
    port = listener.server_address[1]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(PictureURLError, match="public"):
        fetch(f"http://rebinding.example:{port}/picture")
    assert listener.connections == 0


def test_a_redirect_to_another_machine_is_checked_again(listener: Listener) -> None:
    """The first machine is allowed here; what it leads to is not."""
    inner = Listener("127.0.0.2")
    port = listener.server_address[1]
    with inner:
        for target in (f"http:~~127.0.0.2:{inner.server_address[1]}~picture", "file:~~~etc~passwd", "ftp:~~127.0.0.2~"):
            with pytest.raises(PictureURLError):
                fetch(f"http://127.0.0.1:{port}/to/{target}", lambda address: address == "127.0.0.1")
        assert inner.connections == 0


def test_a_picture_is_fetched(listener: Listener) -> None:
    url = f"http://127.0.0.1:{listener.server_address[1]}"
    assert fetch(f"{url}/picture", everywhere) == STAR.read_bytes()
    assert fetch(f"{url}/to/~picture", everywhere) == STAR.read_bytes()


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("endless", ImageTooLargeError, "100000 bytes"),
        ("slow", PictureURLError, "within 1 s"),
        ("missing", PictureURLError, "404"),
        ("round", PictureURLError, "more than 3 times"),
    ],
)
def test_limits(listener: Listener, path: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        fetch(f"http://127.0.0.1:{listener.server_address[1]}/{path}", everywhere)


def test_it_is_off_by_default(listener: Listener) -> None:
    with pytest.raises(PictureURLError, match="allow_urls"):
        fetch(f"http://127.0.0.1:{listener.server_address[1]}/picture", everywhere, allow_urls=False)
    assert listener.connections == 0


def test_through_the_service(demo_service: Served, listener: Listener) -> None:
    """A service that fetches refuses this machine, and does not say what listens where."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    said = set()
    for port in (listener.server_address[1], closed):
        url = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{port}/picture"}}
        body = {"model": "demo", "messages": [{"role": "user", "content": [url]}]}
        answer = demo_service.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        said.add(answer.json()["error"]["message"])
    assert listener.connections == 0
    assert said == {"The picture's address is not on the public internet."}
