"""Log lines of a job: one when it is accepted, one for its whole life when it has ended. Never its prompt."""

import logging

from deployments.jobs import Job

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


def accepted(job: Job) -> None:
    """Log an accepted job, with the request id of its request."""
    logger.info("job accepted", extra=_identity(job))


def ended(job: Job) -> None:
    """Log how a job ended, and its times in seconds; those of stages are sums over its images."""
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
    """A job's id, its request in figures, and the kind of its owner: the owner's name is not logged."""
    spec = job.specs[0]
    width, height = spec.size
    return {
        "job": job.id,  # `job_id` is a word of Ray's, which Serve takes out of lines
        "owner_kind": job.owner.partition(":")[0],
        "model": spec.model,
        "pictures": len(job.specs),
        "width": width,
        "height": height,
        "steps": spec.num_inference_steps,
        "sampler": spec.sampler,
        "rows": sum(each.rows for each in job.specs),
    }
