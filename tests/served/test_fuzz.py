"""The served app answers anything as its OpenAPI says that it does; the API alone is fuzzed among the unit tests."""

import pytest

from tests.cluster import Cluster
from tests.fuzz.__main__ import A_LITTLE
from tests.fuzz.run import fuzz
from tests.served.conftest import served


@pytest.mark.nightly
def test_2000_requests_that_nobody_would_write_are_answered_as_promised(service: Cluster) -> None:
    service.deploy(served(queue={"max_job_cost": A_LITTLE, "max_waiting": 100_000}))
    found = fuzz(service.address, at_most=60, seed=6)
    service.deploy(served())
    assert found.clean, found.report[-20_000:]
    assert found.cases >= 2000, found.report[-2000:]
