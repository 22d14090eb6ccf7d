"""What `make soak` calls growth."""

from collections.abc import Callable
from random import Random

import pytest

from tests.chaos.soak import Sample, growth


def half_an_hour(private_mb: Callable[[int], float], files: Callable[[int], int] = lambda jobs: 40) -> list[Sample]:
    """A process looked at once a minute, in each of which a hundred jobs end."""
    return [Sample(jobs, private_mb(jobs), files(jobs), threads=30) for jobs in range(0, 3000, 100)]


def test_a_process_that_holds_now_more_now_less_holds() -> None:
    swings = Random(1)
    grown = growth("swings", 1, half_an_hour(lambda _: 400 + swings.random()))
    assert grown is not None
    assert abs(grown.mb_per_1000_jobs) < 0.5
    assert grown.held


def test_one_that_keeps_some_of_what_it_takes_does_not() -> None:
    swings = Random(1)
    grown = growth("leaks", 1, half_an_hour(lambda jobs: 400 + 1.5 * jobs / 1000 + swings.random()))
    assert grown is not None
    assert grown.mb_per_1000_jobs == pytest.approx(1.5, abs=0.3)
    assert not grown.held


def test_one_that_leaves_files_open_does_not() -> None:
    grown = growth("files", 1, half_an_hour(lambda _: 400, files=lambda jobs: 40 + jobs // 100))
    assert grown is not None
    assert not grown.held


def test_what_fills_in_the_first_half_is_no_growth() -> None:
    grown = growth("fills", 1, half_an_hour(lambda jobs: 400 + min(jobs, 1000) / 10))
    assert grown is not None
    assert grown.held


def test_nothing_is_said_of_a_process_that_saw_few_jobs() -> None:
    assert growth("young", 1, half_an_hour(lambda _: 400)[:6]) is None
