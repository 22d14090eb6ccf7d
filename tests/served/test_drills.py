"""One cycle of each drill that holds whatever else the machine does, on PostgreSQL.

Counts, and what drills say of seconds, are for `make chaos`, which runs on SQLite.
"""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from sqlalchemy import NullPool, create_engine, text

from ops.config import application
from tests.chaos import clients, deaths, load
from tests.chaos.cluster import for_drills
from tests.chaos.drill import Outcome, table, upload_inputs
from tests.cluster import DEAD_WITHIN_S, Cluster, alive_in_session
from tests.served.conftest import served

Holds = Callable[[Outcome], None]


@pytest.fixture(scope="module")
def cluster(service: Cluster, postgresql: str, poisoned: Path) -> Cluster:
    """The service, started again with its jobs in PostgreSQL and a checkpoint that can fail. It stays so: little comes
    after."""
    service.stop()
    config = for_drills(served(queue={"max_waiting": 40}), poisoned)  # soon full
    application(config, "generation")["args"]["database_url"] = postgresql
    service.write(config)
    service.start()
    upload_inputs(service)
    return service


@pytest.fixture
def holds(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> Holds:
    def check(outcome: Outcome) -> None:
        with capsys.disabled():
            print(f"\n{table([outcome])}")
        assert outcome.held, f"{table([outcome])}\nkills: {cluster.kills}"

    return check


def test_a_launcher_that_is_killed_leaves_no_process(service: Cluster) -> None:
    launcher = service.launcher.process
    processes = [process for _, process in service.processes()]
    assert len(processes) > 10
    launcher.kill()
    launcher.wait(timeout=DEAD_WITHIN_S)
    assert psutil.wait_procs(processes, timeout=DEAD_WITHIN_S)[1] == []
    assert alive_in_session(launcher.pid) == []


def test_there_is_one_job_a_key(cluster: Cluster, holds: Holds) -> None:
    holds(clients.duplicates(cluster, keys=5))


def test_a_poisoned_picture_fails_alone(cluster: Cluster, holds: Holds) -> None:
    holds(deaths.poison(cluster, batches=deaths.TOGETHER))


def test_a_cancelled_job_ends_once_and_at_once(cluster: Cluster, holds: Holds) -> None:
    holds(clients.cancels(cluster, times=8, at_the_end=3))


def test_a_watch_that_was_cut_goes_on(cluster: Cluster, holds: Holds) -> None:
    holds(clients.cut_watches(cluster, times=8))


def test_an_overload_is_refused_and_loses_nothing(cluster: Cluster, holds: Holds) -> None:
    holds(load.overload(cluster, seconds=10, closed_set=18))


def test_accepted_jobs_outlive_their_replicas(cluster: Cluster, holds: Holds) -> None:
    holds(deaths.replica_deaths(cluster, jobs=40, kills=len(deaths.KILLED)))


def test_accepted_jobs_outlive_every_process(cluster: Cluster, postgresql: str, holds: Holds) -> None:
    holds(deaths.cluster_deaths(cluster, times=1, jobs=20))
    with create_engine(postgresql, poolclass=NullPool).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() >= 20
