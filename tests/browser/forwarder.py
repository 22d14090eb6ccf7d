"""A TCP forwarder before the page, whose connections can be cut, or go silent, as those of a laptop do."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STREAM = b"/gradio_api/queue/data"


class Forwarder:
    """Forwards from a port of its own to another, both on this machine."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = self._listening(0)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: list[tuple[socket.socket, socket.socket]] = []
        self._requests: dict[tuple[socket.socket, socket.socket], bytes] = {}  # the last one of each connection

    def cut(self) -> None:
        """End every connection and refuse new ones, until `restore`."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        while self._pairs:
            _close(self._pairs.pop())

    def restore(self) -> None:
        """Accept connections again."""
        self._listener = self._listening(self.port)

    def silence_streams(self) -> None:
        """Forward nothing more of the event streams that are open, and do not end them."""
        self._silent += [pair for pair in self._pairs if STREAM in self._requests.get(pair, b"")]

    def _listening(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = listener.accept()
                pair = client, socket.create_connection(("127.0.0.1", self._to_port))
                self._pairs.append(pair)
                for source, target in (pair, pair[::-1]):
                    threading.Thread(target=self._forward, args=(pair, source, target), daemon=True).start()

    def _forward(self, pair: tuple[socket.socket, socket.socket], source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # it was closed
            while content := source.recv(65536):
                if source is pair[0]:
                    self._requests[pair] = content
                if pair not in self._silent:
                    target.sendall(content)
        if pair not in self._silent:
            _close(pair)


@contextmanager
def forwarding(to_port: int) -> Iterator[Forwarder]:
    """A forwarder for a while."""
    forwarder = Forwarder(to_port)
    try:
        yield forwarder
    finally:
        forwarder.cut()


def _close(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        with suppress(OSError):  # the other thread has closed it
            end.shutdown(socket.SHUT_RDWR)
        end.close()
