"""How many requests one owner, and all owners together, may have open at one replica.

A replica of an ingress takes `max_ongoing_requests` at a time; Serve lets the rest wait. Streams and waiting requests
last as long as their jobs, so without a bound one owner's would keep everybody else's, and the probes, waiting.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from deployments.errors import TooManyRequests
from deployments.keys import Keyring
from models.errors import Unavailable

OF_ONE = 0.25  # of `max_ongoing_requests`, for one owner
OF_ONE_ADDRESS = 0.5  # where there are no keys: a caller can make up any number of cookies
OF_ALL = 0.9  # the rest is for probes
CHECK_INTERVAL_S = 5.0  # between two looks at a stream's key
RETRY_AFTER_S = 5


class OpenRequests:
    """Counts the requests that are being answered."""

    def __init__(self, max_ongoing_requests: int) -> None:
        self._most = int(OF_ALL * max_ongoing_requests)
        self._most_of_one = int(OF_ONE * max_ongoing_requests)
        self._most_of_address = int(OF_ONE_ADDRESS * max_ongoing_requests)
        self._open = 0
        self._open_of = Counter[str]()

    @contextmanager
    def counted(self, owner: str, address: str = "") -> Iterator[None]:
        """Count a request of an owner while it is answered, and where one is given, of the address that it is from.

        Raises:
            TooManyRequests: the owner or the address has too many open already.
            Unavailable: all owners together have.
        """
        for name, most in ((owner, self._most_of_one), (address, self._most_of_address)):
            if name and self._open_of[name] >= most:
                message = f"At most {most} requests of yours may be open at a time: end some, or poll instead."
                raise TooManyRequests(message, RETRY_AFTER_S)
        if self._open >= self._most:
            raise Unavailable(f"{self._most} requests are open already. Try again soon.")
        names = {owner, address} - {""}
        self._open += 1
        self._open_of.update(names)
        try:
            yield
        finally:
            self._open -= 1
            self._open_of.subtract(names)
            for name in names:
                if not self._open_of[name]:
                    del self._open_of[name]


def until_removed(keys: Keyring | None, secret: str, receive: Receive) -> Receive:
    """Return a `receive` that reports a disconnect once the key of `secret` was removed: a stream then ends."""
    if keys is None:
        return receive

    async def receive_or_end() -> Message:
        while True:
            try:
                async with asyncio.timeout(CHECK_INTERVAL_S):
                    return await receive()
            except TimeoutError:
                if keys.find(secret) is None:
                    return {"type": "http.disconnect"}

    return receive_or_end
