"""How Serve's HTTP proxy reads a connection: uvicorn's h11 protocol, with bounds that uvicorn has no options for.

h11 instead of httptools, uvicorn's default if installed: h11 bounds the bytes of a request's head before the request is
complete, and it reads the body of a request that offers another protocol, as `curl --http2` does.
"""

import asyncio
from typing import Any

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from deployments.error_responses import respond
from models.errors import InvalidRequest

MAX_HEAD = 64 * 1024  # bytes in memory; beyond 16 KiB `RequestGuard` explains, beyond this the connection ends
HEAD_TIMEOUT_S = 10.0  # also for the rest of a body whose request is answered already
MAX_CONNECTIONS = 4000  # to a proxy; times `MAX_HEAD`: 256 MiB
NOT_HTTP = f"This is not valid HTTP/1.1, or its request line and headers have more than {MAX_HEAD // 1024} KiB."


class Connection(H11Protocol):
    """One connection. It ends when a request's head is too large, or when the request arrives too slowly.

    Beyond `MAX_CONNECTIONS`, the one that has been idle for longest is closed for each new one.
    """

    def __init__(self, config: Any, *given: Any, **named: Any) -> None:
        config.h11_max_incomplete_event_size = MAX_HEAD
        config.ws_protocol_class = None  # nothing here speaks WebSocket: a handshake is a request like any other
        super().__init__(config, *given, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self._answered_at = 0.0  # on the event loop's clock

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, if there is room."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            idle = [each for each in self.connections if isinstance(each, Connection) and each.is_idle]
            min(idle, key=lambda each: each._answered_at, default=self).transport.close()
        self._watch(has_begun=True)

    def data_received(self, data: bytes) -> None:
        """Read more of a request."""
        super().data_received(data)
        self._watch(has_begun=True)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._answered_at = self.loop.time()
        super().on_response_complete()
        self._watch(has_begun=bool(self.conn.trailing_data[0]))

    @property
    def is_idle(self) -> bool:
        """Whether a request was answered, and none has come since."""
        return self._answered_at > 0 and self.cycle.response_complete and not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._forget_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer an unreadable request with an error of the API, and end the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal: Response = respond(InvalidRequest(NOT_HTTP))
            headers = [*refusal.raw_headers, (b"connection", b"close")]
            head = h11.Response(status_code=400, headers=headers, reason=STATUS_PHRASES[400])
            for event in (head, h11.Data(data=bytes(refusal.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self, has_begun: bool) -> None:
        """Set a deadline while a head that `has_begun` is incomplete, or the rest of a body arrives after the answer.

        Between two requests uvicorn's keep-alive timeout applies.
        """
        is_head = self.conn.their_state is h11.IDLE and has_begun
        is_rest = self.conn.their_state is h11.SEND_BODY and self.conn.our_state in (h11.DONE, h11.MUST_CLOSE)
        if not (is_head or is_rest):
            self._forget_deadline()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
