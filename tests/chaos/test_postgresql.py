"""The whole service over PostgreSQL in place of SQLite."""

from pathlib import Path

import pytest

from tests.chaos import clients, deaths
from tests.chaos.cluster import running_cluster


@pytest.mark.full
def test_jobs_in_postgresql_outlive_every_process_and_keys_hold(postgresql_url: str, tmp_path: Path) -> None:
    with running_cluster(tmp_path, seed=5, database_url=postgresql_url) as cluster:
        for outcome in (clients.duplicates(cluster, keys=5), deaths.cluster_deaths(cluster, times=1, jobs=20)):
            assert outcome.held, outcome
    assert not (tmp_path / "darkroom" / "jobs.sqlite").exists()
