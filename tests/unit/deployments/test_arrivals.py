"""What comes in, as a rate."""

import pytest

from deployments.dispatcher.arrivals import MEMORY_S, Arrivals


def test_a_steady_stream_is_told_as_its_rate() -> None:
    arrivals = Arrivals()
    for second in range(round(10 * MEMORY_S)):
        arrivals.add(2, 0.5, float(second))
    pictures, cost = arrivals.per_s(10 * MEMORY_S)
    assert pictures == pytest.approx(2, rel=0.02)
    assert cost == pytest.approx(0.5, rel=0.02)


def test_what_came_long_ago_is_forgotten() -> None:
    arrivals = Arrivals()
    arrivals.add(100, 100, 1000.0)
    assert arrivals.per_s(1000.0 + 20 * MEMORY_S)[0] < 1e-6
    assert Arrivals().per_s(1e9) == (0, 0)
