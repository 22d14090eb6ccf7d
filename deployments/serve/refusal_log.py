"""Log lines of refused calls. Serve logs each error of a call as the replica's own failure, with a traceback."""

import logging

from deployments.error_responses import is_server_error
from deployments.errors import StorageFull
from models.errors import DarkroomError

SERVE_LOGGER = "ray.serve"


def log_refusals_briefly() -> None:
    """From now on log one line at INFO, without a traceback, for a call of this process that is refused."""
    logging.getLogger(SERVE_LOGGER).addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, DarkroomError) and (isinstance(error, StorageFull) or not is_server_error(error.code)):
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        record.msg, record.args = "call refused: %s", (error.code,)
        record.exc_info = record.exc_text = None
    return True
