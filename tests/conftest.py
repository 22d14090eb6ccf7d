"""Fixtures that every kind of test shares."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgresql import database_url, postgresql, postgresql_url  # noqa: F401

# Nothing here imports torch at the top: it takes seconds of a core, and not every process of a run needs it.
ROOT = Path(__file__).parents[1]
pytest_plugins = ["tests.budgets"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures-to", help="folder that gets the documentation's pictures of the page")
    parser.addoption("--tried-to", help="page that gets the table of the checkpoints that were tried")


def pytest_collection_finish() -> None:
    """One thread of torch: two would wait for each other, spinning, wherever anything else runs."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """In CI a skipped test is a failure: there, nothing that tests need may be missing."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


@pytest.fixture(scope="session")
def shapes() -> Path:
    """The checkpoint that ships with the repository."""
    return ROOT / "models" / "checkpoints" / "shapes"


@pytest.fixture
def no_collection() -> Iterator[None]:
    """No garbage collection: in a process that has run a thousand tests, one takes longer than what is timed."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of sums that nobody else has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1.x checkpoint with random weights."""
    from tests.checkpoints import build_tiny_sd

    return build_tiny_sd(tmp_path_factory.mktemp("checkpoints") / "tiny-sd")


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 2.x checkpoint with random weights."""
    from tests.checkpoints import build_tiny_sd2

    return build_tiny_sd2(tmp_path_factory.mktemp("checkpoints") / "tiny-sd2")


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion XL checkpoint with random weights."""
    from tests.checkpoints import build_tiny_sdxl

    return build_tiny_sdxl(tmp_path_factory.mktemp("checkpoints") / "tiny-sdxl")


@pytest.fixture(scope="session")
def tiny_lcm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny latent consistency checkpoint with random weights."""
    from tests.checkpoints import build_tiny_lcm

    return build_tiny_lcm(tmp_path_factory.mktemp("checkpoints") / "tiny-lcm")
