"""What the forecast says of small queues, worked out by hand, and of any queue."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.dispatcher.forecast import Estimate, Task, forecast

SMALL, LARGE = 64 * 64, 128 * 128


def step_s(rows: int, pixels: int) -> float:
    """A forward costs a tenth of a second, and a tenth a row; four times that for large pictures."""
    return (1 + rows) * 0.1 * (pixels // SMALL)


def foretold(*tasks: Task, replicas: int = 1, max_rows: int = 4, around_s: float = 0.0) -> list[tuple[float, float]]:
    """Start and end of each task, rounded."""
    named = list(enumerate(tasks))
    found = forecast(named, replicas=replicas, max_rows=max_rows, step_s=step_s, around_s=around_s)
    return [(round(found[k].start_s, 6), round(found[k].end_s, 6)) for k, _ in named]


def test_nothing_to_do_is_done() -> None:
    assert foretold() == []


def test_one_picture_takes_its_steps_and_what_is_around_them() -> None:
    assert foretold(Task(rows=2, pixels=SMALL, steps=10), around_s=0.5) == [(0, 10 * 0.3 + 0.5)]


def test_two_pictures_of_a_size_share_each_forward() -> None:
    assert foretold(Task(2, SMALL, 10), Task(2, SMALL, 10)) == [(0, 10 * 0.5)] * 2


def test_a_picture_that_shares_goes_on_alone_when_the_other_has_ended() -> None:
    ended, went_on = foretold(Task(2, SMALL, 10), Task(2, SMALL, 14))
    assert ended == (0, 10 * 0.5)
    assert went_on == (0, 10 * 0.5 + 4 * 0.3)


def test_where_rows_are_short_the_second_starts_when_the_first_ends() -> None:
    assert foretold(Task(2, SMALL, 10), Task(2, SMALL, 5), max_rows=2) == [(0, 3.0), (3.0, 4.5)]


def test_a_small_picture_does_not_overtake_a_large_one_that_waits_for_room() -> None:
    first, second, third = foretold(Task(2, SMALL, 10), Task(2, SMALL, 5), Task(1, SMALL, 1), max_rows=3)
    assert second[0] == first[1]
    assert third[0] == first[1]


def test_two_sizes_take_turns() -> None:
    assert foretold(Task(1, SMALL, 10), Task(1, LARGE, 10)) == [(0, 10 * (0.2 + 0.8))] * 2


def test_replicas_share_the_rows() -> None:
    tasks = [Task(2, SMALL, 10)] * 4
    assert foretold(*tasks, replicas=1) == [(0, 5.0)] * 2 + [(5.0, 10.0)] * 2
    assert foretold(*tasks, replicas=2) == [(0, 5.0)] * 4
    assert foretold(*tasks, replicas=4) == [(0, 3.0)] * 4


def test_a_denoiser_that_is_scaled_to_zero_counts_as_one() -> None:
    assert foretold(Task(1, SMALL, 10), replicas=0) == foretold(Task(1, SMALL, 10), replicas=1)


def test_a_picture_with_all_its_steps_made_still_has_to_be_decoded() -> None:
    assert foretold(Task(2, SMALL, 0), around_s=0.5) == [(0, 0.5)]
    assert foretold(Task(2, SMALL, -1), around_s=0.5) == [(0, 0.5)]


def test_a_picture_of_more_rows_than_fit_is_drawn_all_the_same() -> None:
    assert foretold(Task(2, SMALL, 10), max_rows=1) == [(0, 3.0)]


tasks_of_all_kinds = st.lists(
    st.builds(Task, rows=st.sampled_from([1, 2]), pixels=st.sampled_from([SMALL, LARGE]), steps=st.integers(0, 20)),
    max_size=12,
)


@given(tasks=tasks_of_all_kinds, replicas=st.integers(0, 4), max_rows=st.integers(2, 8), around_s=st.floats(0, 2))
def test_every_picture_gets_an_estimate_and_starts_in_order_and_before_it_ends(
    tasks: list[Task], replicas: int, max_rows: int, around_s: float
) -> None:
    found = forecast(list(enumerate(tasks)), replicas=replicas, max_rows=max_rows, step_s=step_s, around_s=around_s)
    estimates = [found.pop(k) for k in range(len(tasks))]
    assert not found
    assert all(0 <= estimate.start_s <= estimate.end_s for estimate in estimates)
    assert all(before.start_s <= after.start_s for before, after in itertools.pairwise(estimates))
    for task, estimate in zip(tasks, estimates, strict=True):
        alone_s = task.steps * step_s(1, task.pixels)
        assert estimate.end_s - estimate.start_s >= alone_s + around_s - 1e-9


@given(tasks=tasks_of_all_kinds, max_rows=st.integers(2, 8))
def test_never_are_more_rows_in_the_making_than_fit(tasks: list[Task], max_rows: int) -> None:
    found = forecast(list(enumerate(tasks)), replicas=1, max_rows=max_rows, step_s=step_s, around_s=0.0)
    for moment in {estimate.start_s for estimate in found.values()}:
        active = [tasks[k].rows for k, e in found.items() if e.start_s <= moment < e.end_s]
        assert sum(active) <= max_rows


@given(
    tasks=st.lists(st.builds(Task, rows=st.just(2), pixels=st.just(SMALL), steps=st.integers(0, 20)), max_size=12),
    replicas=st.integers(1, 4),
    pictures=st.integers(1, 4),
    curve=st.lists(st.floats(0.001, 1), min_size=8, max_size=8).map(sorted),
)
def test_more_replicas_make_no_picture_of_a_kind_later_on_any_curve_that_rises_with_the_rows(
    tasks: list[Task], replicas: int, pictures: int, curve: list[float]
) -> None:
    def ends(replicas: int) -> dict[int, Estimate]:
        return forecast(
            list(enumerate(tasks)),
            replicas=replicas,
            max_rows=2 * pictures,
            step_s=lambda rows, _: curve[rows - 1],
            around_s=0.0,
        )

    fewer, more = ends(replicas), ends(replicas + 1)
    for k, estimate in more.items():
        assert estimate.start_s <= fewer[k].start_s + 1e-9
        assert estimate.end_s <= fewer[k].end_s + 1e-9


@given(tasks=tasks_of_all_kinds, extra=tasks_of_all_kinds)
def test_who_comes_later_makes_nobody_start_later(tasks: list[Task], extra: list[Task]) -> None:
    def starts(tasks: list[Task]) -> list[float]:
        found = forecast(list(enumerate(tasks)), replicas=1, max_rows=2, step_s=lambda *_: 1.0, around_s=0.0)
        return [found[k].start_s for k in range(len(tasks))]

    assert starts(tasks + extra)[: len(tasks)] == pytest.approx(starts(tasks))
