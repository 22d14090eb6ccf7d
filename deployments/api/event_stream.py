"""Server-sent events: how one is encoded, and the comments that keep a silent connection open."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import anyio
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.responses import JSONResponse

KEEP_ALIVE_INTERVAL_S = 15.0  # proxies cut connections that are silent for 20 to 60 s
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx then passes each event on at once


def encode_event(data: Any, event: str | None = None, id: str | None = None) -> bytes:
    """Return an event with JSON data, and with a name and an id if it has them."""
    return format_sse_event(data_str=bytes(JSONResponse(data).body).decode(), event=event, id=id)


def event_stream(events: AsyncGenerator[bytes, None], headers: Mapping[str, str] = {}) -> EventSourceResponse:
    """Return the response that sends encoded events as they come, with comments while none comes."""
    return EventSourceResponse(keep_alive(events), headers={**HEADERS, **headers})


async def keep_alive(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield events, and a comment after each `KEEP_ALIVE_INTERVAL_S` seconds without one."""
    async with aclosing(events):
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait({coming}, timeout=KEEP_ALIVE_INTERVAL_S))[0]:
                    yield KEEP_ALIVE
            finally:
                coming.cancel()  # the reader has left, else it is done
                with anyio.CancelScope(shield=True):  # Starlette cancels again and again
                    await asyncio.wait({coming})  # a generator that still runs cannot be closed
            if (event := coming.result()) is None:
                return
            yield event
