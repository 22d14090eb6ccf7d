"""The time of day that jobs are given, which goes on steadily when the system's clock jumps."""

import logging
import time
from collections.abc import Callable

FOLLOWED_S = 60.0  # larger changes of the system's clock are jumps
HOLD_S = 3600.0  # how long a jump must last to be believed

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


class SteadyClock:
    """The system's clock without its jumps: what ends for good by the time of day must not end by a mistake.

    Corrections of up to a minute are followed at once, and a jump once it has lasted for an hour. Between two calls it
    goes on by `time.monotonic`, which stands still while a machine is suspended: afterwards the clock has jumped.
    """

    def __init__(
        self,
        *,
        system: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        hold_s: float = HOLD_S,
    ) -> None:
        self._system = system
        self._monotonic = monotonic
        self._hold_s = hold_s
        self._since = monotonic()  # when the system's clock jumped last, or this clock began
        self._offset = system() - self._since  # from the monotonic clock
        self._jump_s = 0.0  # by which the system's clock is ahead

    def now(self) -> float:
        """Return seconds since 1970."""
        ticks = self._monotonic()
        ahead_s = self._system() - ticks - self._offset
        if abs(ahead_s) <= FOLLOWED_S:
            if self._jump_s:
                logger.warning("the system clock has jumped back: it is followed again")
            self._offset += ahead_s
            self._jump_s = 0.0
        elif abs(ahead_s - self._jump_s) > FOLLOWED_S:
            logger.warning("the system clock jumped by %+.0f s: followed if it stays for %.0f s", ahead_s, self._hold_s)
            self._since, self._jump_s = ticks, ahead_s
        if self._jump_s and ticks - self._since >= self._hold_s:
            logger.warning("the system clock has stayed where it jumped to: it is followed again, by %+.0f s", ahead_s)
            self._offset += ahead_s
            self._jump_s = 0.0
        return ticks + self._offset

    @property
    def settled(self) -> bool:
        """Whether the system's clock has not jumped for an hour; nor for the first hour, as it may have begun wrong."""
        self.now()
        return self._monotonic() - self._since >= self._hold_s
