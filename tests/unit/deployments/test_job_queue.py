"""The queue by example, and under any order of events."""

import copy
from collections import Counter
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
)

from deployments.dispatcher import job_queue
from deployments.dispatcher.forecast import Estimate
from deployments.dispatcher.forecaster import Forecaster, QueueForecast
from deployments.dispatcher.job_queue import MAX_ATTEMPTS, TILED, JobQueue, Limits
from deployments.dispatcher.lease import Lease
from deployments.errors import JobEnded, NotFound, OwnerQueueFull, QueueFull
from deployments.jobs import Job, Timestamps
from models.errors import InvalidRequest, NonFinite
from models.spec import ImageSpec, StepUpdate
from tests.fakes import a_result, a_spec

SPEC = a_spec()
numbers = count()


def a_job(owner: str = "ada", pictures: int = 1, spec: ImageSpec = SPEC, deadline: float | None = None) -> Job:
    """A new job under a name that says whose it is."""
    times = Timestamps(created=0, deadline=deadline)
    return Job(id=f"{owner}-{next(numbers)}", owner=owner, status="queued", specs=(spec,) * pictures, timestamps=times)


def a_queue(*jobs: Job, max_waiting: int = 100) -> JobQueue:
    queue = JobQueue(Limits(max_waiting))
    for job in jobs:
        queue.submit(job)
    return queue


def granted(queue: JobQueue) -> Lease:
    """The lease of the next picture, of which there is one."""
    grant = queue.grant("shapes", 1.0)
    assert grant is not None
    return grant[0]


def owners(queue: JobQueue) -> list[str]:
    """Whose pictures are granted, one after the other."""
    found = []
    while grant := queue.grant("shapes", 1.0):
        found.append(grant[1].owner)
    return found


def update(step: int, batch_images: int = 1, **cut: str) -> StepUpdate:
    rows = SPEC.rows * batch_images
    return StepUpdate(step=step, steps=SPEC.num_inference_steps, batch_rows=rows, batch_images=batch_images, cut=cut)


def finish(queue: JobQueue, lease: Lease) -> Job | None:
    return queue.finish(lease, a_result(SPEC, lease), 2.0)


def test_an_image_that_was_decoded_in_tiles_is_warned_of_once() -> None:
    queue = a_queue(a_job(pictures=3))
    leases = [lease for lease, _ in iter(lambda: queue.grant("shapes", 1.0), None)]
    for lease in leases:
        job = queue.finish(lease, replace(a_result(SPEC, lease), tiled=lease.index > 0), 2.0)
    assert job is not None
    assert job.warnings == (TILED,)
    assert [image.tiled for image in job.images] == [False, True, True]


def seen(queue: JobQueue) -> object:
    """All that can be seen of a queue."""
    return copy.deepcopy((queue._jobs, list(queue.queued("shapes")), queue.running, queue.waiting))


# -- order


def test_within_an_owner_first_come_is_first_served() -> None:
    jobs = [a_job(pictures=2), a_job(), a_job()]
    queue = a_queue(*jobs)
    leases = [granted(queue) for _ in range(4)]
    assert [(lease.job_id, lease.index) for lease in leases] == [
        (jobs[0].id, 0),
        (jobs[0].id, 1),
        (jobs[1].id, 0),
        (jobs[2].id, 0),
    ]
    assert queue.grant("shapes", 1.0) is None


def test_an_owner_with_many_pictures_does_not_hold_up_one_with_few() -> None:
    queue = a_queue(a_job("ada", 10), a_job("bob", 1), a_job("cy", 2))
    assert owners(queue)[:6] == ["ada", "bob", "cy", "ada", "cy", "ada"]


def test_fair_means_work_and_not_pictures() -> None:
    dear = a_spec(num_inference_steps=3 * SPEC.num_inference_steps)
    queue = a_queue(a_job("ada", 3, dear), a_job("bob", 6))
    assert owners(queue) == ["ada", "bob", "bob", "bob", "ada", "bob", "bob", "bob", "ada"]


def test_who_worked_alone_for_long_is_not_starved_by_a_newcomer() -> None:
    queue = a_queue(a_job("ada", 50))
    assert owners(queue) == ["ada"] * 50
    queue.submit(a_job("bob", 50))
    granted(queue)
    queue.submit(a_job("ada", 1))
    assert "ada" in owners(queue)[:3]


def test_who_was_away_has_saved_up_nothing() -> None:
    queue = a_queue(a_job("ada", 1), a_job("bob", 50))
    for _ in range(20):
        granted(queue)
    queue.submit(a_job("ada", 20))
    assert owners(queue)[:8].count("ada") == 4


