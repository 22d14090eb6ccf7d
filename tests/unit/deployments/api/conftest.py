"""The API for each test."""

from pathlib import Path

import pytest

from tests.unit.deployments.api.caller import Api


@pytest.fixture
async def api(tmp_path: Path) -> Api:
    return Api(tmp_path)
