"""Runs the service: the socket, the engine, uvicorn, signals."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vlm import Engine, Health, ModelChoice
from vlm.errors import EngineStoppingError, OptionError, RkvlmError
from vlm.memory import keep_pages
from vlm.resources import samples_dir
from vlm.server import logs
from vlm.server.app import create_app
from vlm.server.auth import check_binding
from vlm.server.notify import Notifier
from vlm.settings import ServeSettings

_LAST_WORDS_S = 2
"""Time to tell those whose answers the grace was too short for."""


def serve(settings: ServeSettings, *, pictures: bool = True, options: Mapping[str, Any] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then running answers have `grace_s` seconds to end.

    options: of a question that gives none. Raises OptionError, and what opening the model raised.
    """
    check_binding(settings)
    logs.set_up(settings.log_level)
    keep_pages()
    engine = Engine(_choice(settings, pictures, options or {}), settings.engine_limits())
    with _listening(settings) as listening:
        server = _Server(_config(engine, settings), engine, settings)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when all is over
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    if server.failure is not None:
        raise server.failure


def _choice(settings: ServeSettings, pictures: bool, options: Mapping[str, Any]) -> ModelChoice:
    return ModelChoice(
        encoder=settings.encoder,
        llm=settings.llm,
        pictures=pictures,
        settings=settings.model_settings(),
        options=dict(options),
    )


def _config(engine: Engine, settings: ServeSettings) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(engine, settings, samples=samples_dir()),
        http=_protocol(settings),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.grace_s) + _LAST_WORDS_S,
    )


def _listening(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
        # Else a token waits for the client to say that it has the one before, up to 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as exc:
        raise OptionError(f"Cannot listen on {settings.host} port {settings.port}: {exc.strerror or exc}.") from exc


def _protocol(settings: ServeSettings) -> type[H11Protocol]:
    class Protocol(H11Protocol):
        """HTTP/1.1 on one of at most so many connections, each of which has to say something in time."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                transport.abort()
            self._silence = self.loop.call_later(settings.body_timeout_s, self._close_if_silent)

        def connection_lost(self, exc: Exception | None) -> None:
            self._silence.cancel()  # it would hold the connection and the last request's pictures until then
            super().connection_lost(exc)

        def _close_if_silent(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    return Protocol


class _Server(uvicorn.Server):
    """uvicorn, which says when the model is open, and ends when it cannot be opened. systemd is told too."""

    def __init__(self, config: uvicorn.Config, engine: Engine, settings: ServeSettings) -> None:
        super().__init__(config)
        self.failure: RkvlmError | None = None
        self._engine, self._settings = engine, settings
        self._notifier = Notifier.from_environment()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            self._say(f"listening on {_address(sockets[0])}")
            self._waiting = asyncio.create_task(self._wait())
            limits = self._settings.engine_limits()
            self._watching = asyncio.create_task(self._notifier.watch(self._engine.health, limits))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._notifier.say("STOPPING=1")
        # Who waits is told now, who is being answered when the grace is over; uvicorn would end both without a word.
        self._engine.stop(self._settings.grace_s)
        await super().shutdown(sockets)

    async def _wait(self) -> None:
        try:
            health = await asyncio.to_thread(self._engine.wait_ready)
        except EngineStoppingError:
            return
        except RkvlmError as exc:
            self.failure, self.should_exit = exc, True
            return
        for line in banner(health, self._settings):
            self._say(line)
        self._notifier.say("READY=1")

    @staticmethod
    def _say(text: str) -> None:
        print(f"vlm: {text}", file=sys.stderr, flush=True)


def banner(health: Health, settings: ServeSettings) -> list[str]:
    """What is said once the model is open."""
    model = health.model
    assert model is not None
    keys = f"{len(settings.api_keys)} API keys" if settings.api_keys else "no API key"
    return [
        f"model {model.name} ({model.description}), runtime {model.runtime} {model.release}",
        f"NPU cores: {model.cores or 'none, this is no board'}",
        f"limits: {settings.queue} waiting, {settings.max_images} pictures of {settings.max_image_bytes >> 20} MiB, "
        f"{settings.max_prompt_chars} characters, {settings.max_answer_tokens} new tokens, "
        f"{settings.deadline_s:g} s an answer; {keys}",
    ]


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
