"""The application: every protocol over one engine, behind one gate."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm import Engine, __version__
from vlm.errors import RkvlmError
from vlm.server import describe, embeddings, health, logs, ollama, openai, page, rkllm
from vlm.server.auth import Access
from vlm.server.errors import Problem, problem
from vlm.server.fetch import Fetcher
from vlm.server.limits import Bodies, replayed
from vlm.server.service import Service
from vlm.settings import ServeSettings

log = logging.getLogger(__name__)

SHAPES: dict[str, Callable[[Problem], dict[str, Any]]] = {
    "/api/": ollama.error_of,
    "/rkllm_chat": rkllm.error_of,
    "/v1/describe": describe.error_of,
    "/v1/": openai.error_of,
}
"""How an error is said under an address; the first that fits counts."""

LEFT = 499
"""The status in the log of a request whose client left before the end of the answer, as nginx has it."""


def create_app(
    engine: Engine, settings: ServeSettings, *, samples: Path | None = None, fetcher: Fetcher | None = None
) -> FastAPI:
    """Make the application. It starts the engine and closes it.

    samples: a directory of pictures to try. fetcher: fetches pictures from addresses.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            # Whoever still waits for an answer had the time of grace before.
            await anyio.to_thread.run_sync(engine.close, 0)

    app = FastAPI(
        title="rkvlm",
        summary="Questions about pictures, answered on a Rockchip NPU or a PC.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # both would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service = Service(engine, settings, fetcher or Fetcher(settings), samples)
    for protocol in (describe, openai, embeddings, ollama, rkllm, health):
        app.include_router(protocol.router)
    page.mount(app, samples)
    for kind in (RkvlmError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _on_error)
    app.add_middleware(Gate, service=service)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    return app


class Gate:
    """What happens to every request before and after the protocol: access, its body, the log and the figures."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._access = Access(service.settings)
        self._bodies = Bodies(service.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        state = scope.setdefault("state", {})
        state["id"] = secrets.token_hex(8)
        status: int | None = None

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", state["id"].encode())]
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._access.check(scope["path"], headers)
            async with self._bodies.read(headers, receive) as body:
                if body is not None:
                    state["body_bytes"] = len(body)
                    await self._app(scope, replayed(body, receive), noted)
        except Exception as exc:
            if status is not None:  # too late to say it
                raise
            await error_response(scope["path"], exc)(scope, receive, noted)
        finally:
            self._done(scope, status or LEFT, began)

    def _done(self, scope: Scope, status: int, began: float) -> None:
        reply = scope["state"].get("reply")
        answer = reply.answer if reply else None
        if answer is not None and reply.error is None and answer.finish_reason == "abort":
            status = LEFT
        self._service.metrics.count(logs.route_of(scope), status, answer)
        logs.request_done(scope, status, began, answer, self._service.settings.log_content)


def error_response(path: str, error: Exception) -> Response:
    """The answer to a request that failed, in the shape of its protocol. What a client is not told is logged."""
    told = problem(error)
    if told.status >= 500:
        unforeseen = error if told.status == 500 else None
        log.error("%s: %s", type(error).__name__, error, exc_info=unforeseen)
    shape = next((shape for start, shape in SHAPES.items() if path.startswith(start)), describe.error_of)
    return JSONResponse(shape(told), told.status, told.headers)


async def _on_error(request: Request, error: Exception) -> Response:
    return error_response(request.url.path, error)
