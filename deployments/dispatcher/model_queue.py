"""One model as the Dispatcher knows it: its stages, its card, and the forecast of its queue."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from math import ceil
from typing import Protocol

from deployments.autoscaling import Demand
from deployments.dispatcher.arrivals import Arrivals
from deployments.dispatcher.forecast import rows_in_flight
from deployments.dispatcher.forecaster import Forecaster, QueueForecast
from deployments.dispatcher.job_queue import JobQueue
from deployments.dispatcher.lease import Lease
from deployments.dispatcher.plan_checks import PlanChecks
from deployments.dispatcher.queue_stats import ModelStats, Replicas
from deployments.jobs import ImageResult, Job
from deployments.stages import DENOISER
from models.errors import DarkroomError
from models.model_card import ModelCard
from models.parameters import PromptSyntax
from models.spec import Embedding, ImageSpec, StepUpdate, Tokens

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

CARD_TIMEOUT_S = 2.0
MAX_RETRY_AFTER_S = 3600


class Stages(Protocol):
    """What generates a model's images: `deployments.pipeline.Pipeline`, or a fake."""

    async def meet(self, demand: Demand) -> ModelCard: ...
    async def fence(self, epoch: int) -> None: ...
    async def tokens(self, text: str, syntax: PromptSyntax, embeddings: Sequence[Embedding], field: str) -> Tokens: ...
    async def compile_plan(self, spec: ImageSpec) -> None: ...
    def generate(self, spec: ImageSpec, lease: Lease) -> AsyncIterator[StepUpdate | ImageResult]: ...


class ModelQueue:
    """A model of the configuration, whether it is up or not."""

    def __init__(self, name: str, stages: Stages, max_rows: int) -> None:
        self.name = name
        self.stages = stages
        self.forecaster = Forecaster(max_rows)
        self.queue_forecast = QueueForecast()  # the newest
        self.arrivals = Arrivals()
        self.card: ModelCard | None = None  # None until the model's application has sent it
        self.replicas: Mapping[str, Replicas] = {}
        self.plan_checks = PlanChecks(stages.compile_plan)

    async def exchange_demand(self, queue: JobQueue) -> None:
        """Send the model its demand and receive its card; without an answer the last card holds."""
        try:
            async with asyncio.timeout(CARD_TIMEOUT_S):
                card = await self.stages.meet(self.demand(queue))
        except (DarkroomError, TimeoutError) as error:
            logger.debug("%s does not send its card: %r", self.name, error)
            return
        if self.card is None or self.card.digest != card.digest:
            logger.info("model %s, digest %s", self.name, card.digest)
        self.card = card

    def demand(self, queue: JobQueue) -> Demand:
        """Return the work that waits and arrives."""
        running = queue.running_of(self.name)
        left = sum(spec.cost_after(update.step if update else 0) for _, spec, update in running)
        pictures_per_s, cost_per_s = self.arrivals.per_s(time.monotonic())
        return Demand(
            pictures=queue.waiting_for(self.name) + len(running),
            pictures_per_s=pictures_per_s,
            denoise_s=self.forecaster.cost_s * (queue.waiting_cost(self.name) + left),
            denoise_load=self.forecaster.cost_s * cost_per_s,
        )

    @property
    def rows_in_flight(self) -> int:
        """How many rows the denoisers may hold."""
        return rows_in_flight(self.forecaster.max_rows, self.replicas.get(DENOISER.key, Replicas(1)).running)

    def has_work(self, queue: JobQueue) -> bool:
        """Whether images wait or run."""
        return bool(queue.waiting_for(self.name) or queue.rows(self.name))

    def refresh(self, queue: JobQueue) -> None:
        """Update the forecaster with the replicas that run, or reset it if there is no work."""
        if self.has_work(queue):
            counts = {stage: of.running for stage, of in self.replicas.items()}
            self.forecaster.observe_replicas(counts, queue.running_of(self.name), time.monotonic())
        else:
            self.queue_forecast = QueueForecast()
            self.forecaster.reset()

    def forecast(self, queue: JobQueue, asked: set[str]) -> list[Job]:
        """Forecast the queue; return the jobs whose place or times changed enough to be sent.

        Jobs far from the front are only forecast if they are among `asked`.
        """
        running = queue.running_of(self.name)
        wanted_jobs = {job_id for job_id in asked if queue.job(job_id).model == self.name}
        wanted_jobs |= {lease.job_id for lease, _, _ in running}
        wanted = {job_id: count for job_id in wanted_jobs if (count := queue.queued_images(job_id))}
        cost = queue.waiting_cost(self.name)
        self.queue_forecast = self.forecaster.forecast(running, queue.queued(self.name), cost, wanted, time.monotonic())
        return queue.estimate(self.queue_forecast)

    def drained_s(self, queue: JobQueue) -> float:
        """Return in how many seconds everything that waits or runs is done."""
        if not self.has_work(queue):
            return 0.0
        return self.queue_forecast.drained_in_s(time.monotonic(), queue.waiting_cost(self.name))

    def retry_after_s(self, images: int) -> int:
        """Return in how many seconds so many images will have left the queue."""
        return max(1, min(MAX_RETRY_AFTER_S, ceil(self.queue_forecast.room_in_s(time.monotonic(), images))))

    def stats(self, queue: JobQueue) -> ModelStats:
        """Return the figures of the model's queue."""
        return ModelStats(
            waiting=queue.waiting_for(self.name),
            running=len(queue.running_of(self.name)),
            eta_s=self.drained_s(queue),
            replicas={stage: of.running for stage, of in self.replicas.items()},
            starting={stage: of.starting for stage, of in self.replicas.items()},
        )
