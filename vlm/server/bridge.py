"""From the engine's threads to asyncio: an answer in batches of pieces, ended when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from vlm import Answer, Reply


async def news(reply: Reply) -> AsyncIterator[int | list[str]]:
    """What happens to an answer: its place in line where that changes, and the pieces that wait, all at once.

    Raises what ended the answer. Leaving early cancels it.
    """
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    called = False

    def wake() -> None:
        nonlocal called
        if not called:  # for thousands of tokens a second, one wake-up for all that come before it is noticed
            called = True
            loop.call_soon_threadsafe(event.set)

    place: int | None = None
    try:
        reply.listen(wake)
        while True:
            await event.wait()
            event.clear()
            called = False
            over = reply.done  # looked at first: what comes after it is for the next time
            if pieces := reply.take():
                yield pieces
            elif reply.position not in (None, place):
                yield (place := reply.position or 0)
            if over:
                break
        if reply.error is not None:
            raise reply.error
    finally:
        reply.close()


async def pieces(reply: Reply) -> AsyncIterator[list[str]]:
    """The pieces of an answer in batches, see `news`."""
    async with aclosing(news(reply)) as told:  # type: ignore[type-var]
        async for item in told:
            if isinstance(item, list):
                yield item


@asynccontextmanager
async def watched(request: Request, reply: Reply) -> AsyncIterator[None]:
    """Cancel the answer if the client leaves in the block."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        reply.close()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def whole(request: Request, reply: Reply) -> Answer:
    """Wait for the end of an answer. Raises what ended it."""
    async with watched(request, reply):
        async for _ in pieces(reply):
            pass
    return reply.answer


async def begun(request: Request, reply: Reply) -> AsyncIterator[list[str]]:
    """Wait until an answer begins, so that what is wrong with a question is said with a status of its own.

    Returns its pieces in batches. Raises what ended it before it began.
    """
    told = pieces(reply)
    async with watched(request, reply):
        first: list[str] = await anext(told, [])

    async def rest() -> AsyncIterator[list[str]]:
        yield first
        async for batch in told:
            yield batch

    return rest()


class Streamed(StreamingResponse):
    """An answer as it is told; however the response ends, the answer does not outlive it."""

    def __init__(self, reply: Reply, content: AsyncIterator[bytes], media_type: str) -> None:
        # Proxies are asked not to collect the pieces.
        super().__init__(
            content, media_type=media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reply.close()
