"""One model as the Dispatcher knows it: who draws its pictures, what it allows, and what those in line can expect."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from math import ceil
from typing import Protocol

from deployments.autoscaling import Demand
from deployments.dispatcher.arrivals import Arrivals
from deployments.dispatcher.forecast import rows_in_flight
from deployments.dispatcher.forecaster import Forecaster, Outlook
from deployments.dispatcher.job_queue import JobQueue
from deployments.dispatcher.lease import Lease
from deployments.dispatcher.overview import ModelQueue, Replicas
from deployments.schema import ImageResult, Job
from deployments.stages import DENOISER
from models.errors import DarkroomError
from models.spec import ImageSpec, ModelCard, StepUpdate, Tokens

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

CARD_WITHIN_S = 2.0
MOST_RETRY_AFTER_S = 3600


class Stages(Protocol):
    """What draws a model's pictures: `deployments.pipeline.Pipeline`, or a fake."""

    async def meet(self, demand: Demand) -> ModelCard: ...
    async def fence(self, epoch: int) -> None: ...
    async def tokens(self, text: str) -> Tokens: ...
    def generate(self, spec: ImageSpec, lease: Lease) -> AsyncIterator[StepUpdate | ImageResult]: ...


class Served:
    """A model that the configuration names, whether it can be used at present or not."""

    def __init__(self, name: str, stages: Stages, max_rows: int) -> None:
        self.name = name
        self.stages = stages
        self.forecaster = Forecaster(max_rows)
        self.outlook = Outlook()  # the newest
        self.arrivals = Arrivals()
        self.card: ModelCard | None = None  # None until the model's application has told
        self.replicas: Mapping[str, Replicas] = {}

    async def meet(self, queue: JobQueue) -> None:
        """Tell the model what there is to do, and learn its card; without an answer what was known before holds."""
        try:
            async with asyncio.timeout(CARD_WITHIN_S):
                card = await self.stages.meet(self.demand(queue))
        except (DarkroomError, TimeoutError) as error:
            logger.debug("%s does not tell its card: %r", self.name, error)
            return
        if self.card is None or self.card.digest != card.digest:
            logger.info("model %s, digest %s", self.name, card.digest)
        self.card = card

    def demand(self, queue: JobQueue) -> Demand:
        """Return what there is to do for the model."""
        running = queue.running_of(self.name)
        left = sum(spec.cost * (1 - update.step / update.steps if update else 1) for _, spec, update in running)
        pictures_per_s, cost_per_s = self.arrivals.per_s(time.monotonic())
        return Demand(
            pictures=queue.waiting_for(self.name) + len(running),
            pictures_per_s=pictures_per_s,
            denoise_s=self.forecaster.cost_s * (queue.waiting_cost(self.name) + left),
            denoise_load=self.forecaster.cost_s * cost_per_s,
        )

    @property
    def rows_in_flight(self) -> int:
        """How many rows the denoisers are given."""
        return rows_in_flight(self.forecaster.max_rows, self.replicas.get(DENOISER.key, Replicas(1)).running)

    def has_work(self, queue: JobQueue) -> bool:
        """Whether anything waits or runs."""
        return bool(queue.waiting_for(self.name) or queue.rows(self.name))

    def take_stock(self, queue: JobQueue) -> None:
        """Learn from the replicas that are there, or that there is nothing to do."""
        if self.has_work(queue):
            counts = {stage: of.running for stage, of in self.replicas.items()}
            self.forecaster.see_replicas(counts, queue.running_of(self.name), time.monotonic())
        else:
            self.outlook = Outlook()
            self.forecaster.rest()

    def foresee(self, queue: JobQueue, asked: set[str]) -> list[Job]:
        """Forecast anew; return the jobs whose place or time changed enough to be worth saying."""
        running = queue.running_of(self.name)
        told = {job_id for job_id in asked if queue.job(job_id).model == self.name}
        told |= {lease.job_id for lease, _, _ in running}
        wanted = {job_id: count for job_id in told if (count := queue.queued_images(job_id))}
        cost = queue.waiting_cost(self.name)
        self.outlook = self.forecaster.outlook(running, queue.queued(self.name), cost, wanted, time.monotonic())
        return queue.estimate(self.outlook)

    def drained_s(self, queue: JobQueue) -> float:
        """Return when everything that waits or runs will be done."""
        if not self.has_work(queue):
            return 0.0
        return self.outlook.drained_in_s(time.monotonic(), queue.waiting_cost(self.name))

    def retry_after_s(self, pictures: int) -> int:
        """Return when so many pictures will have left the line."""
        return max(1, min(MOST_RETRY_AFTER_S, ceil(self.outlook.room_in_s(time.monotonic(), pictures))))

    def state(self, queue: JobQueue) -> ModelQueue:
        """Return the model's part of the queue."""
        return ModelQueue(
            waiting=queue.waiting_for(self.name),
            running=len(queue.running_of(self.name)),
            eta_s=self.drained_s(queue),
            replicas={stage: of.running for stage, of in self.replicas.items()},
            starting={stage: of.starting for stage, of in self.replicas.items()},
        )
