"""What logs say of a job."""

import logging
from dataclasses import replace

import pytest

from deployments.dispatcher import job_log
from deployments.dispatcher.lease import Lease
from deployments.jobs import Job, JobError, Timestamps, new_job
from tests.fakes import a_result, a_spec

STANDARD = vars(logging.makeLogRecord({})).keys() | {"message", "taskName", "asctime"}


@pytest.fixture
def job() -> Job:
    specs = [a_spec(prompt="a secret garden", negative_prompt="no weeds", seed=seed) for seed in (7, 8)]
    return replace(new_job(specs, "browser:0123456789", 100.0), link="a-secret-link")


def line(caplog: pytest.LogCaptureFixture) -> dict[str, object]:
    [record] = caplog.records
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, job_log.logger.name)
    job_log.logger.propagate = True


def test_a_jobs_life_is_one_line(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    images = tuple(a_result(spec, Lease(job.id, k, attempt=k + 1)) for k, spec in enumerate(job.specs))
    times = Timestamps(created=100.0, started=102.5, ended=110.0)
    job_log.ended(replace(job, status="succeeded", images=images, timestamps=times))
    assert line(caplog) == {
        "job": job.id,
        "owner_kind": "browser",
        "model": "shapes",
        "pictures": 2,
        "width": 128,
        "height": 128,
        "steps": 8,
        "sampler": "ddim",
        "rows": 4,
        "status": "succeeded",
        "error_code": None,
        "drawn": 2,
        "total_s": 10.0,
        "wait_s": 2.5,
        "encode_s": 0.02,
        "denoise_s": 0.2,
        "decode_s": 0.02,
        "batch_rows": 2,
        "attempts": 2,
    }


def test_a_job_that_never_started_waited_all_its_life(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    error, times = JobError(code="deadline_exceeded", message="Too late."), Timestamps(created=100.0, ended=130.0)
    job_log.ended(replace(job, status="expired", error=error, timestamps=times))
    said = line(caplog)
    assert (said["status"], said["error_code"], said["wait_s"], said["drawn"]) == (
        "expired",
        "deadline_exceeded",
        30,
        0,
    )


def test_no_line_has_a_word_of_the_prompt_the_owner_or_the_link(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    job_log.accepted(job)
    job_log.ended(replace(job, status="cancelled", timestamps=Timestamps(created=100.0, ended=101.0)))
    said = str([vars(record) for record in caplog.records])
    assert job.id in said
    for secret in ("garden", "weeds", "0123456789", "a-secret-link"):
        assert secret not in said
