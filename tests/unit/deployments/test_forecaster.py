"""What is learnt from what happens, and what the jobs in the queue are told."""

from dataclasses import replace

import pytest

from deployments.dispatcher import forecaster as module
from deployments.dispatcher.forecaster import Forecaster, QueueForecast
from deployments.dispatcher.job_queue import JobQueue, Limits
from deployments.jobs import Job, new_job
from models.hires import Hires
from models.spec import ImageSpec, StepUpdate
from tests.fakes import STEPS, a_spec

STEP_S = 0.25  # of a batch that is full: two guided pictures
SPEC = a_spec()


@pytest.fixture
def forecaster() -> Forecaster:
    """One that has seen two pictures share their forwards and knows that no more fit."""
    forecaster = Forecaster(max_rows=4)
    forecaster.measure_step(SPEC, StepUpdate(step=1, steps=STEPS, batch_rows=4, most_rows=4, step_s=STEP_S))
    for _ in range(40):
        forecaster.measure_decode(SPEC, 0.0, 1.0)
    return forecaster


def a_queue(jobs: int, owners: int = 1, pictures: int = 1) -> tuple[JobQueue, list[Job]]:
    queue = JobQueue(Limits(waiting=100_000))
    submitted = [new_job([SPEC] * pictures, f"owner {k % owners}", 0.0) for k in range(jobs)]
    for job in submitted:
        queue.submit(job)
    return queue, submitted


def forecast_of(forecaster: Forecaster, queue: JobQueue, *asked: Job, now: float = 0.0) -> QueueForecast:
    wanted = {job.id: queue.queued_images(job.id) for job in asked}
    return forecaster.forecast(queue.running, queue.queued("shapes"), queue.waiting_cost("shapes"), wanted, now)


def test_jobs_are_told_their_places_and_times(forecaster: Forecaster) -> None:
    queue, jobs = a_queue(6)
    found = forecast_of(forecaster, queue)
    assert [found.places[job.id] for job in jobs] == [1, 2, 3, 4, 5, 6]
    starts = [found.jobs[job.id].start_s for job in jobs]
    assert starts == pytest.approx([0, 0, 0, 0, STEPS * STEP_S, STEPS * STEP_S], abs=0.01)
    assert found.starts == tuple(starts)
    assert found.drained_s == pytest.approx(3 * STEPS * STEP_S, abs=0.01)


def test_a_job_starts_with_its_first_picture_and_ends_with_its_last(forecaster: Forecaster) -> None:
    queue, [job] = a_queue(1, pictures=6)
    found = forecast_of(forecaster, queue)
    assert found.places == {job.id: 1}
    assert (found.jobs[job.id].start_s, found.jobs[job.id].end_s) == pytest.approx((0, 3 * STEPS * STEP_S), abs=0.01)


