"""The service on two machines, whose link is cut."""

from pathlib import Path

import pytest

from tests.chaos.cuts import cut
from tests.chaos.drill import table
from tests.chaos.machines import running_machines


@pytest.mark.nightly
def test_a_machine_that_is_off_the_network_for_20_s_loses_nothing(tmp_path: Path) -> None:
    with running_machines(tmp_path) as machines:
        outcome = cut(machines, seconds=20)
    assert outcome.held, table([outcome])
