"""How Serve's HTTP proxy reads a connection: uvicorn's h11 protocol, with bounds that uvicorn has no options for.

h11, and not httptools, which is uvicorn's default where it is installed: it bounds the bytes of a request's head before
there is a request, and it reads the body of a request that offers another protocol, as `curl --http2` does.
"""

import asyncio
from typing import Any

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from deployments.error_responses import respond
from models.errors import InvalidRequest

MAX_HEAD = 64 * 1024  # bytes in memory; above 16 KiB of headers the door explains, above this the connection ends
HEAD_WITHIN_S = 10.0
MAX_CONNECTIONS = 4000  # of a proxy; with the bound above, 256 MiB
NOT_HTTP = f"This is not valid HTTP/1.1, or its request line and headers have more than {MAX_HEAD // 1024} KiB."


class Connection(H11Protocol):
    """One connection: it ends where a request's head is too large or too slow, or where there are too many of it."""

    def __init__(self, config: Any, *given: Any, **named: Any) -> None:
        config.h11_max_incomplete_event_size = MAX_HEAD
        config.ws_protocol_class = None  # nothing here speaks WebSocket: a handshake is a request like any other
        super().__init__(config, *given, **named)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there is room."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._forget_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read, in the words of the API, and end the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal: Response = respond(InvalidRequest(NOT_HTTP))
            headers = [*refusal.raw_headers, (b"connection", b"close")]
            head = h11.Response(status_code=400, headers=headers, reason=STATUS_PHRASES[400])
            for event in (head, h11.Data(data=bytes(refusal.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch_head(self) -> None:
        """Have a deadline while a head is expected, from the connection's begin or the head's first bytes."""
        if self.conn.their_state is not h11.IDLE:
            self._forget_deadline()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_WITHIN_S, self.transport.close)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
