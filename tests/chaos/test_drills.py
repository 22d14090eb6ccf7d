"""A tenth of the drills that hold whatever else the machine does. Those about seconds run in `make chaos` alone."""

from collections.abc import Iterator

import pytest

from benchmarks.chromium import MISSING, find_chromium
from tests.chaos import clients, deaths, load, page
from tests.chaos.cluster import Cluster, running_cluster
from tests.chaos.drill import Outcome, table

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("chaos"), seed=5) as cluster:
        yield cluster


@pytest.fixture
def holds(cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    def check(outcome: Outcome) -> None:
        with capsys.disabled():
            print(f"\n{table([outcome])}")
        assert outcome.held, f"{table([outcome])}\nkills: {cluster.kills}"

    return check


def test_accepted_jobs_outlive_their_replicas(cluster: Cluster, holds) -> None:
    holds(deaths.replica_deaths(cluster, jobs=100, kills=6))


def test_accepted_jobs_outlive_every_process(cluster: Cluster, holds) -> None:
    holds(deaths.cluster_deaths(cluster, times=1))


def test_an_overload_is_refused_and_loses_nothing(cluster: Cluster, holds) -> None:
    holds(load.overload(cluster, seconds=60))


def test_a_poisoned_picture_fails_alone(cluster: Cluster, holds) -> None:
    holds(deaths.poison(cluster, batches=10))


def test_a_cancelled_job_ends_once_and_at_once(cluster: Cluster, holds) -> None:
    holds(clients.cancels(cluster, times=20, at_the_end=5))


def test_a_watch_that_was_cut_goes_on(cluster: Cluster, holds) -> None:
    holds(clients.cut_watches(cluster, times=20))


@pytest.mark.skipif(find_chromium() is None, reason=MISSING)
def test_a_page_that_is_loaded_again_shows_its_picture(cluster: Cluster, holds) -> None:
    holds(page.reloads(cluster, times=10))


def test_there_is_one_job_a_key(cluster: Cluster, holds) -> None:
    holds(clients.duplicates(cluster, keys=20))
