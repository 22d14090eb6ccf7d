"""What a replica's log says of a call that is refused."""

import logging
from collections.abc import Iterator

import pytest

from deployments.errors import InputInUse, InputQuotaExceeded, StorageFull, StoreUnavailable
from deployments.serve.refusal_log import SERVE_LOGGER, log_refusals_briefly
from models.errors import DarkroomError, InvalidRequest


@pytest.fixture(autouse=True)
def _filters_as_before() -> Iterator[None]:
    logger = logging.getLogger(SERVE_LOGGER)
    before = logger.filters[:]
    logger.filters.clear()
    yield
    logger.filters[:] = before


def logged(error: Exception, caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """What becomes of the line that Serve writes for an error of a call."""
    try:
        raise error
    except Exception:
        logging.getLogger(SERVE_LOGGER).exception("Request failed.")
    return caplog.records[-1]


@pytest.mark.parametrize("error", [InputInUse("a"), StorageFull("b"), InputQuotaExceeded("c", 9), InvalidRequest("d")])
def test_a_refused_call_is_one_line_without_a_traceback(error: DarkroomError, caplog: pytest.LogCaptureFixture) -> None:
    assert logged(error, caplog).levelno == logging.ERROR  # by Serve alone
    log_refusals_briefly()
    record = logged(error, caplog)
    assert (record.levelname, record.getMessage()) == ("INFO", f"call refused: {error.code}")
    assert "Traceback" not in logging.Formatter().format(record)


@pytest.mark.parametrize("error", [ValueError("a"), DarkroomError(), StoreUnavailable("disk")])
def test_a_failure_of_the_service_stays_an_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    log_refusals_briefly()
    record = logged(error, caplog)
    assert (record.levelname, record.getMessage()) == ("ERROR", "Request failed.")
    assert "Traceback" in logging.Formatter().format(record)