def test_owners_who_are_gone_leave_no_trace() -> None:
    queue = a_queue()
    for k in range(200):
        queue.submit(a_job(f"owner {k}"))
        finish(queue, granted(queue))
    assert (queue._queues["shapes"]._served, queue._queues["shapes"]._queues) == ({}, {})


def test_the_line_tells_the_order_of_the_grants() -> None:
    queue = a_queue(a_job("ada", 3), a_job("bob", 2), a_job("ada", 1), a_job("cy", 4))
    foretold = [waiting.lease for waiting in queue.queued("shapes")]
    assert [granted(queue) for _ in range(10)] == foretold


# -- a full line


def test_a_full_queue_queues_nothing_of_the_job_and_says_when_to_come_back() -> None:
    queue = a_queue(a_job("ada", 3), max_waiting=4)
    before = seen(queue)
    late = a_job("bob", 2)
    with pytest.raises(QueueFull) as caught:
        queue.check_room(late.owner, len(late.specs), lambda over: 17 * over)
    assert caught.value.retry_after_s == 17
    assert "(4)" in caught.value.message
    assert seen(queue) == before
    assert "bob" not in queue._queues["shapes"]._queues
    assert "bob" not in queue._queues["shapes"]._served
    with pytest.raises(NotFound):
        queue.job(late.id)
    assert owners(queue) == ["ada"] * 3


def test_an_owner_at_their_cap_of_waiting_pictures_is_refused_and_others_are_not() -> None:
    queue = JobQueue(Limits(100, owner_waiting=3))
    queue.submit(a_job("ada", 2))
    queue.check_room("ada", 1)
    with pytest.raises(OwnerQueueFull, match="At most 3 of your pictures"):
        queue.check_room("ada", 2)
    queue.check_room("bob", 3)


def test_more_pictures_than_may_ever_wait_are_refused_for_good() -> None:
    for queue, own_most, most in (
        (JobQueue(Limits(4)), None, 4),
        (JobQueue(Limits(9, owner_waiting=2)), 3, 2),
        (JobQueue(Limits(9)), 1, 1),
    ):
        with pytest.raises(InvalidRequest, match=f"num_images must be at most {most}") as caught:
            queue.check_room("ada", most + 1, own_most=own_most)
        assert caught.value.param == "num_images"


def test_who_was_held_back_does_not_let_who_comes_next_begin_before_others() -> None:
    queue = JobQueue(Limits(100, owner_running=1))
    queue.submit(a_job("ada", 2))
    first = granted(queue)
    queue.submit(a_job("bob", 9))
    for _ in range(5):
        finish(queue, granted(queue))  # bob's
    finish(queue, first)
    assert queue.job(granted(queue).job_id).owner == "ada"  # who stands at one
    queue.submit(a_job("cy", 1))
    line = queue._queues["shapes"]
    assert line._served["cy"] == pytest.approx(line._clock)
    assert line._clock >= 4 * a_spec().cost


def test_an_owner_at_their_cap_of_running_pictures_lets_others_pass_and_goes_on_when_one_has_ended() -> None:
    queue = JobQueue(Limits(100, owner_running=2))
    queue.submit(a_job("ada", 4))
    queue.submit(a_job("bob", 1))
    leases = [granted(queue) for _ in range(3)]
    assert [queue.job(lease.job_id).owner for lease in leases] == ["ada", "bob", "ada"]
    assert queue.grant("shapes", 1.0) is None
    queue.lose(leases[0], 2.0)
    assert granted(queue).attempt == 2
    assert queue.grant("shapes", 1.0) is None
    finish(queue, leases[2])
    assert granted(queue).index == 2


def test_a_picture_in_the_making_takes_no_place_in_line() -> None:
    queue = a_queue(a_job(), max_waiting=1)
    granted(queue)
    queue.check_room("ada", 1)
    queue.submit(a_job())
    assert (queue.waiting, len(queue.running)) == (1, 1)


# -- a job's life


