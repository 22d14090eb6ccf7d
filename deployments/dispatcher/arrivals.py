"""What comes in, as a rate. Pure."""

from math import exp

MEMORY_S = 60.0  # what came so long ago counts 1/e


class Arrivals:
    """Pictures and their cost a second, of late: an exponentially weighted mean."""

    def __init__(self) -> None:
        self._pictures = 0.0
        self._cost = 0.0
        self._at = 0.0

    def add(self, pictures: int, cost: float, now: float) -> None:
        """Take in a request's pictures, whose cost (`ImageSpec.cost`) in all is `cost`."""
        self._forget(now)
        self._pictures += pictures
        self._cost += cost

    def per_s(self, now: float) -> tuple[float, float]:
        """Return pictures a second, and cost a second."""
        self._forget(now)
        return self._pictures / MEMORY_S, self._cost / MEMORY_S

    def _forget(self, now: float) -> None:
        kept = exp((self._at - now) / MEMORY_S)
        self._pictures, self._cost, self._at = self._pictures * kept, self._cost * kept, now
