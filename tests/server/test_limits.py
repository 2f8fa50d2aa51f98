"""Who is let in, and how much one client may ask for: one service with a key and narrow limits."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_pictures import PICTURES
from service_rig import LONG_S, STAR, Served, serve, wait_until
from test_openai_client import part, user, words

from vlm.errors import ForbiddenError, OptionError, UnauthorizedError
from vlm.server.auth import Access, hashed
from vlm.server.form import parse
from vlm.settings import load_serve_settings

KEY = "vlm-a-key-of-the-tests"
OTHER = "vlm-another-key"
SITE = "https://example.org"
NARROW = [
    *("--api-keys", hashed(OTHER), "--api-keys", hashed(KEY), "--cors-origins", SITE),
    *("--max-body-bytes", 200_000, "--max-image-bytes", 30_000, "--max-images", 2, "--max-prompt-chars", 200),
    *("--max-answer-tokens", 50, "--body-timeout-s", 1, "--max-connections", 12, "--max-held-bytes", 300_000),
]
ROUTES = ("/v1/describe", "/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate", "/rkllm_chat")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with serve("--model", "demo", "--no-pictures", *NARROW) as served:
        yield served.ready()


def with_key(key: str = KEY) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def message_of(answer: httpx.Response) -> str:
    """The words of an error, in whichever shape."""
    body = answer.json()
    error = body.get("error", body)
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("route", [*ROUTES, "/v1/models", "/v1/info", "/metrics", "/api/tags"])
def test_a_key_is_needed(guarded: Served, route: str) -> None:
    method = "POST" if route in ROUTES else "GET"
    for headers in ({}, with_key("wrong"), {"Authorization": f"Basic {KEY}"}, {"X-API-Key": ""}):
        answer = httpx.request(method, guarded.url + route, headers=headers, timeout=LONG_S)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "API key" in message_of(answer)
    for headers in (with_key(), with_key(OTHER), {"X-API-Key": KEY}):
        assert httpx.request(method, guarded.url + route, headers=headers, timeout=LONG_S).status_code in (200, 400)


def test_what_needs_no_key(guarded: Served) -> None:
    for path in ("/", "/page/page.js", "/samples/night.jpg", "/healthz", "/readyz"):
        assert guarded.get(path).status_code == 200


def test_a_new_key_is_let_in() -> None:
    command = [sys.executable, "-W", "error", "-c", "from vlm.cli import main; main()", "serve", "--new-key"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    key = done.stdout.strip()
    assert key not in done.stderr
    (kept,) = done.stderr.split('"')[1::2]
    assert kept == "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    Access(load_serve_settings(api_keys=[kept])).check("/v1/models", {"host": "x", "authorization": f"Bearer {key}"})


def test_pages_of_other_sites(guarded: Served) -> None:
    asked = {"Origin": SITE, "Access-Control-Request-Method": "POST"}
    allowed = httpx.options(guarded.url + "/v1/describe", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == SITE
    assert guarded.get("/v1/models", headers={**with_key(), "Origin": SITE}).status_code == 200
    assert guarded.get("/v1/models", headers={**with_key(), "Origin": guarded.url}).status_code == 200
    for origin in ("https://evil.example", "null", guarded.url + ".evil.example"):
        assert guarded.get("/v1/models", headers={**with_key(), "Origin": origin}).status_code == 403


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8080", True), ("127.0.0.1:8080", True), ("[::1]:8080", True), ("192.168.1.5", True),
        ("board.lan:8080", True), ("evil.example:8080", False), ("", False), ("localhost.evil.example", False),
    ],
)  # fmt: skip
def test_without_a_key_only_known_names_lead_here(host: str, known: bool) -> None:
    """Else a page could have its own name lead to this machine, and read what is answered."""
    access = Access(load_serve_settings(allowed_hosts=["board.lan"]))
    with contextlib.nullcontext() if known else pytest.raises(ForbiddenError):
        access.check("/v1/models", {"host": host})


def test_a_wrong_key_is_an_error_of_its_own() -> None:
    access = Access(load_serve_settings(api_keys=[hashed(KEY)]))
    with pytest.raises(UnauthorizedError, match="wrong"):
        access.check("/v1/models", {"host": "x", "authorization": "Bearer \udcff"})


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_that_is_too_large(guarded: Served, route: str) -> None:
    body = b"x" * 200_001
    for content in (body, iter([body])):  # with a length announced, and without
        answer = guarded.post(route, content=content, headers=with_key())
        assert answer.status_code == 413
        assert "200000 bytes" in message_of(answer)


def asked(picture: dict[str, object] | None = None, text: str = "Hi", **more: object) -> dict[str, object]:
    return {"model": "demo", "messages": user(*([picture] if picture else []), words(text)), **more}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (asked(text="x" * 201), 413, "200 characters (max_prompt_chars)"),
        (asked(part(PICTURES / "photo-sized.jpg")), 413, "30000 bytes (max_image_bytes)"),
        ({"model": "demo", "messages": user(*[part(STAR)] * 3)}, 413, "2 pictures (max_images)"),
        (asked(max_tokens=51), 400, "50 tokens"),
        (asked(part(STAR)), 400, "text alone"),
    ],
)
def test_a_question_that_is_too_large(guarded: Served, body: object, status: int, said: str) -> None:
    answer = guarded.post("/v1/chat/completions", json=body, headers=with_key())
    assert (answer.status_code, said in message_of(answer)) == (status, True), answer.text


def connect(served: Served) -> socket.socket:
    url = httpx.URL(served.url)
    assert url.port is not None
    return socket.create_connection((url.host, url.port), LONG_S)


def test_a_body_that_does_not_come(guarded: Served) -> None:
    with connect(guarded) as client:
        head = f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99\r\n\r\n"
        client.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"}") and (more := client.recv(65536)):
            answer += more
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"within 1 s" in answer


def test_a_client_that_says_nothing_is_let_go(guarded: Served) -> None:
    with connect(guarded) as client:
        assert client.recv(1) == b""


def test_no_more_connections_than_allowed(guarded: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            client = stack.enter_context(connect(guarded))
            client.sendall(b"GET /healthz HTTP/1.1\r\n")  # and never the end
        time.sleep(0.2)
    wait_until(lambda: guarded.get("/healthz").status_code == 200)


def test_memory_for_bodies_is_bounded(guarded: Served) -> None:
    with connect(guarded) as first, connect(guarded) as second:
        for client in (first, second):
            head = (
                f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 190000\r\n\r\n"
            )
            client.sendall(head.encode() + b" " * 160_000)
        answers = {first.recv(65536)[:12], second.recv(65536)[:12]}
    assert answers == {b"HTTP/1.1 503", b"HTTP/1.1 408"}
    wait_until(lambda: guarded.post("/api/chat", json={"model": "demo"}, headers=with_key()).status_code == 200)


@given(st.binary(max_size=300), st.sampled_from(["b", '"a b"', "", "=", ";"]))
def test_any_bytes_are_a_form_or_refused(data: bytes, boundary: str) -> None:
    name = boundary.strip('"').encode()
    for body in (data, b"--" + name + b"\r\n" + data, b"--" + name + b"\r\n" + data + b"\r\n--" + name + b"--"):
        with contextlib.suppress(OptionError):
            parse(body, f"multipart/form-data; boundary={boundary}")


@given(st.lists(st.tuples(st.sampled_from(["a", "ä"]), st.binary(max_size=50), st.booleans()), max_size=5))
def test_a_form_is_read_as_it_was_written(fields: list[tuple[str, bytes, bool]]) -> None:
    form = [(name, ("f" if file else None, data)) for name, data, file in fields]
    request = httpx.Request("POST", "http://x/", files=form or {"a": (None, b"")})
    parts = [(part.name, part.data, part.is_file) for part in parse(request.read(), request.headers["content-type"])]
    assert parts == (fields or [("a", b"", False)])