def test_a_job_goes_from_queued_to_running_to_succeeded() -> None:
    queue = a_queue(job := a_job(pictures=2))
    first = granted(queue)
    state = queue.job(job.id)
    assert (state.status, state.timestamps.started, state.progress.stage) == ("running", 1.0, "encode")
    state = queue.progress(first, update(3), "data:image/webp;base64,AA")
    assert (state.progress.stage, state.progress.step, state.progress.steps) == ("denoise", 3, 16)
    assert state.progress.previews == {0: "data:image/webp;base64,AA"}
    state = finish(queue, first)
    assert (state.status, state.progress.step, state.progress.previews) == ("running", 8, {})
    second = granted(queue)
    state = queue.progress(second, update(8))
    assert (state.progress.stage, state.progress.step) == ("decode", 16)
    state = finish(queue, second)
    assert (state.status, state.progress, state.timestamps.ended) == ("succeeded", None, 2.0)
    assert [image.index for image in state.images] == [0, 1]


def test_pictures_are_listed_in_their_order_and_not_in_that_of_their_ends() -> None:
    queue = a_queue(job := a_job(pictures=3))
    for lease in [granted(queue) for _ in range(3)][::-1]:
        finish(queue, lease)
    assert [image.index for image in queue.job(job.id).images] == [0, 1, 2]


def test_a_failed_picture_ends_its_job_and_takes_the_others_out() -> None:
    queue = a_queue(job := a_job(pictures=3), other := a_job())
    first, second = granted(queue), granted(queue)
    state = queue.fail(first, NonFinite("The picture turned into NaN."), 2.0)
    assert (state.status, state.error.code, state.error.message) == (
        "failed",
        "non_finite",
        "The picture turned into NaN.",
    )
    assert (queue.running, finish(queue, second)) == ([], None)
    assert [waiting.lease.job_id for waiting in queue.queued("shapes")] == [other.id]
    assert queue.job(job.id).status == "failed"


def test_a_lost_picture_goes_to_the_front_of_the_line_with_its_next_attempt() -> None:
    queue = a_queue(job := a_job("ada"), a_job("bob"), a_job("cy"))
    lease = granted(queue)
    queue.progress(lease, update(5), "data:")
    state = queue.lose(lease, 2.0)
    assert (state.status, state.progress, len(state.warnings)) == ("queued", None, 1)
    assert granted(queue) == Lease(job.id, 0, attempt=2)
    assert queue.job(job.id).progress.step == 0
    assert queue.job(job.id).timestamps.started == 1.0


def test_a_job_that_loses_one_of_two_pictures_is_still_running() -> None:
    queue = a_queue(job := a_job(pictures=2))
    first, second = granted(queue), granted(queue)
    queue.progress(first, update(4))
    assert queue.lose(second, 2.0).status == "running"
    assert queue.job(job.id).progress.step == 4
    assert queue.lose(first, 2.0).status == "queued"


def test_a_job_with_a_finished_picture_is_still_running_when_it_loses_the_rest() -> None:
    queue = a_queue(job := a_job(pictures=2))
    finish(queue, granted(queue))
    assert queue.lose(granted(queue), 2.0).status == "running"
    assert queue.estimate(QueueForecast(jobs={job.id: Estimate(1.0, 9.0)}))[0].progress.eta_s == 9.0
    finish(queue, granted(queue))
    assert queue.job(job.id).status == "succeeded"


def test_a_picture_that_is_lost_too_often_fails_its_job() -> None:
    queue = a_queue(a_job())
    for _ in range(MAX_ATTEMPTS):
        state = queue.lose(granted(queue), 2.0)
    assert (state.status, state.error.code, len(state.warnings)) == ("failed", "replica_lost", 1)
    assert queue.waiting == 0


def test_a_lost_picture_of_an_owner_without_a_line_can_be_cancelled() -> None:
    queue = a_queue(job := a_job())
    queue.lose(granted(queue), 2.0)
    assert queue.cancel(job.id, "ada", 3.0).status == "cancelled"
    assert (queue.waiting, queue.running) == (0, [])


def test_cancelling_takes_a_job_out_of_the_line_and_leaves_the_owners_others() -> None:
    queue = a_queue(job := a_job(pictures=3), other := a_job())
    lease = granted(queue)
    state = queue.cancel(job.id, "ada", 3.0)
    assert (state.status, state.queue, state.progress, state.timestamps.ended) == ("cancelled", None, None, 3.0)
    assert [waiting.lease.job_id for waiting in queue.queued("shapes")] == [other.id]
    assert queue.progress(lease, update(4)) is None


def test_an_ended_job_cannot_be_cancelled() -> None:
    queue = a_queue(job := a_job())
    finish(queue, granted(queue))
    with pytest.raises(JobEnded, match="succeeded"):
        queue.cancel(job.id, "ada", 3.0)