def test_what_has_been_drawn_of_a_picture_counts(forecaster: Forecaster) -> None:
    queue, [job] = a_queue(1)
    lease, _ = queue.grant("shapes", 0.0)
    alone = forecast_of(forecaster, queue).jobs[job.id].end_s
    queue.progress(lease, StepUpdate(step=STEPS // 2, steps=STEPS))
    assert forecast_of(forecaster, queue).jobs[job.id].end_s == pytest.approx(alone / 2, abs=0.01)


def test_a_batch_has_the_rows_that_the_denoiser_gives_it(forecaster: Forecaster) -> None:
    queue, jobs = a_queue(4)
    together = forecast_of(forecaster, queue).jobs[jobs[1].id].end_s
    forecaster.measure_step(SPEC, StepUpdate(step=1, steps=STEPS, batch_rows=2, most_rows=2, step_s=STEP_S / 2))
    assert forecast_of(forecaster, queue).jobs[jobs[0].id].end_s < together


def test_far_from_the_front_only_those_who_are_asked_for_are_told(
    forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, jobs = a_queue(40, owners=3)
    whole = forecast_of(forecaster, queue)
    monkeypatch.setattr(module, "HORIZON", 10)
    found = forecast_of(forecaster, queue, jobs[30])
    assert len(found.starts) == 10
    assert found.jobs.keys() == {job.id for job in (*jobs[:10], jobs[30])}
    assert found.places[jobs[30].id] == whole.places[jobs[30].id] == 31
    assert found.jobs[jobs[30].id].start_s == pytest.approx(whole.jobs[jobs[30].id].start_s, rel=0.15)
    assert found.drained_s == pytest.approx(whole.drained_s, rel=0.05)


def test_the_line_is_walked_no_further_than_to_the_last_who_is_asked_for(
    forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, jobs = a_queue(40)
    monkeypatch.setattr(module, "HORIZON", 10)
    line = queue.queued("shapes")
    forecaster.forecast([], line, queue.waiting_cost("shapes"), {jobs[20].id: 1}, 0.0)
    assert next(line).lease.job_id == jobs[21].id


def test_a_job_that_runs_ends_with_its_last_picture_however_far_that_is(
    forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HORIZON", 10)
    queue, [job] = a_queue(1, pictures=60)
    queue.grant("shapes", 0.0)
    end_s = forecast_of(forecaster, queue, job).jobs[job.id].end_s
    assert end_s == pytest.approx(30 * STEPS * STEP_S, rel=0.1)


def test_time_goes_by_between_two_forecasts(forecaster: Forecaster) -> None:
    queue, _ = a_queue(6)
    found = forecast_of(forecaster, queue, now=100.0)
    assert found.room_in_s(100.5, 5) == pytest.approx(STEPS * STEP_S - 0.5, abs=0.01)
    assert found.room_in_s(100.0, 99) == pytest.approx(STEPS * STEP_S, abs=0.01)
    assert found.room_in_s(200.0, 5) == 0
    assert found.drained_in_s(101.0, queue.waiting_cost("shapes")) == pytest.approx(found.drained_s - 1)
    assert found.drained_in_s(100.0, 2 * queue.waiting_cost("shapes")) == pytest.approx(2 * found.drained_s, rel=0.01)
    assert found.drained_in_s(500.0, queue.waiting_cost("shapes")) == 0


def test_where_nothing_is_in_the_queue_nothing_is_foretold() -> None:
    queue, _ = a_queue(0)
    assert forecast_of(Forecaster(4), queue) == QueueForecast(relative_error=module.INITIAL_ERROR)
    assert QueueForecast().room_in_s(5.0, 1) == QueueForecast().drained_in_s(5.0, 0.0) == 0


def test_a_stage_that_is_waited_for_delays_everything_by_the_time_that_waking_took_last(
    forecaster: Forecaster,
) -> None:
    queue, [job] = a_queue(1)
    queue.grant("shapes", 0.0)
    awake = forecast_of(forecaster, queue).jobs[job.id].end_s
    forecaster.observe_replicas({"denoiser": 0, "vae": 1}, queue.running, 100.0)
    found = forecast_of(forecaster, queue, now=110.0)
    assert found.jobs[job.id].end_s == pytest.approx(awake + module.COLD_START_S - 10)
    assert found.upper_bound_s(5.0) > 5.0 + module.COLD_START_S - 10
    forecaster.observe_replicas({"denoiser": 1, "vae": 1}, queue.running, 112.0)
    assert forecast_of(forecaster, queue, now=113.0).jobs[job.id].end_s == awake
    forecaster.observe_replicas({"denoiser": 0}, queue.running, 200.0)
    assert forecast_of(forecaster, queue, now=200.0).jobs[job.id].end_s == pytest.approx(awake + 12)
    assert forecast_of(forecaster, queue, now=900.0).jobs[job.id].end_s == pytest.approx(awake + 1)


def test_a_stage_that_sleeps_and_is_not_waited_for_delays_nothing(forecaster: Forecaster) -> None:
    queue, _ = a_queue(1)
    lease, _ = queue.grant("shapes", 0.0)
    asleep = {"text_encoder": 0, "denoiser": 1, "vae": 0}
    for step, waiting in ((0, True), (1, False), (STEPS, True)):
        if step:
            queue.progress(lease, StepUpdate(step=step, steps=STEPS))
        forecaster.observe_replicas(asleep, queue.running, 50.0 + step)
        assert (forecast_of(forecaster, queue, now=50.0 + step).cold_start_s > 0) == waiting
        forecaster.reset()


def test_a_stage_that_sleeps_while_there_is_no_work_is_not_waking(forecaster: Forecaster) -> None:
    queue, [job] = a_queue(1)
    queue.grant("shapes", 0.0)
    awake = forecast_of(forecaster, queue).jobs[job.id].end_s
    forecaster.observe_replicas({"denoiser": 0}, queue.running, 100.0)
    forecaster.reset()
    forecaster.observe_replicas({"denoiser": 0}, queue.running, 4000.0)
    assert forecast_of(forecaster, queue, now=4000.0).jobs[job.id].end_s == pytest.approx(awake + module.COLD_START_S)


def test_a_decode_that_waited_for_its_stage_to_wake_is_no_measure_of_decoding(forecaster: Forecaster) -> None:
    queue, [job] = a_queue(1)
    lease, _ = queue.grant("shapes", 0.0)
    before = forecast_of(forecaster, queue).jobs[job.id].end_s
    queue.progress(lease, StepUpdate(step=STEPS, steps=STEPS))
    forecaster.observe_replicas({"vae": 0}, queue.running, 10.0)
    forecaster.observe_replicas({"vae": 1}, queue.running, 30.0)
    forecaster.measure_decode(SPEC, 21.0, 30.5)
    queue, [job] = a_queue(1)
    assert forecast_of(forecaster, queue).jobs[job.id].end_s == before
    forecaster.measure_decode(SPEC, 1.0, 40.0)
    assert forecast_of(forecaster, queue).jobs[job.id].end_s > before + 0.1


def test_more_denoisers_draw_more_at_a_time(forecaster: Forecaster) -> None:
    queue, _ = a_queue(12)
    one = forecast_of(forecaster, queue).drained_s
    forecaster.observe_replicas({"denoiser": 3}, [], 0.0)
    assert forecast_of(forecaster, queue).drained_s == pytest.approx(one / 3, abs=0.02)


@pytest.mark.parametrize(("late_s", "sure"), [(0.2, True), (8.0, False)])
def test_estimates_that_come_true_are_told_as_one_number_others_as_a_range(
    forecaster: Forecaster, late_s: float, sure: bool
) -> None:
    now = 0.0
    assert forecast_of(forecaster, a_queue(1)[0]).upper_bound_s(10.0) == 10.0 * (1 + module.INITIAL_ERROR)
    for _ in range(30):
        queue, jobs = a_queue(9)
        start_s = forecast_of(forecaster, queue, now=now).jobs[jobs[-1].id].start_s
        forecast_of(forecaster, queue, now=now + 1)  # what was told first is what counts
        now += start_s + late_s
        forecaster.started(jobs[-1].id, now)
    most_s = forecast_of(forecaster, queue, now=now).upper_bound_s(10.0)
    assert most_s is None if sure else most_s == pytest.approx(10 * (1 + late_s / start_s), rel=0.01)


def test_how_far_off_estimates_are_is_learnt_from_the_first_picture_of_a_job_alone(forecaster: Forecaster) -> None:
    queue, [job] = a_queue(1, pictures=9)
    queue.grant("shapes", 0.0)
    forecaster.started(job.id, 0.0)
    forecast_of(forecaster, queue, now=0.5)
    queue.grant("shapes", 60.0)
    forecaster.started(job.id, 60.0)
    assert forecast_of(forecaster, queue, now=60.0).relative_error == module.INITIAL_ERROR


def test_a_job_that_was_never_told_a_time_teaches_nothing(forecaster: Forecaster) -> None:
    forecaster.started("job_unknown", 5.0)
    assert forecast_of(forecaster, a_queue(1)[0]).relative_error == module.INITIAL_ERROR


HIRES = Hires(scale=2.0, strength=0.5, steps=STEPS, width=256, height=256)
TWO_PASSES = a_spec(hires=HIRES)
SECOND_STEP_S = 0.8  # of two guided images


@pytest.fixture
def of_two_sizes(forecaster: Forecaster) -> Forecaster:
    """One that has seen both passes of images."""
    update = StepUpdate(step=STEPS + 1, steps=STEPS + STEPS // 2, batch_rows=4, most_rows=4, step_s=SECOND_STEP_S)
    forecaster.measure_step(TWO_PASSES, update)
    return forecaster


def end_s(forecaster: Forecaster, spec: ImageSpec, done: int = 0) -> float:
    """When two images of a kind end, of each of which some model calls are done."""
    queue = JobQueue(Limits(waiting=10))
    job = queue.submit(new_job([spec] * 2, "ada", 0.0))
    while (granted := queue.grant("shapes", 0.0)) is not None:
        if done:
            queue.progress(granted[0], StepUpdate(step=done, steps=spec.model_calls))
    return forecast_of(forecaster, queue).jobs[job.id].end_s


def test_steps_of_a_second_pass_are_measured_and_forecast_at_its_size(of_two_sizes: Forecaster) -> None:
    first_s, second_s = STEPS * STEP_S, STEPS // 2 * SECOND_STEP_S
    assert end_s(of_two_sizes, SPEC) == pytest.approx(first_s, abs=0.01)
    assert end_s(of_two_sizes, TWO_PASSES) == pytest.approx(first_s + second_s, abs=0.01)
    assert end_s(of_two_sizes, TWO_PASSES, done=2) == pytest.approx(first_s - 2 * STEP_S + second_s, abs=0.01)
    assert end_s(of_two_sizes, TWO_PASSES, done=STEPS) == pytest.approx(second_s, abs=0.01)
    assert end_s(of_two_sizes, TWO_PASSES, done=STEPS + 1) == pytest.approx(second_s - SECOND_STEP_S, abs=0.01)


def test_what_is_far_from_the_front_is_forecast_by_the_work_of_both_passes(
    of_two_sizes: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = JobQueue(Limits(waiting=100))
    for _ in range(40):
        queue.submit(new_job([TWO_PASSES], "ada", 0.0))
    whole = forecast_of(of_two_sizes, queue).drained_s
    assert whole == pytest.approx(20 * (STEPS * STEP_S + STEPS // 2 * SECOND_STEP_S), rel=0.15)
    monkeypatch.setattr(module, "HORIZON", 10)
    assert forecast_of(of_two_sizes, queue).drained_s == pytest.approx(whole, rel=0.15)


def test_pixels_that_are_scaled_up_take_the_time_of_decoding_and_encoding(of_two_sizes: Forecaster) -> None:
    pixels = replace(TWO_PASSES, hires=replace(HIRES, upscaler="lanczos"))
    before = end_s(of_two_sizes, TWO_PASSES)
    assert end_s(of_two_sizes, pixels) == pytest.approx(before, abs=0.01)
    for _ in range(40):
        of_two_sizes.measure_decode(SPEC, 0.1, 1.0)
        of_two_sizes.measure_decode(TWO_PASSES, 0.3, 1.0)
    assert end_s(of_two_sizes, TWO_PASSES) == pytest.approx(before + 0.3, abs=0.01)
    assert end_s(of_two_sizes, pixels) == pytest.approx(before + 0.3 + 0.1 + 0.3, abs=0.01)


def test_decoding_a_size_that_was_not_measured_takes_what_its_pixels_do() -> None:
    forecaster = Forecaster(4)
    for _ in range(40):
        forecaster.measure_decode(SPEC, 0.1, 1.0)
    more_pixels = replace(SPEC, width=256, height=256)
    work = {spec: end_s(forecaster, spec) - STEPS * module.StepCurve().step_s(4, 1) for spec in (SPEC, more_pixels)}
    assert list(work.values()) == pytest.approx([0.1, 0.4], abs=0.01)


def test_between_passes_a_stage_that_sleeps_is_waited_for(forecaster: Forecaster) -> None:
    queue = JobQueue(Limits(waiting=10))
    queue.submit(new_job([TWO_PASSES], "ada", 0.0))
    granted = queue.grant("shapes", 0.0)
    assert granted is not None
    for step, waiting in ((STEPS - 1, False), (STEPS, True), (STEPS + 1, False), (TWO_PASSES.model_calls, True)):
        queue.progress(granted[0], StepUpdate(step=step, steps=TWO_PASSES.model_calls))
        forecaster.observe_replicas({"denoiser": 1, "vae": 0}, queue.running, 50.0 + step)
        assert (forecast_of(forecaster, queue, now=50.0 + step).cold_start_s > 0) == waiting
        forecaster.reset()


def test_the_work_that_is_left_of_an_image_is_that_of_its_passes() -> None:
    first, second = (segment.rows * segment.width * segment.height / 2**20 for segment in TWO_PASSES.segments)
    calls = STEPS // 2
    assert TWO_PASSES.cost_after(0) == TWO_PASSES.cost == STEPS * first + calls * second
    assert TWO_PASSES.cost_after(3) == (STEPS - 3) * first + calls * second
    assert TWO_PASSES.cost_after(STEPS + 1) == (calls - 1) * second
    assert TWO_PASSES.cost_after(STEPS + calls) == 0
