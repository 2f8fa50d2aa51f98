"""Pictures from other machines: http and https, from public addresses only, within limits of size, time and redirects.

The host is resolved once, every address that it has is checked, and the connection goes to a checked one: a name that
leads elsewhere a moment later gains nothing. The same holds for each redirect. What exactly failed is for the log:
nobody learns from the answer what listens where.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import anyio
import httpcore

from vlm.errors import ImageTooLargeError, PictureURLError
from vlm.settings import ServeSettings

log = logging.getLogger(__name__)

REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = (("Accept", "image/*"), ("Accept-Encoding", "identity"))
_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_TUNNELS = [ipaddress.ip_network(net) for net in ("2001::/32", "2002::/16")]  # Teredo and 6to4: IPv4 inside
_RELAY = ipaddress.ip_network("192.88.99.0/24")  # RFC 7526
_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?\.?")

_failures = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    ssl.SSLError,
    OSError,
)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: no loopback, private, link-local, shared (CGNAT), multicast,
    reserved or documentation address, and none that hides such a one.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        return ip.is_global and ip in _UNICAST and not any(ip in net for net in _TUNNELS)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip in _RELAY)


class Fetcher:
    """Fetches pictures. allowed: whether to connect to an address."""

    def __init__(self, settings: ServeSettings, allowed: Callable[[str], bool] = is_public) -> None:
        self._settings = settings
        self._backend = _CheckedBackend(allowed)

    async def fetch(self, url: str) -> bytes:
        """Fetch a picture. Raises PictureURLError, ImageTooLargeError."""
        if not self._settings.allow_urls:
            raise PictureURLError(
                "Pictures are not fetched here: send the picture itself, as a data: URI (or set allow_urls)."
            )
        seconds = self._settings.url_timeout_s
        try:
            with anyio.fail_after(seconds):
                return await self._follow(url)
        except TimeoutError as exc:
            raise PictureURLError(f"The picture did not arrive within {seconds:g} s.") from exc
        except _failures as exc:
            log.info("A picture could not be fetched: %s: %s", type(exc).__name__, exc)
            raise PictureURLError("The picture could not be fetched from its address.") from exc

    async def _follow(self, url: str) -> bytes:
        for _ in range(self._settings.url_redirects + 1):
            parts = _checked(url)
            target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}".encode()
            place = httpcore.URL(
                scheme=parts.scheme.encode(), host=_host(parts).encode(), port=parts.port, target=target
            )
            async with (
                httpcore.AsyncConnectionPool(network_backend=self._backend) as pool,
                pool.stream("GET", place, headers=[("Host", parts.netloc), *HEADERS]) as response,
            ):
                if response.status not in REDIRECTS:
                    return await self._body(response)
                url = urljoin(url, _location(response))
        raise PictureURLError(f"The picture's address leads on more than {self._settings.url_redirects} times.")

    async def _body(self, response: httpcore.Response) -> bytes:
        if response.status != 200:
            raise PictureURLError(f"The picture's address answered with status {response.status}.")
        most = self._settings.max_image_bytes
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > most:
                raise ImageTooLargeError(f"A picture may have {most} bytes; the one at this address has more.")
        return bytes(body)


def _location(response: httpcore.Response) -> str:
    for name, value in response.headers:
        if name.lower() == b"location":
            return value.decode("latin-1")
    raise PictureURLError("The picture's address leads on, and does not say where to.")


def _checked(url: str) -> SplitResult:
    """The parts of an address that may be asked. Raises PictureURLError."""
    if len(url) > 2048 or not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise PictureURLError("A picture's address is ASCII without spaces or backslashes, 2048 characters at most.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise PictureURLError("The picture's address is no URL.") from exc
    if parts.scheme not in ("http", "https"):
        raise PictureURLError("A picture's address begins with http:, https: or data:.")
    if parts.username is not None or parts.password is not None:
        raise PictureURLError("A picture's address may not hold a user or a password.")
    if port not in (None, 80, 443) and port < 1024:
        raise PictureURLError(f"Pictures are not fetched from port {port}.")
    _host(parts)
    return parts


def _host(parts: SplitResult) -> str:
    """The host of an address: a name, or an IP address in its usual form. Raises PictureURLError.

    Names that end in a number are other ways to write an IPv4 address ("0x7f.1", "2130706433"), and no names.
    """
    host = parts.hostname or ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if _NAME.fullmatch(host):
            return host
    raise PictureURLError("The picture's address has no host, or one that is written in an unusual way.")


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to hosts all of whose addresses are allowed."""

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check, and connect to the first address that answers."""
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not addresses or not all(map(self._allowed, addresses)):
            log.warning("A picture was asked for from %s, which is at %s", host, addresses)
            raise PictureURLError("The picture's address is not on the public internet.")
        for address in addresses[:-1]:
            try:
                return await self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.NetworkError, httpcore.TimeoutException) as exc:
                log.info("Connecting to %s failed: %s", address, exc)
        return await self._sockets.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)