def test_somebody_elses_job_does_not_exist() -> None:
    queue = a_queue(job := a_job("ada"))
    for attempt in (queue.job, lambda *args: queue.cancel(*args, 1.0)):
        with pytest.raises(NotFound):
            attempt(job.id, "bob")
    assert queue.job(job.id, "ada") == queue.job(job.id)
    assert queue.jobs("bob") == []


def test_jobs_are_listed_newest_first() -> None:
    first, second = a_job(), a_job()
    queue = a_queue(first, a_job("bob"), second)
    assert [job.id for job in queue.jobs("ada")] == [second.id, first.id]
    granted(queue)
    assert [job.id for job in queue.jobs("ada")] == [second.id, first.id]


def test_a_job_tells_how_many_pictures_shared_the_fullest_of_its_newest_forwards() -> None:
    queue = a_queue(a_job(pictures=2))
    first, second = granted(queue), granted(queue)
    queue.progress(first, update(1, batch_images=4))
    state = queue.progress(second, update(1, batch_images=3))
    assert (state.progress.batch_images, state.progress.batch_rows) == (4, 8)
    state = queue.progress(first, update(2, batch_images=2))
    assert (state.progress.batch_images, state.progress.batch_rows) == (3, 6)


def test_a_cut_prompt_and_a_cut_negative_prompt_give_a_warning_each_that_quotes_it() -> None:
    queue = a_queue(a_job())
    lease = granted(queue)
    queue.progress(lease, update(1, prompt=" and a cat ", negative_prompt=" grain"))
    state = queue.progress(lease, update(2, prompt=" and a cat ", negative_prompt=" grain"))
    assert state.warnings == (
        "The text encoder did not read the end of the prompt: “and a cat”.",
        "The text encoder did not read the end of the negative prompt: “grain”.",
    )


def test_the_oldest_jobs_that_have_ended_are_forgotten_and_never_one_that_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_queue, "KEPT_JOBS", 3)
    queue = a_queue(open_job := a_job())
    lease = granted(queue)
    done = [a_job() for _ in range(4)]
    for job in done:
        queue.submit(job)
        finish(queue, granted(queue))
    queue.submit(newest := a_job())
    assert [job.id for job in queue.jobs("ada")] == [newest.id, *(job.id for job in done[:0:-1]), open_job.id]
    assert finish(queue, lease).status == "succeeded"


# -- places and times


def test_places_count_jobs_and_only_changed_jobs_are_returned() -> None:
    jobs = [a_job("ada", 2), a_job("bob"), a_job("ada")]
    queue = a_queue(*jobs)
    forecast = QueueForecast(
        places={job.id: place for place, job in enumerate(jobs, 1)},
        jobs={job.id: Estimate(k, k + 1) for k, job in enumerate(jobs)},
    )
    changed = queue.estimate(forecast)
    assert [(job.id, job.queue.position, job.queue.size, job.queue.eta_s) for job in changed] == [
        (jobs[0].id, 1, 3, 0),
        (jobs[1].id, 2, 3, 1),
        (jobs[2].id, 3, 3, 2),
    ]
    assert queue.estimate(forecast) == []
    moved = queue.estimate(replace(forecast, jobs={**forecast.jobs, jobs[1].id: Estimate(30, 31)}))
    assert [(job.id, job.queue.eta_s) for job in moved] == [(jobs[1].id, 30)]


def test_a_time_that_is_unsure_is_told_with_how_long_it_may_take() -> None:
    first, second = a_job(), a_job()
    queue = a_queue(first, second)
    granted(queue)
    forecast = QueueForecast(
        places={second.id: 1},
        jobs={first.id: Estimate(0, 8), second.id: Estimate(10, 20)},
        relative_error=0.5,
        cold_start_s=4,
    )
    running, waiting = queue.estimate(forecast)
    assert (running.progress.eta_s, running.progress.eta_most_s) == (8, 8 * 1.5 + 4)
    assert (waiting.queue.eta_s, waiting.queue.eta_most_s) == (10, 10 * 1.5 + 4)


def test_a_job_that_starts_is_told_the_end_that_was_foretold_while_it_waited() -> None:
    queue = a_queue(job := a_job())
    queue.estimate(QueueForecast(places={job.id: 1}, jobs={job.id: Estimate(3, 8)}))
    _, started = queue.grant("shapes", 1.0)
    assert (started.queue, started.progress.eta_s) == (None, 8)


