"""Batching never shows: whoever else comes, goes or fails, a picture is what it would have been alone."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.arrivals import EngineHarness, arrivals, check


@pytest.fixture(scope="module", params=[False, True], ids=["default", "batch_invariant"])
def harness(request: pytest.FixtureRequest, tiny_sd) -> EngineHarness:
    return EngineHarness(tiny_sd, invariant=request.param)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whoever_comes_goes_or_fails_the_others_pictures_stay_the_same(harness, data):
    check(harness, data.draw(arrivals(harness.stages)))


@pytest.mark.nightly
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_so_they_do_with_any_arrivals(harness, data):
    check(harness, data.draw(arrivals(harness.stages)))
