"""The API for each test."""

from pathlib import Path

import pytest

from tests.unit.deployments.api.caller import Api, SharedApp


@pytest.fixture(scope="session")
def shared_app() -> SharedApp:
    """The app of all tests that set no options of it."""
    return SharedApp()


@pytest.fixture
async def api(tmp_path: Path, shared_app: SharedApp) -> Api:
    return Api(tmp_path, shared=shared_app)
