"""Who may use the service: API keys, and the pages of other sites."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping

from vlm.errors import ForbiddenError, OptionError, UnauthorizedError
from vlm.settings import ServeSettings

OPEN = ("/", "/page/", "/samples/", "/healthz", "/readyz", "/openapi.json")
"""What needs no key: the page itself, and whether the service is well. A name that ends in / stands for all below."""


def new_key() -> str:
    """Return a new API key: 256 random bits."""
    return f"vlm-{secrets.token_urlsafe(32)}"


def hashed(key: str) -> str:
    """Return what is kept of a key. A plain hash does: nobody guesses 256 random bits."""
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


def check_binding(settings: ServeSettings) -> None:
    """Raise OptionError where the service would be open to other machines without a key and nobody said so."""
    if not (settings.api_keys or settings.insecure or _is_loopback(settings.host)):
        raise OptionError(
            f"Listening on {settings.host} lets other machines in. Make a key with `vlm serve --new-key` and set "
            "api_keys, or say --insecure."
        )


class Access:
    """Decides about each request."""

    def __init__(self, settings: ServeSettings) -> None:
        self._keys = settings.api_keys
        self._origins = settings.cors_origins
        self._hosts = {"localhost", *settings.allowed_hosts}
        self._any_host = bool(settings.api_keys) or settings.insecure

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Let a request in. Raises UnauthorizedError, ForbiddenError."""
        self._check_host(headers.get("host", ""))
        self._check_origin(headers)
        if self._keys and not _is_open(path):
            self._check_key(headers)

    def _check_key(self, headers: Mapping[str, str]) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashed(given)
        # Every key is compared, whichever fits: the time says nothing.
        if not sum(hmac.compare_digest(digest, key) for key in self._keys):
            what = "wrong" if given else "missing"
            raise UnauthorizedError(f"The API key is {what}; send `Authorization: Bearer KEY`.")

    def _check_host(self, host: str) -> None:
        """Without keys, a page elsewhere could have its own name lead to this machine and read the answers."""
        name = _without_port(host)
        if not (self._any_host or name in self._hosts or _is_address(name)):
            raise ForbiddenError(f"The service is not known as {name!r}; the setting allowed_hosts names it.")

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """A browser says which site's page sends a request; without this any page could put the model to work."""
        origin = headers.get("origin")
        if origin is None or origin in self._origins or "*" in self._origins:
            return
        if origin.partition("://")[2] != headers.get("host", ""):
            raise ForbiddenError(f"Pages of {origin!r} may not use this service; the setting cors_origins lets them.")


def _is_open(path: str) -> bool:
    return any(path == name or (name != "/" and name.endswith("/") and path.startswith(name)) for name in OPEN)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
