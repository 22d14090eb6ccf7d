"""A job as a row of the table `jobs`: what is written of it, and what is read back from a row that may be damaged."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from deployments.jobs import Job
from deployments.schema import MAX_IMAGES
from models.parameters import MAX_SIDE, MAX_STEPS

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

MAX_RECORD_BYTES = MAX_IMAGES * MAX_SIDE**2 * 4  # of images without any compression
DOCUMENT: TypeAdapter[Job] = TypeAdapter(Job)


def row_of(job: Job) -> dict[str, Any]:
    """Return the columns that change with a job. Queue place and progress change all the time: they are not kept."""
    document = DOCUMENT.dump_json(replace(job, queue=None, progress=None))
    size = len(document) + sum(image.size for image in job.images)
    return {"status": job.status, "ended": job.timestamps.ended, "size": size, "document": document.decode()}


def readable_jobs(rows: Iterable[Any]) -> list[Job]:
    """Return the jobs of rows that end with id and document, without those whose document cannot be read."""
    return [job for *_, job_id, document in rows if (job := read_job(job_id, document)) is not None]


def read_job(job_id: str, document: Any) -> Job | None:
    """Return the job of a row; None, with the reason in the log, if its document is not this job's."""
    try:
        # Numbers that no answer can hold are refused here: pydantic's dataclasses take them.
        job = DOCUMENT.validate_python(from_json(document, allow_inf_nan=False))
        if job.id != job_id or not job.specs:
            raise ValueError("it is not the document of this job")
        _check_specs(job)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]  # no prompt in logs
        reason = " ".join([*map(str, problem["loc"]), problem["msg"]])
    except (TypeError, ValueError) as error:  # no text at all, or no JSON
        reason = str(error)
    else:
        return job
    logger.error("the record of %s in the table jobs cannot be read: %s", job_id, reason)
    return None


def recorded_bytes(row: Any) -> int:
    """Return the bytes of a record and its images; 0, with the reason in the log, if no record is that large."""
    if 0 <= row.size <= MAX_RECORD_BYTES:
        return row.size
    logger.error(
        "the record number %d in the table jobs has a size of %d bytes: it counts nothing", row.number, row.size
    )
    return 0


def _check_specs(job: Job) -> None:
    """Check the numbers that cost is computed from. Raises ValueError if no request may have them."""
    for spec in (one for each in job.specs for one in each.passes):
        sizes = {"width": MAX_SIDE, "height": MAX_SIDE, "num_inference_steps": MAX_STEPS}
        for name, most in sizes.items():
            if not 0 < getattr(spec, name) <= most:
                raise ValueError(f"specs {name} must be from 1 to {most}")
