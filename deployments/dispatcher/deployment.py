"""The Dispatcher: owns the queue, runs each picture through the pipeline when there is room, and tells who watches.

What a client has seen of a job's beginning, its pictures or its end is on disk before. A Dispatcher that begins takes
over from those before it, wherever they still run, and goes on with the jobs that they did not end. Models come and go
beside it, as applications of their own; jobs of one that is not up yet wait for it.
"""

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from deployments.config import InputsConfig, QueueConfig
from deployments.dispatcher import job_log
from deployments.dispatcher.admission import check_backlog, check_cost, deadline_s, hash_of
from deployments.dispatcher.clock import SteadyClock
from deployments.dispatcher.durable_writer import DurableWriter
from deployments.dispatcher.feed import Feed
from deployments.dispatcher.inputs import Inputs
from deployments.dispatcher.job_queue import JobQueue, Limits
from deployments.dispatcher.job_store import JobStore, NotConfirmed, RequestKey
from deployments.dispatcher.lease import Lease
from deployments.dispatcher.metrics import DispatcherMetrics
from deployments.dispatcher.model_queue import ModelQueue, Stages
from deployments.dispatcher.queue_stats import Allowance, QueueStats, Replicas
from deployments.dispatcher.quota import DAY_S
from deployments.dispatcher.replica_counts import ReplicaCounts
from deployments.dispatcher.sweeper import Sweeper
from deployments.error_responses import is_server_error
from deployments.errors import (
    Gone,
    JobEnded,
    NotFound,
    ReplicaLost,
    StoreUnavailable,
    Superseded,
    Unauthorized,
    UnknownModel,
)
from deployments.image_store import ImageStore
from deployments.input_store import InputStore, NewInput, StoredInput
from deployments.jobs import Job, Progress, QueuePlace, Status, new_job
from deployments.keys import OWNER, ApiKey, Keyring
from deployments.named_inputs import named_inputs, with_inputs
from deployments.request_warnings import request_warnings
from deployments.resolution import default_named, resolve, words
from deployments.schema import GenerationRequest
from deployments.serve.job_context import context_of
from deployments.serve.refusal_log import log_refusals_briefly
from models.errors import DarkroomError, Unavailable
from models.model_card import ModelCard
from models.spec import ImageSpec, StepUpdate, Tokens

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id
Told = TypeVar("Told", QueuePlace, Progress)

FORECAST_INTERVAL_S = 0.5
FORECAST_SHARE = 0.05  # of the event loop's time, at most: beyond, forecasts are fewer
MEET_INTERVAL_S = 1.0  # each model
MAX_ROWS = 16  # of a forward, until a Denoiser has said
CONFIRM_INTERVAL_S = 1.0
ACCEPT_WITHIN_S = 45.0  # sooner than `DispatcherClient` gives up: it says that nothing was queued
FEED_S = 600.0  # then its reader opens another: one that died would have this one for ever


