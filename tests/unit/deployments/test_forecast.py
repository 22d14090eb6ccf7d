"""What the forecast says of small queues, worked out by hand, and of any queue."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.dispatcher.forecast import Estimate, Fleet, Size, Task, forecast, rows_in_flight

SMALL, LARGE = (64, 64), (128, 128)


def step_s(rows: int, size: Size) -> float:
    """A forward costs a tenth of a second, and a tenth a row; four times that for large pictures."""
    return (1 + rows) * 0.1 * size[0] * size[1] / 64**2


def a_fleet(replicas: int = 1, max_rows: int = 4, flight: int | None = None, decode_s: float = 0.0, **changes) -> Fleet:
    """Denoisers that are given no more rows than they draw at a time, unless `flight` says so."""
    known = {"batch_rows": lambda _: max_rows, "step_s": step_s, "decode_s": lambda _: decode_s}
    in_flight = replicas * max_rows if flight is None else flight
    return Fleet(replicas=replicas, rows_in_flight=in_flight, **known | changes)


def foretold(*tasks: Task, **fleet) -> list[tuple[float, float]]:
    """Start and end of each task, rounded."""
    return [(round(one.start_s, 6), round(one.end_s, 6)) for one in forecast(tasks, a_fleet(**fleet))]


def test_nothing_to_do_is_done() -> None:
    assert foretold() == []


def test_one_picture_takes_its_steps_and_what_is_around_them() -> None:
    assert foretold(Task(rows=2, size=SMALL, steps=10), decode_s=0.5) == [(0, 10 * 0.3 + 0.5)]


def test_two_pictures_of_a_size_share_each_forward() -> None:
    assert foretold(Task(2, SMALL, 10), Task(2, SMALL, 10)) == [(0, 10 * 0.5)] * 2


def test_a_picture_that_shares_goes_on_alone_when_the_other_has_ended() -> None:
    ended, went_on = foretold(Task(2, SMALL, 10), Task(2, SMALL, 14))
    assert ended == (0, 10 * 0.5)
    assert went_on == (0, 10 * 0.5 + 4 * 0.3)


def test_where_rows_are_short_the_second_starts_when_the_first_ends() -> None:
    assert foretold(Task(2, SMALL, 10), Task(2, SMALL, 5), max_rows=2) == [(0, 3.0), (3.0, 4.5)]


def test_a_picture_that_leaves_the_line_early_waits_for_the_batch_all_the_same() -> None:
    assert foretold(*[Task(2, SMALL, 10)] * 3, max_rows=2, flight=4) == [(0, 3.0), (0, 6.0), (3.0, 9.0)]


def test_a_picture_that_is_being_decoded_still_is_in_flight() -> None:
    tasks = [Task(2, SMALL, 10)] * 3
    assert foretold(*tasks, max_rows=2, flight=4, decode_s=1.0) == [(0, 4.0), (0, 7.0), (4.0, 10.0)]
    assert foretold(*tasks, max_rows=2, flight=2, decode_s=1.0) == [(0, 4.0), (4.0, 8.0), (8.0, 12.0)]


def test_a_picture_of_one_row_does_not_overtake_one_of_two_that_waits_for_room() -> None:
    first, second, third = foretold(Task(2, SMALL, 10), Task(2, SMALL, 5), Task(1, SMALL, 1), max_rows=3, flight=9)
    assert second[1] == pytest.approx(first[1] + 1 * 0.4 + 4 * 0.3)
    assert third[1] == pytest.approx(first[1] + 1 * 0.4)


def test_a_size_with_room_does_not_wait_for_one_without() -> None:
    tasks = Task(2, SMALL, 10), Task(2, SMALL, 10), Task(2, LARGE, 10)
    assert foretold(*tasks, max_rows=2, flight=6)[2] == (0, pytest.approx(20 * 0.3 + 10 * 1.2))


def test_a_picture_that_arrives_later_joins_then_and_finds_an_idle_denoiser_where_all_is_done() -> None:
    meanwhile = Task(2, SMALL, 10), Task(2, SMALL, 10, arrives_s=1.5)
    assert foretold(*meanwhile) == [(0, 1.5 + 5 * 0.5), (1.5, 1.5 + 5 * 0.5 + 5 * 0.3)]
    afterwards = Task(2, SMALL, 10), Task(2, SMALL, 10, arrives_s=7.0)
    assert foretold(*afterwards, decode_s=1.0) == [(0, 4.0), (7.0, 11.0)]


def test_a_picture_that_arrives_while_all_rows_are_taken_waits() -> None:
    assert foretold(Task(2, SMALL, 10), Task(2, SMALL, 10, arrives_s=1.0), max_rows=2) == [(0, 3.0), (3.0, 6.0)]


def test_while_a_stage_sleeps_pictures_leave_the_line_and_make_no_step() -> None:
    assert foretold(*[Task(2, SMALL, 10)] * 2, max_rows=2, cold_start_s=20.0) == [(0, 23.0), (23.0, 26.0)]


def test_twice_as_many_rows_are_in_flight_as_can_be_drawn_and_a_sleeping_denoiser_counts_as_one() -> None:
    assert [rows_in_flight(16, replicas) for replicas in (0, 1, 3)] == [32, 32, 96]


def test_sizes_share_the_work_so_that_small_pictures_make_more_steps() -> None:
    small_s, large_s = 0.2, 0.8  # a forward of one row; four small ones cost as much as a large one
    small, large = foretold(Task(1, SMALL, 10), Task(1, LARGE, 10))
    assert small == (0, pytest.approx(10 * (small_s + large_s / 4)))
    assert large == (0, pytest.approx(10 * small_s + 10 * large_s))
    tall = (64, 128), (128, 64)
    assert foretold(Task(1, tall[0], 10), Task(1, tall[1], 10)) == [(0, pytest.approx(10 * 0.4 * 2))] * 2


def test_replicas_share_the_rows() -> None:
    tasks = [Task(2, SMALL, 10)] * 4
    assert foretold(*tasks, replicas=1) == [(0, 5.0)] * 2 + [(5.0, 10.0)] * 2
    assert foretold(*tasks, replicas=2) == [(0, 5.0)] * 4
    assert foretold(*tasks, replicas=4) == [(0, 3.0)] * 4


def test_a_guided_picture_is_not_split_between_replicas() -> None:
    assert foretold(Task(2, SMALL, 10), replicas=3) == foretold(Task(2, SMALL, 10), replicas=1)


def test_a_picture_with_all_its_steps_made_still_has_to_be_decoded() -> None:
    assert foretold(Task(2, SMALL, 0), decode_s=0.5) == [(0, 0.5)]
    assert foretold(Task(2, SMALL, -1), decode_s=0.5) == [(0, 0.5)]


def test_a_picture_of_more_rows_than_fit_is_drawn_all_the_same() -> None:
    assert foretold(Task(2, SMALL, 10), max_rows=1) == [(0, 3.0)]


def test_an_image_of_two_passes_makes_one_after_the_other_at_their_sizes() -> None:
    second = Task(2, LARGE, 5)
    assert foretold(Task(2, SMALL, 10, then=second, pause_s=0.5), decode_s=0.25) == [(0, 3.0 + 0.5 + 5 * 1.2 + 0.25)]
    assert foretold(Task(2, SMALL, 0, then=second)) == foretold(second)


def test_it_stays_in_flight_between_its_passes_and_leaves_its_place_in_the_batch_to_others() -> None:
    tasks = Task(2, SMALL, 10, then=Task(2, LARGE, 5), pause_s=3.0), Task(2, SMALL, 10), Task(2, SMALL, 10)
    assert foretold(*tasks, max_rows=2, flight=2) == [(0, 12.0), (12.0, 15.0), (15.0, 18.0)]
    assert foretold(*tasks[:2], max_rows=2, flight=4) == [(0, 12.0), (0, 6.0)]


def a_task(rows: int, passes: list[tuple[Size, int, float]]) -> Task:
    """A task of some passes: size, steps, and the pause after each."""
    task: Task | None = None
    for size, steps, pause_s in reversed(passes):
        task = Task(rows, size, steps, then=task, pause_s=pause_s)
    assert task is not None
    return task


def alone_s(task: Task) -> float:
    """Seconds of a task that shares no forwards, without decoding."""
    own_s = task.steps * step_s(task.rows, task.size)
    return own_s if task.then is None else own_s + task.pause_s + alone_s(task.then)


passes = st.tuples(st.sampled_from([SMALL, LARGE]), st.integers(0, 20), st.sampled_from([0.0, 0.7]))
tasks_of_all_kinds = st.lists(
    st.builds(a_task, st.sampled_from([1, 2]), st.lists(passes, min_size=1, max_size=2)), max_size=12
)


@given(
    tasks=tasks_of_all_kinds,
    replicas=st.integers(1, 4),
    max_rows=st.integers(2, 8),
    flight=st.integers(1, 30),
    decode_s=st.floats(0, 2),
    cold_start_s=st.sampled_from((0.0, 5.0)),
)
def test_every_picture_starts_in_order_and_before_it_ends(
    tasks: list[Task], replicas: int, max_rows: int, flight: int, decode_s: float, cold_start_s: float
) -> None:
    fleet = a_fleet(replicas, max_rows, flight, decode_s=decode_s, cold_start_s=cold_start_s)
    estimates = forecast(tasks, fleet)
    assert len(estimates) == len(tasks)
    assert all(before.start_s <= after.start_s for before, after in itertools.pairwise(estimates))
    for task, estimate in zip(tasks, estimates, strict=True):
        assert estimate.end_s - estimate.start_s >= alone_s(task) + decode_s - 1e-9
        assert estimate.end_s >= cold_start_s


@given(tasks=tasks_of_all_kinds, max_rows=st.integers(2, 8), flight=st.integers(1, 30), decode_s=st.floats(0, 2))
def test_never_is_a_picture_granted_beyond_the_flight(
    tasks: list[Task], max_rows: int, flight: int, decode_s: float
) -> None:
    estimates = forecast(tasks, a_fleet(1, max_rows, flight, decode_s=decode_s))
    for k, moment in enumerate(estimate.start_s for estimate in estimates):
        before = [task.rows for task, e in zip(tasks[:k], estimates, strict=False) if e.end_s > moment + 1e-9]
        assert sum(before) < flight or not before


@given(
    tasks=st.lists(st.builds(Task, rows=st.just(2), size=st.just(SMALL), steps=st.integers(0, 20)), max_size=12),
    replicas=st.integers(1, 4),
    pictures=st.integers(1, 4),
    curve=st.lists(st.floats(0.001, 1), min_size=8, max_size=8).map(sorted),
)
def test_more_replicas_make_no_picture_of_a_kind_later_on_any_curve_that_rises_with_the_rows(
    tasks: list[Task], replicas: int, pictures: int, curve: list[float]
) -> None:
    def ends(replicas: int) -> list[Estimate]:
        return forecast(tasks, a_fleet(replicas, 2 * pictures, step_s=lambda rows, _: curve[rows - 1]))

    for fewer, more in zip(ends(replicas), ends(replicas + 1), strict=True):
        assert more.start_s <= fewer.start_s + 1e-9
        assert more.end_s <= fewer.end_s + 1e-9


@given(tasks=tasks_of_all_kinds, extra=tasks_of_all_kinds)
def test_who_comes_later_makes_nobody_start_later(tasks: list[Task], extra: list[Task]) -> None:
    def starts(tasks: list[Task]) -> list[float]:
        return [one.start_s for one in forecast(tasks, a_fleet(max_rows=2, step_s=lambda *_: 1.0))]

    assert starts(tasks + extra)[: len(tasks)] == pytest.approx(starts(tasks))
