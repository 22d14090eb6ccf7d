"""What logs say of a job: a line when it is accepted, and one for its whole life when it has ended. Not its prompt."""

import logging

from deployments.schema import Job

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


def accepted(job: Job) -> None:
    """Say which request brought which job: the line's request id is the request's."""
    logger.info("job accepted", extra=_identity(job))


def ended(job: Job) -> None:
    """Say what became of a job, and where its time went; seconds, and of stages the sum over its pictures."""
    times, images = job.timestamps, job.images
    assert times.ended is not None
    logger.info(
        "job ended",
        extra=_identity(job)
        | {
            "status": job.status,
            "error_code": job.error.code if job.error else None,
            "drawn": len(images),
            "total_s": round(times.ended - times.created, 3),
            "wait_s": round((times.started or times.ended) - times.created, 3),
            "encode_s": round(sum(image.encode_s for image in images), 3),
            "denoise_s": round(sum(image.denoise_s for image in images), 3),
            "decode_s": round(sum(image.decode_s for image in images), 3),
            "batch_rows": max((image.batch_rows for image in images), default=0),
            "attempts": max((image.attempts for image in images), default=0),
        },
    )


def _identity(job: Job) -> dict[str, object]:
    """A job's id, what it asks for in figures, and of what kind its owner is: who that is does not go into logs."""
    spec = job.specs[0]
    return {
        "job": job.id,  # `job_id` is a word of Ray's, which Serve takes out of lines
        "owner_kind": job.owner.partition(":")[0],
        "model": spec.model,
        "pictures": len(job.specs),
        "width": spec.width,
        "height": spec.height,
        "steps": spec.num_inference_steps,
        "sampler": spec.sampler,
        "rows": sum(each.rows for each in job.specs),
    }
