"""What a stage's replica says of its start."""

import gc
import logging
from types import SimpleNamespace

import pytest

from deployments.stages import startup


@pytest.mark.parametrize(("longest_s", "said"), [(60.0, False), (600.0, True)])
def test_a_picture_that_a_leaving_replica_would_cut_is_warned_of(
    longest_s: float, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = SimpleNamespace(graceful_shutdown_timeout_s=300.0)
    monkeypatch.setattr(startup.serve, "get_replica_context", lambda: SimpleNamespace(_deployment_config=config))
    with caplog.at_level(logging.WARNING, startup.logger.name):
        startup.warn_of_cuts(longest_s)
    assert ("graceful_shutdown_timeout_s = 300" in caplog.text) == said


def test_what_was_there_when_a_stage_has_loaded_is_not_looked_at_again_for_garbage() -> None:
    gc.unfreeze()  # what stages of other tests have left out
    startup.Startup("Denoiser").loaded()
    try:
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_outside_of_a_replica_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    startup.warn_of_cuts(1e9)
    assert caplog.text == ""
