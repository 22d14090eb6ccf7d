"""The Dispatcher's clock, over a system's clock and a monotonic one that tests set."""

import pytest

from deployments.dispatcher.clock import SteadyClock

DAY_S = 86400.0
HOUR_S = 3600.0
START = 1_700_000_000.0


class Machine:
    """A machine's two clocks, and a SteadyClock that reads them once a minute, as a sweep does."""

    def __init__(self) -> None:
        self.system, self.monotonic = START, 500.0
        self.clock = SteadyClock(system=lambda: self.system, monotonic=lambda: self.monotonic)

    def pass_s(self, seconds: float) -> None:
        while seconds > 0:
            step = min(60.0, seconds)
            self.system += step
            self.monotonic += step
            seconds -= step
            self.clock.now()

    def passed(self) -> float:
        return self.clock.now() - START


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_it_goes_on_with_the_system_clock(machine: Machine) -> None:
    machine.pass_s(2 * HOUR_S)
    assert machine.passed() == pytest.approx(2 * HOUR_S)


@pytest.mark.parametrize("correction", [59.0, -59.0])
def test_a_small_correction_is_followed_at_once_and_without_a_word(
    machine: Machine, correction: float, caplog: pytest.LogCaptureFixture
) -> None:
    machine.pass_s(HOUR_S)
    machine.system += correction
    assert machine.passed() == pytest.approx(HOUR_S + correction)
    assert machine.clock.settled
    assert caplog.text == ""


@pytest.mark.parametrize("jump", [8 * DAY_S, HOUR_S, -HOUR_S, 61.0])
def test_a_jump_that_is_taken_back_within_an_hour_never_was(
    machine: Machine, jump: float, caplog: pytest.LogCaptureFixture
) -> None:
    machine.pass_s(2 * HOUR_S)
    machine.system += jump
    machine.pass_s(HOUR_S - 120)
    assert machine.passed() == pytest.approx(3 * HOUR_S - 120)
    machine.system -= jump
    machine.pass_s(2 * HOUR_S)
    assert machine.passed() == pytest.approx(5 * HOUR_S - 120)
    begins, ends = caplog.messages
    assert begins == f"the system clock jumped by {jump:+.0f} s: followed if it stays for 3600 s"
    assert ends == "the system clock has jumped back: it is followed again"


@pytest.mark.parametrize("jump", [8 * DAY_S, -HOUR_S])
def test_a_jump_that_lasts_for_an_hour_is_taken_over(
    machine: Machine, jump: float, caplog: pytest.LogCaptureFixture
) -> None:
    machine.system += jump
    machine.pass_s(HOUR_S)
    assert machine.passed() == pytest.approx(HOUR_S)
    machine.pass_s(60)
    assert machine.passed() == pytest.approx(HOUR_S + 60 + jump)
    assert caplog.messages[-1].endswith(f"it is followed again, by {jump:+.0f} s")
    assert len(caplog.messages) == 2


def test_a_second_jump_has_an_hour_of_its_own(machine: Machine) -> None:
    machine.system += DAY_S
    machine.pass_s(HOUR_S / 2)
    machine.system += DAY_S
    machine.pass_s(HOUR_S)
    assert machine.passed() == pytest.approx(1.5 * HOUR_S)
    machine.pass_s(60)
    assert machine.passed() == pytest.approx(1.5 * HOUR_S + 60 + 2 * DAY_S)


def test_it_is_settled_an_hour_after_it_began_and_after_each_jump(machine: Machine) -> None:
    settled = []
    for jump in (0.0, -DAY_S, 0.0):
        machine.system += jump
        settled.append(machine.clock.settled)
        machine.pass_s(HOUR_S - 1)
        settled.append(machine.clock.settled)
        machine.pass_s(120)
    assert settled == [False, False, False, False, True, True]


def test_a_machine_that_slept_is_behind_by_that_for_an_hour(machine: Machine) -> None:
    machine.system += 8 * HOUR_S  # and the monotonic clock stood still
    machine.pass_s(HOUR_S + 60)
    assert machine.passed() == pytest.approx(9 * HOUR_S + 60)
