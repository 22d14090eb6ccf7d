"""One Ray for all tests of the served whole: starting it takes longer than most of them."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.cluster import poisoned_checkpoint
from tests.cluster import Cluster, configured
from tests.served.collector import Collector

LAST = ("test_models", "test_drills", "test_end")  # they change what is deployed, kill it, and end it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that leave the cluster as they find it come first."""
    items.sort(key=lambda item: LAST.index(item.path.stem) + 1 if item.path.stem in LAST else 0)


def served(**changes: Any) -> dict[str, Any]:
    """Return a config of the cluster; `changes` as `configured` has them.

    Its replicas reserve next to nothing, so that all that tests deploy has room. It traces one request in a hundred,
    and those whose callers want it.
    """
    config = configured(**changes)
    config["tracing_config"]["enabled"] = True
    for deployment in (each for app in config["applications"] for each in app["deployments"]):
        deployment["ray_actor_options"] = {"num_cpus": 0.01}
    return config


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Gets the cluster's spans."""
    collector = Collector()
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    yield collector
    collector.shutdown()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Cluster]:
    """The whole service, ready."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    cluster = Cluster(tmp_path_factory.mktemp("serve"), served(), seed=5, environment=environment)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the drills."""
    return poisoned_checkpoint(tmp_path_factory.mktemp("drills"))
