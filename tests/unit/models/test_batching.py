"""Batching never shows: whoever else comes, goes or fails, a picture is what it would have been alone."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.parties import House, check, guests


@pytest.fixture(scope="module", params=[False, True], ids=["default", "batch_invariant"])
def house(request: pytest.FixtureRequest, tiny_sd) -> House:
    return House(tiny_sd, invariant=request.param)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whoever_comes_goes_or_fails_the_others_pictures_stay_the_same(house, data):
    check(house, data.draw(guests(house.stages)))


@pytest.mark.nightly
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_so_they_do_at_any_party(house, data):
    check(house, data.draw(guests(house.stages)))