class Dispatcher:
    """The cluster's one queue in action. All methods run on one event loop.

    Raises:
        StoreUnavailable: which database, and why.
    """

    def __init__(
        self,
        models: Mapping[str, Stages],
        config: QueueConfig,
        *,
        inputs: InputsConfig,
        database_url: str,
        images: str,
        replicas: Callable[[], Mapping[str, Mapping[str, Replicas]]],
        max_rows: int = MAX_ROWS,
        keys: Path | None = None,
        aliases: Mapping[str, str] = {},
        clock: SteadyClock | None = None,
    ) -> None:
        log_refusals_briefly()
        self._clock = clock or SteadyClock()
        self._models = {name: ModelQueue(name, stages, max_rows) for name, stages in models.items()}
        self._aliases = aliases  # another name -> the model
        self._config = config
        self._keys = None if keys is None else Keyring(keys)
        store = JobStore(database_url)
        unfinished = store.begin()
        limits = Limits(config.max_waiting, config.max_waiting_per_owner, config.max_running_per_owner)
        self._queue = JobQueue(limits, store.epoch)
        self._writer = DurableWriter(store, self._stop)
        self._accepting = asyncio.Lock()
        self._counts = ReplicaCounts(replicas)
        self._asked: set[str] = set()  # jobs that somebody has asked for, until they end
        self._tasks: dict[Lease, asyncio.Task[None]] = {}
        self._contexts: dict[str, Context] = {}  # of the jobs that have not ended
        self._errands = set[asyncio.Task[None]]()  # that nobody waits for, and that take as long as the database does
        self._metrics = DispatcherMetrics()
        self._feeds: set[Feed] = set()
        self._forecasting: asyncio.Task[None] | None = None
        self._in_charge = False
        self._beginning = asyncio.create_task(self._begin(store.epoch, unfinished))
        results = ImageStore(images)
        self._inputs = Inputs(self._writer, InputStore(images), results, inputs, self._clock, self._metrics)
        sweeper = Sweeper(self._writer, results, self._inputs, config, self._clock, self._queue.forget)
        self._background = [
            asyncio.create_task(work)
            for work in (sweeper.keep_sweeping(), self._keep_confirming(), self._keep_meeting())
        ]

    # -- what ingresses call

    async def submit(
        self, request: GenerationRequest, owner: str, key: str | None = None, alpha_is_mask: bool = False
    ) -> Job:
        """Queue a request; the job that is returned is on disk. The same key and request give the same job again.

        With `alpha_is_mask` the transparency of its image is no cause for a warning.

        Raises:
            Unauthorized, UnknownModel, Unavailable, InvalidRequest, InputNotFound, QueueFull, IdempotencyKeyReused,
            StoreUnavailable: nothing was queued.
        """
        with self._metrics.refusals():
            self._check_key(owner)
            await asyncio.shield(self._beginning)
            card = self._card_of(request.model)
            specs = resolve(request, card)
            api_key = self._key_of(owner)
            check_cost(specs, self._config, api_key and api_key.max_cost_per_day)
            before = time.monotonic() + ACCEPT_WITHIN_S
            request_key = None if key is None else RequestKey(key, hash_of(request))
            plan_checks = self._models[card.id].plan_checks
            if named_inputs(specs[0]) or not plan_checks.has_passed(specs[0], card.digest):
                # Before these checks: a repeated request neither waits for them nor is refused.
                earlier = await self._accepted_before(owner, request_key)
                if earlier is not None and self._is_kept(earlier):
                    return earlier
                await plan_checks.check(specs[0], card.digest)
                inputs = await self._inputs.resolve(owner, named_inputs(specs[0]), self.job)
                specs = [with_inputs(spec, inputs) for spec in specs]
            shows_white = not alpha_is_mask and await self._inputs.is_transparent(owner, specs[0])
            warnings = request_warnings(request, specs[0], card, shows_white=shows_white)
            job = new_job(specs, owner, self._clock.now(), deadline_s(request, self._config), warnings)
            # Shielded: a caller who leaves must not leave a job on disk that is in no line.
            return await asyncio.shield(self._accept(job, request_key, before))

    async def accepted(self, request: GenerationRequest, owner: str, key: str) -> Job | None:
        """Return the job that `submit` would return again; None where it would queue a new one.

        Raises:
            Unauthorized, IdempotencyKeyReused, Gone, StoreUnavailable
        """
        with self._metrics.refusals():
            self._check_key(owner)
            await asyncio.shield(self._beginning)
            earlier = await self._accepted_before(owner, RequestKey(key, hash_of(request)))
            return earlier if earlier is not None and self._is_kept(earlier) else None

    async def job(self, job_id: str, owner: str | None, link: str = "") -> Job:
        """Return a job's present state; `NotFound` if it is somebody else's and `link` is not its own."""
        await asyncio.shield(self._beginning)
        self._writer.check()
        await self._writer.flushed(job_id)
        if self._queue.is_open(job_id):
            self._asked.add(job_id)
        try:
            return self._as_of_now(self._queue.job(job_id, owner, link))
        except NotFound:
            job = await self._writer.call(self._writer.store.job, job_id)
            if job is None or not job.shown_to(owner, link):
                raise
            return job

    async def jobs(
        self, owner: str, status: Status | None = None, limit: int = 100, after: str | None = None
    ) -> list[Job]:
        """Return an owner's jobs, newest first: those of one status, and those that came before the job `after`.

        Raises:
            NotFound, Gone: `after`.
        """
        await asyncio.shield(self._beginning)
        self._writer.check()
        if after is not None:
            await self._check_mark(after, owner)
        present = {j.id: self._as_of_now(j) for j in self._queue.jobs(owner) if not self._writer.has_unsaved(j.id)}
        if status in ("queued", "running"):  # which of the two is of the moment, and not on disk
            earlier = present.keys()
            if after is not None:
                earlier = await self._writer.call(self._writer.store.open_before, owner, after)
            return list(islice((job for job in present.values() if job.id in earlier and job.status == status), limit))
        saved = await self._writer.call(self._writer.store.jobs, owner, status, limit, after)
        return [present.get(job.id, job) for job in saved]

    async def _check_mark(self, after: str, owner: str) -> None:
        """Check that there is a job `after` which others of its owner are listed. Raises NotFound, Gone."""
        try:
            await self.job(after, owner)
        except NotFound:
            message = f"after must be the id of a job that POST /v1/jobs returned; there is no {after[:80]}."
            raise NotFound(message, "after") from None
        except Gone as error:
            raise Gone(f"after: {error.message}", "after") from None

    async def allowance(self, owner: str) -> Allowance | None:
        """Return what the key of an owner may ask for, and what is left; None for an owner without a key."""
        key = self._key_of(owner)
        if key is None:
            return None
        now = self._clock.now()
        spent = 0.0
        if key.max_cost_per_day is not None:
            spent = await self._writer.call(self._writer.store.spent, owner, now)
        waiting = self._queue.waiting_of(owner)
        return Allowance(key.max_waiting, waiting, key.max_cost_per_day, spent, DAY_S - now % DAY_S)

    async def tokens(self, request: GenerationRequest) -> tuple[Tokens, Tokens]:
        """Count what the text encoder reads of prompt and negative prompt, a style's words with them.

        Raises:
            UnknownModel, Unavailable, InvalidRequest: the model knows no such style or embedding.
            AdapterChanged, UnusableAdapter: the file of an embedding, since its folder was last read.
        """
        await asyncio.shield(self._beginning)
        card = self._card_of(request.model)
        texts, stages = words(request, card), self._models[card.id].stages
        with default_named(request, card):
            return await asyncio.gather(
                stages.tokens(texts.prompt, texts.syntax, texts.prompt_embeddings, "prompt"),
                stages.tokens(texts.negative_prompt, texts.syntax, texts.negative_embeddings, "negative_prompt"),
            )

    async def cancel(self, job_id: str, owner: str | None) -> Job:
        """End a job; its images leave the denoiser within one step.

        Raises:
            NotFound, Gone, JobEnded: there is nothing to end.
            StoreUnavailable: it ends, and that is not on disk yet.
        """
        job = await self.job(job_id, owner)
        if job.ended:
            raise JobEnded(f"Job {job_id} has ended already: {job.status}.")
        job = self._queue.cancel(job_id, owner, self._clock.now())
        self._go_and(self._book(job))
        await self._writer.flushed(job_id)
        self._writer.check()  # else it was not for this Dispatcher to end
        return job

    async def check_input_room(self, owner: str, size: int) -> None:
        """Check whether an owner may keep `size` bytes more. Raises Unauthorized, InputQuotaExceeded, StorageFull."""
        self._check_key(owner)
        await self._inputs.check_room(owner, size)

    async def add_input(self, owner: str, new: NewInput) -> tuple[StoredInput, bool] | None:
        """Add an input: see `Inputs.add`."""
        self._check_key(owner)
        return await asyncio.shield(self._inputs.add(owner, new))

    async def input(self, input_id: str, owner: str) -> StoredInput:
        """Return an input of an owner. Raises InputNotFound."""
        return await self._inputs.find(input_id, owner)

    async def inputs(self, owner: str, limit: int = 100, after: str | None = None) -> list[StoredInput]:
        """Return an owner's inputs, newest first: those that come after the input `after`. Raises InputNotFound."""
        return await self._inputs.newest(owner, limit, after)

    async def delete_input(self, input_id: str, owner: str) -> None:
        """Delete an input of an owner. Raises InputNotFound, InputInUse."""
        await asyncio.shield(self._inputs.delete(input_id, owner))

    def check_health(self) -> None:
        """Let Serve replace a Dispatcher that another has taken over from, or of which a part has stopped."""
        self._writer.check()
        for work in (self._beginning, *self._background):
            if work.done():
                work.result()

    async def problem(self) -> str | None:
        """Say what keeps jobs from being accepted, if anything does."""
        if not any(model.card for model in self._models.values()):
            return "No model is up yet."
        return self._writer.problem

    async def models(self) -> list[ModelCard]:
        """Return the cards of the models that can be used, the default first.

        Raises:
            Unavailable: there is none yet.
        """
        await asyncio.shield(self._beginning)
        cards = [model.card for model in self._models.values() if model.card]
        if not cards:
            raise Unavailable("No model is up yet. Try again soon.")
        return [replace(card, aliases=self._aliases_of(card.id)) for card in cards]

    async def queue(self) -> QueueStats:
        """Return the whole queue at a glance."""
        await self._count()
        updates = [update for _, _, update in self._queue.running if update]
        models = {name: model.stats(self._queue) for name, model in self._models.items()}
        return QueueStats(
            waiting=self._queue.waiting,
            running=len(self._queue.running),
            eta_s=max(model.eta_s for model in models.values()),
            replicas=_total(model.replicas for model in models.values()),
            batch_rows_mean=sum(update.batch_rows for update in updates) / len(updates) if updates else 0.0,
            starting=_total(model.starting for model in models.values()),
            owners=self._queue.owners_waiting,
            models=models,
        )

    async def feed(self) -> AsyncIterator[list[Job]]:
        """Yield the newest state of the jobs that changed, as often as the reader asks; the first item is empty.

        Raises:
            Superseded: the reader should look for the Dispatcher that has taken over.
        """
        self._writer.check()
        feed, until = Feed(), time.monotonic() + FEED_S
        self._feeds.add(feed)
        try:
            yield []
            while time.monotonic() < until:
                yield await feed.changes()
        finally:
            self._feeds.discard(feed)

    # -- what happens meanwhile

    async def _begin(self, epoch: int, unfinished: list[Job]) -> None:
        """Take the denoisers over, and go on with what is unfinished."""
        models = self._models.values()
        await asyncio.gather(
            *(model.stages.fence(epoch) for model in models), *(model.exchange_demand(self._queue) for model in models)
        )
        for job in unfinished:
            self._queue.restore(job)
            self._contexts[job.id] = context_of(job.id)
            if job.model not in self._models:
                error = UnknownModel(f"model: {job.model} is no longer served.", "model")
                await self._book(self._queue.reject(job.id, error, self._clock.now()))
        if unfinished:
            logger.info("%d jobs go on", len(unfinished))
        self._in_charge = True
        self._pump()

    def _card_of(self, model: str | None) -> ModelCard:
        """Return the card of a model; of the first one where none is named. Raises UnknownModel, Unavailable."""
        name = next(iter(self._models)) if model is None else self._aliases.get(model, model)
        if name not in self._models:
            names = ", ".join([*self._models, *self._aliases])
            raise UnknownModel(f'model: there is no "{name[:200]}"; served: {names}.', "model")
        card = self._models[name].card
        if card is None:
            raise Unavailable(f"model: {name} is not up. Its application's status says why.")
        return card

    def _aliases_of(self, model: str) -> tuple[str, ...]:
        return tuple(alias for alias, name in self._aliases.items() if name == model)

    def _check_key(self, owner: str) -> None:
        """Raise Unauthorized where keys are on and an owner has none."""
        if self._keys is not None and not owner.startswith(OWNER):
            raise Unauthorized

    def _key_of(self, owner: str) -> ApiKey | None:
        return None if self._keys is None else self._keys.of_owner(owner)

    async def _accept(self, job: Job, request_key: RequestKey | None, before: float) -> Job:
        """Put a job on disk, then in line: one at a time, so that room that was found is still there."""
        await asyncio.shield(self._beginning)
        async with self._accepting:
            earlier = await self._accepted_before(job.owner, request_key)
            if earlier is not None and self._is_kept(earlier):
                return earlier
            model = self._models[job.model]
            if earlier is None or earlier.ended:
                await self._add(job, model, request_key, before)
            else:  # on disk and not in the queue: the database wrote it, and could not confirm that
                job = earlier
            self._contexts[job.id] = context_of(job.id)
            self._queue.submit(job)
            model.arrivals.add(len(job.specs), sum(spec.cost for spec in job.specs), time.monotonic())
        job_log.accepted(job)
        self._pump()
        return self._as_of_now(self._queue.job(job.id))

    async def _accepted_before(self, owner: str, request_key: RequestKey | None) -> Job | None:
        """Return the job that was accepted under a key, if there is one. Raises IdempotencyKeyReused, Gone."""
        if request_key is None:
            return None
        known = await self._writer.call(self._writer.store.find, owner, request_key)
        return None if known is None else await self.job(known, owner)

    def _is_kept(self, job: Job) -> bool:
        """Whether a job's key returns it again, and no new job."""
        return _is_final(job) or self._queue.is_open(job.id)

    async def _add(self, job: Job, model: ModelQueue, request_key: RequestKey | None, before: float) -> None:
        """Put a job on disk, if there is room for it. Raises QueueFull, InvalidRequest, InputNotFound, Unavailable."""
        check_backlog(model.drained_s(self._queue), self._config)
        key = self._key_of(job.owner)
        own_most, day_most = (key.max_waiting, key.max_cost_per_day) if key else (None, None)
        self._queue.check_room(job.owner, len(job.specs), model.retry_after_s, own_most)
        try:
            await self._writer.add(job, request_key, day_most, before, named_inputs(job.specs[0]))
        except NotConfirmed as error:
            self._go_and(self._withdraw(job))
            raise StoreUnavailable(error.reason) from error

    async def _withdraw(self, job: Job) -> None:
        """Remove a job of which its caller was told that it is not there, if it is; not once its key came again."""
        removed = False
        while not (removed or self._queue.knows(job.id) or self._writer.superseded):
            await asyncio.sleep(CONFIRM_INTERVAL_S)
            async with self._accepting:  # no key may find what is being withdrawn
                if not self._queue.knows(job.id):
                    with suppress(StoreUnavailable, Superseded):
                        await self._writer.call(self._writer.store.withdraw, job)
                        removed = True

    def _go_and(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _book(self, job: Job) -> Coroutine[Any, Any, None]:
        """Draw no more of a job that has ended, and tell nobody of it; return what does that, once it is on disk."""
        if job.ended:
            self._drop_tasks(job.id)
            self._contexts.pop(job.id, None)
            self._metrics.ended(job)
            job_log.ended(job)

        def newest() -> Job:
            with suppress(NotFound):  # it has ended, and the queue has forgotten it already
                return self._queue.job(job.id)
            return job

        return self._tell(self._writer.write(job.id, newest))

    async def _tell(self, written: Awaitable[Job | None]) -> None:
        self._changed(await written)

    def _stop(self) -> None:
        """Draw and tell nothing any more: another Dispatcher does."""
        self._in_charge = False
        for task in self._tasks.values():
            if task is not asyncio.current_task():
                task.cancel()
        for feed in self._feeds:
            feed.end()

    async def _keep_confirming(self) -> None:
        """Notice that another has taken over also where nothing is to be written: watchers must not stay here."""
        while not self._writer.superseded:
            await asyncio.sleep(CONFIRM_INTERVAL_S)
            await self._writer.confirm()
            self._measure()

    def _measure(self) -> None:
        """Set the gauges: they are forgotten unless that is done again and again."""
        for model in self._models.values():
            state = model.stats(self._queue)
            self._metrics.line(model.name, state.waiting, state.running, state.eta_s)
        self._metrics.whole(
            epoch=self._writer.store.epoch,
            store_problem=self._writer.problem is not None,
            owners=self._queue.owners_waiting,
            most_waiting=self._config.max_waiting,
            input_bytes=self._inputs.kept_bytes,
        )

    async def _keep_meeting(self) -> None:
        """Learn of models that come up, and of new weights under an old name; tell each what there is to do."""
        while not self._writer.superseded:  # whose line is no longer the one that counts
            await asyncio.sleep(MEET_INTERVAL_S)
            await asyncio.gather(*(model.exchange_demand(self._queue) for model in self._models.values()))
            self._pump()

    def _pump(self) -> None:
        """Start pictures where there is room, of each model that is up."""
        if not self._in_charge:
            return
        for model in self._models.values():
            if model.card is not None:
                self._fill(model)
        if self._forecasting is None or self._forecasting.done():
            self._forecasting = asyncio.create_task(self._keep_forecasting())

    def _fill(self, model: ModelQueue) -> None:
        """Start pictures while fewer than twice the denoisers' rows are in flight, and at least one picture."""
        unforeseen = False
        while self._queue.rows(model.name) < model.rows_in_flight or not self._queue.rows(model.name):
            now = self._clock.now()
            granted = self._queue.grant(model.name, now)
            if granted is None:
                break
            lease, job = granted
            unforeseen = unforeseen or not (job.progress and job.progress.eta_s)
            off = model.forecaster.started(job.id, time.monotonic())
            if job.timestamps.started == now:
                self._metrics.started(job, off)
            drawing = self._run(model, lease, job.specs[lease.index], job.timestamps.created)
            task = asyncio.create_task(drawing, context=self._contexts[job.id].copy())
            self._tasks[lease] = task
            task.add_done_callback(lambda _, lease=lease: self._left(lease))
            self._changed(job)
        if unforeseen:  # what never waited has no forecast yet
            self._forecast(model)

    async def _run(self, model: ModelQueue, lease: Lease, spec: ImageSpec, accepted: float) -> None:
        """Draw one picture and book what came of it; `accepted` is when its job was."""
        last_at = time.monotonic()
        ended: Job | None = None
        try:
            with self._metrics.drawing(spec, lease, lambda: self._clock.now() - accepted) as hear:
                async for word in model.stages.generate(spec, lease):
                    hear(word)
                    if isinstance(word, StepUpdate):
                        model.forecaster.measure_step(spec, word)
                        last_at = time.monotonic()
                        self._changed(self._queue.progress(lease, word, _data_url(word.preview)))
                    else:
                        model.forecaster.measure_decode(spec, time.monotonic() - last_at, time.monotonic())
                        ended = self._queue.finish(lease, word, self._clock.now())
        except Superseded:
            self._writer.step_down()
        except ReplicaLost:
            logger.warning("lost a replica: %s", lease)
            ended = self._queue.lose(lease, self._clock.now())
        except DarkroomError as error:
            ended = self._queue.fail(lease, error, self._clock.now())
        except Exception:
            logger.exception("picture failed: %s", lease)
            ended = self._queue.fail(lease, DarkroomError(), self._clock.now())
        if ended is not None:
            await self._book(ended)

    def _left(self, lease: Lease) -> None:
        """Fill the room that a picture leaves; also called for a picture that was cancelled before its first turn."""
        del self._tasks[lease]
        self._pump()

    def _changed(self, job: Job | None) -> None:
        """Tell the feeds, unless there is something in it that is not on disk yet."""
        if job is None or self._writer.has_unsaved(job.id):
            return
        job = self._as_of_now(job)
        for feed in self._feeds:
            feed.put(job)

    def _as_of_now(self, job: Job) -> Job:
        """Take the time that has passed since the newest forecast off a job's times."""
        if job.ended or job.model not in self._models:
            return job
        since_s = time.monotonic() - self._models[job.model].queue_forecast.made_at
        if job.queue:
            end_eta_s = max(0.0, job.queue.end_eta_s - since_s)
            return replace(job, queue=replace(_sooner(job.queue, since_s), end_eta_s=end_eta_s))
        if job.progress:
            return replace(job, progress=_sooner(job.progress, since_s))
        return job

    def _drop_tasks(self, job_id: str) -> None:
        """An ended job's other pictures leave the denoiser within one step."""
        for lease, task in self._tasks.items():
            if lease.job_id == job_id and task is not asyncio.current_task():
                task.cancel()

    async def _keep_forecasting(self) -> None:
        """Refresh places and times while anything waits or runs."""
        while self._queue.waiting or self._queue.running:
            for job in self._queue.expire(self._clock.now()):
                self._go_and(self._book(job))
            await self._count()
            self._pump()  # there may be more replicas than before
            start = time.monotonic()
            for model in self._models.values():
                model.refresh(self._queue)
                if model.has_work(self._queue):
                    self._forecast(model)
            took_s = time.monotonic() - start
            await asyncio.sleep(max(FORECAST_INTERVAL_S, took_s / FORECAST_SHARE))
        for model in self._models.values():
            model.refresh(self._queue)

    def _forecast(self, model: ModelQueue) -> None:
        self._asked = {job_id for job_id in self._asked if self._queue.is_open(job_id)}
        for job in model.forecast(self._queue, self._asked):
            if job.status == "running" or job.id in self._asked:
                self._changed(job)

    async def _count(self) -> None:
        """See how many replicas each stage of each model has."""
        counted = await self._counts.replicas()
        for name, model in self._models.items():
            model.replicas = counted.get(name, {})


def _is_final(job: Job) -> bool:
    """Whether a job's key gives it again: it has ended, and not by a fault of the service.

    A deadline is the caller's choice, though its status is 504: each retry would queue the same work once more.
    """
    return job.ended and not (job.status == "failed" and job.error and is_server_error(job.error.code))


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for of_model in counts:
        for stage, count in of_model.items():
            total[stage] = total.get(stage, 0) + count
    return total


def _sooner(told: Told, by_s: float) -> Told:
    most_s = None if told.eta_most_s is None else max(0.0, told.eta_most_s - by_s)
    return replace(told, eta_s=max(0.0, told.eta_s - by_s), eta_most_s=most_s)


def _data_url(preview: bytes | None) -> str | None:
    return f"data:image/webp;base64,{base64.b64encode(preview).decode()}" if preview else None
