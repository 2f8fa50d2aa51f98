"""Routes for clients that do not say that their body is JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

JSON = (b"content-type", b"application/json")


class AnyContentType(APIRoute):
    """Takes the body as JSON whatever its header says, as Ollama does: `curl -d` says that it is a form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind a request that says JSON."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            headers = [header for header in request.scope["headers"] if header[0] != JSON[0]]
            return await handle(Request({**request.scope, "headers": [*headers, JSON]}, request.receive))

        return handle_json