def test_a_running_job_gets_the_time_of_its_last_picture() -> None:
    queue = a_queue(job := a_job(pictures=2))
    granted(queue)
    [state] = queue.estimate(QueueForecast(jobs={job.id: Estimate(0, 10)}))
    assert (state.progress.eta_s, state.progress.eta_most_s) == (10, None)
    assert queue.estimate(QueueForecast(jobs={job.id: Estimate(0, 10.2)})) == []


def test_each_change_raises_the_version() -> None:
    queue = a_queue(job := a_job())
    states = [queue.job(job.id)]
    lease = granted(queue)
    states += [queue.job(job.id), queue.progress(lease, update(1)), finish(queue, lease)]
    assert [state.version for state in states] == [0, 1, 2, 3]


# -- any order of events

MAX_WAITING = 12
SPECS = [SPEC, a_spec(guidance_scale=0.0), a_spec(num_inference_steps=32)]
DEAREST = max(spec.cost for spec in SPECS)


class QueueMachine(RuleBasedStateMachine):
    """Owners come and go, replicas die, leases are taken back."""

    jobs = Bundle("jobs")
    leases = Bundle("leases")  # held, or taken back since

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 1
        self.queue = JobQueue(Limits(MAX_WAITING), self.epoch)
        self.accepted: list[str] = []
        self.ended: dict[str, Job] = {}
        self.held: set[Lease] = set()
        self.overtaken: dict[str, dict[str, float]] = {}  # who waits -> work of others since their last turn

    # -- events

    @rule(
        target=jobs,
        owner=st.sampled_from("abc"),
        pictures=st.integers(1, 3),
        spec=st.sampled_from(SPECS),
        deadline=st.none() | st.sampled_from((10.0, 20.0)),
    )
    def submit(self, owner: str, pictures: int, spec: ImageSpec, deadline: float | None):
        job = a_job(owner, pictures, spec, deadline)
        before = seen(self.queue)
        try:
            self.queue.check_room(owner, pictures, lambda over: 5 * over)
        except QueueFull:
            assert self.queue.waiting + pictures > MAX_WAITING
            assert seen(self.queue) == before
            return multiple()
        self.queue.submit(job)
        assert self.queue.waiting <= MAX_WAITING
        self.accepted.append(job.id)
        return job.id

    @rule(target=leases)
    def grant(self):
        line = list(self.queue.queued("shapes"))
        urgent = bool(self.queue._queues["shapes"]._urgent)
        grant = self.queue.grant("shapes", 1.0)
        if grant is None:
            assert not line
            return multiple()
        lease, job = grant
        assert lease == line[0].lease
        assert job == self.queue.job(job.id)
        assert job.status == "running"
        assert lease not in self.held
        assert 1 <= lease.attempt <= MAX_ATTEMPTS
        self.held.add(lease)
        if not urgent:
            self.turn(job.owner, line[0].spec.cost, {waiting.owner for waiting in line})
        return lease

    @rule(lease=leases, step=st.integers(1, SPEC.num_inference_steps))
    def progress(self, lease: Lease, step: int) -> None:
        self.book(lease, lambda: self.queue.progress(lease, update(step), "data:"), takes_back=False)

    @rule(lease=leases)
    def finish(self, lease: Lease) -> None:
        self.book(lease, lambda: finish(self.queue, lease))

    @rule(lease=leases)
    def fail(self, lease: Lease) -> None:
        self.book(lease, lambda: self.queue.fail(lease, NonFinite("NaN"), 2.0))

    @rule(lease=leases)
    def lose(self, lease: Lease) -> None:
        self.book(lease, lambda: self.queue.lose(lease, 2.0))

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        if job_id in self.ended:
            before = seen(self.queue)
            with pytest.raises(JobEnded):
                self.queue.cancel(job_id, None, 2.0)
            assert seen(self.queue) == before
        else:
            assert self.queue.cancel(job_id, None, 2.0).status == "cancelled"

    @rule(now=st.sampled_from((5.0, 10.0, 25.0)))
    def expire(self, now: float) -> None:
        late = {job.id for job in self.present() if not job.ended and (job.timestamps.deadline or 99.0) <= now}
        expired = self.queue.expire(now)
        assert {job.id for job in expired} == late
        assert {job.status for job in expired} <= {"expired"}

    @rule()
    def restart(self) -> None:
        """The process dies; another takes up what had not ended, in the order in which it came."""
        self.an_end_is_final()
        versions = {job.id: job.version for job in self.present()}
        unfinished = [replace(job, queue=None, progress=None) for job in self.present() if not job.ended]
        ended = [job for job in self.present() if job.ended]
        self.epoch += 1
        self.queue = JobQueue(Limits(MAX_WAITING), self.epoch)
        for job in ended:
            self.queue._jobs[job.id] = job  # as the store would give it
        for job in unfinished:
            assert self.queue.restore(job).version > versions[job.id]
        self.held.clear()
        self.overtaken.clear()

    @rule()
    def estimate(self) -> None:
        forecast = Forecaster(max_rows=2).forecast(
            self.queue.running, self.queue.queued("shapes"), self.queue.waiting_cost("shapes"), {}, now=1.0
        )
        changed = self.queue.estimate(forecast)
        assert all(job == self.queue.job(job.id) for job in changed)
        assert self.queue.estimate(forecast) == []
        in_line = list(dict.fromkeys(waiting.lease.job_id for waiting in self.queue.queued("shapes")))
        for job in map(self.queue.job, self.accepted):
            if job.status == "queued":
                assert (job.queue.position, job.queue.size) == (in_line.index(job.id) + 1, len(in_line))
            else:
                assert job.queue is None

    @rule()
    def the_line_foretells_the_grants(self) -> None:
        queue = copy.deepcopy(self.queue)
        foretold = [waiting.lease for waiting in queue.queued("shapes")]
        assert [granted(queue) for _ in foretold] == foretold
        assert queue.grant("shapes", 1.0) is None

    # -- what they have in common

    def present(self) -> list[Job]:
        return [self.queue.job(job_id) for job_id in self.accepted]

    def book(self, lease: Lease, change, *, takes_back: bool = True) -> None:
        before, version = seen(self.queue), self.queue.job(lease.job_id).version
        job = change()
        if lease not in self.held:
            assert job is None
            assert seen(self.queue) == before
            return
        assert job == self.queue.job(lease.job_id)
        assert job.version == version + 1
        if takes_back:
            self.held.discard(lease)

    def turn(self, owner: str, cost: float, waiting: set[str]) -> None:
        self.overtaken.pop(owner, None)
        for other in waiting - {owner}:
            work = self.overtaken.setdefault(other, {})
            work[owner] = work.get(owner, 0.0) + cost
            assert work[owner] <= 2 * DEAREST, f"{other} starves behind {owner}"

    # -- what always holds

    @invariant()
    def every_picture_is_in_one_place(self) -> None:
        line = [(waiting.lease.job_id, waiting.lease.index) for waiting in self.queue.queued("shapes")]
        running = [(lease.job_id, lease.index) for lease, _, _ in self.queue.running]
        places = line + running
        for job in map(self.queue.job, self.accepted):
            done = [image.index for image in job.images]
            assert len(done) == len(set(done))
            mine = sorted([index for job_id, index in places if job_id == job.id] + done)
            if job.ended:
                assert mine == sorted(done)
            else:
                assert mine == list(range(len(job.specs)))
            if job.status == "succeeded":
                assert done == list(range(len(job.specs)))
            assert (job.status == "queued") == (not job.ended and not done and job.id not in dict(running))
            assert (job.progress is not None) == (job.status == "running")
        assert self.queue.waiting == len(line)
        cost = sum(waiting.spec.cost for waiting in self.queue.queued("shapes"))
        assert self.queue.waiting_cost("shapes") == pytest.approx(cost)
        in_line = Counter(job_id for job_id, _ in line)
        assert all(self.queue.queued_images(job_id) == in_line[job_id] for job_id in self.accepted)
        waiting = {job_id for job_id, _ in line}
        owners = {self.queue.job(job_id).owner for job_id in waiting}
        self.overtaken = {owner: work for owner, work in self.overtaken.items() if owner in owners}

    @invariant()
    def an_end_is_final(self) -> None:
        for job in map(self.queue.job, self.accepted):
            if job.ended:
                assert self.ended.setdefault(job.id, job) is job
                assert (job.error is not None) == (job.status in ("failed", "expired"))
                assert job.timestamps.ended is not None
                self.held = {lease for lease in self.held if lease.job_id != job.id}

    def teardown(self) -> None:
        """Whatever happened, the rest comes to its end."""
        for lease in list(self.held):
            finish(self.queue, lease)
        for _ in range(self.queue.waiting):
            finish(self.queue, granted(self.queue))
        assert (self.queue.waiting, self.queue.running) == (0, [])
        assert all(self.queue.job(job_id).ended for job_id in self.accepted)
        self.an_end_is_final()


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_under_any_order_of_events_every_job_ends_once_and_nobody_starves = QueueMachine.TestCase
