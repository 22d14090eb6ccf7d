"""One image through the three stages: the diffusers pipeline's call, with handles for modules."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.autoscaling import Demand
from deployments.dispatcher.lease import Lease
from deployments.errors import NoReplica, ReplicaLost, WeightsMismatch
from deployments.jobs import ImageResult
from deployments.serve.liveness import own_name
from deployments.serve.ray_errors import handle_of, translated
from deployments.stages import DENOISER, MODEL, TEXT_ENCODER, VAE
from models.errors import InvalidRequest
from models.hires import of_pass
from models.model_card import ModelCard
from models.parameters import PromptSyntax
from models.spec import Embedding, ImageSpec, StepUpdate, Tokens

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

FENCE_TIMEOUT_S = 10.0
REPLACED_WITHIN_S = 300.0  # a model, from the first stage with its new weights to the last
AGAIN_S = 0.5
MAX_VAE_ATTEMPTS = 3  # with the same latents, each by another replica


class Pipeline:
    """Encode, denoise, decode, in the application of one model. Conditioning passes by reference and never comes here;
    latents pass after each pass, and before it what the Vae made of them."""

    def __init__(self, app_name: str, images: str) -> None:
        self._app_name = app_name
        self._images = images

    async def meet(self, demand: Demand) -> ModelCard:
        """Say what there is to do; return the card of the model that is served. Its id is the application's name.

        Raises:
            Unavailable: there is no such application, or it is still starting.
        """
        with translated():
            model = await asyncio.to_thread(self._handle, MODEL)  # where there is none yet, Serve is asked each time
            card = await model.meet.remote(demand)
        return replace(card, id=self._app_name)

    async def generate(self, spec: ImageSpec, lease: Lease) -> AsyncGenerator[StepUpdate | ImageResult, None]:
        """Yield the newest step now and then, and the finished picture last.

        All of it is made by the same weights: where a model is replaced meanwhile, it is begun again. Where a stage
        has no replica it waits for one, for as long as the caller does.

        Raises:
            DarkroomError: what a stage raised; `ReplicaLost` where a replica died, `WeightsMismatch` where the stages
                do not come to have the same ones.
        """
        patient_until = time.monotonic() + REPLACED_WITHIN_S
        while True:
            try:
                async with aclosing(self._generate(spec, lease)) as words:
                    async for word in words:
                        yield word
                return
            except WeightsMismatch:
                if time.monotonic() > patient_until:
                    raise
                logger.info("%s: begun again, as its model is being replaced", lease.job_id)
            except NoReplica as error:
                logger.debug("%s waits: %s", lease.job_id, error)  # Serve's status and an alert say so once
            await asyncio.sleep(AGAIN_S)

    async def _generate(self, spec: ImageSpec, lease: Lease) -> AsyncGenerator[StepUpdate | ImageResult, None]:
        last: StepUpdate | None = None
        async with aclosing(self._passes(spec, lease)) as updates:
            async for update in updates:
                last = update
                yield replace(update, latents=None)
        assert last is not None  # a stream that ends without a step has raised
        start = time.monotonic()
        name = lease.file_name(spec.output_format)
        stored = await self._by_vae("decode", spec, last.latents, last.model_digest, self._images, name, lease.owner)
        yield ImageResult(
            index=lease.index,
            url=f"/v1/files/{name}",
            name=name,
            seed=spec.seed,
            spec=spec,
            model_digest=last.model_digest,
            encode_s=last.encode_s,
            denoise_s=last.denoise_s,
            decode_s=last.upscale_s + time.monotonic() - start,
            batch_rows=last.batch_rows,
            attempts=lease.attempt,
            size=stored.size,
            tiled=stored.tiled,
        )

    async def _passes(self, spec: ImageSpec, lease: Lease) -> AsyncGenerator[StepUpdate, None]:
        """Yield the newest step of all passes together now and then; the last one of each has its latents."""
        with translated():
            encoded = self._handle(TEXT_ENCODER.deployment).encode.remote(spec)  # not awaited: passed by reference
            image: Any = None  # to begin with
            if spec.init is not None:
                image = self._handle(VAE.deployment).encode.remote(spec, self._images, lease.owner)
        left = spec.model_calls
        before = last = StepUpdate(step=0, steps=left)
        for number, one in enumerate(spec.passes):
            upscale_s = 0.0
            if number:
                start = time.monotonic()
                image = await self._by_vae("upscale", spec, last.latents, last.model_digest, self._images, lease.owner)
                upscale_s = time.monotonic() - start
            before, left = last, left - one.model_calls
            try:
                async with aclosing(self._denoise(one, lease, encoded, image)) as updates:
                    async for update in updates:
                        last = _after(before, update, left, upscale_s)
                        yield last
            except InvalidRequest as error:
                raise of_pass(number, error) from None

    async def _denoise(
        self, one: ImageSpec, lease: Lease, encoded: Any, image: Any
    ) -> AsyncGenerator[StepUpdate, None]:
        """Yield the newest step of a pass now and then, and the one with its latents last."""
        denoiser = self._handle(DENOISER.deployment).options(stream=True)
        with translated():
            updates: Any = denoiser.denoise.remote(one, encoded, lease.epoch, own_name(), image)
            try:
                async for update in updates:
                    yield update
            finally:
                updates.cancel()  # leaving the loop does not stop a producer

    async def tokens(self, text: str, syntax: PromptSyntax, embeddings: Sequence[Embedding], field: str) -> Tokens:
        """Count the tokens of a field's text. Raises AdapterChanged, UnusableAdapter."""
        with translated():
            return await self._handle(TEXT_ENCODER.deployment).tokens.remote(text, syntax, embeddings, field)

    async def compile_plan(self, spec: ImageSpec) -> None:
        """Have a Denoiser compile the plan of an image's sampler. Raises UnsupportedSampler, Unavailable."""
        with translated():
            answer = self._handle(DENOISER.deployment).compile_plan.remote(spec)
            try:
                await answer
            except asyncio.CancelledError:
                answer.cancel()  # Serve does not cancel a call with its caller
                raise

    async def fence(self, epoch: int) -> None:
        """Have every Denoiser drop what Dispatchers before `epoch` asked for.

        One that does not answer in time is dying or starting; where it is neither, the first picture of this epoch
        fences it.
        """
        try:
            answers = self._handle(DENOISER.deployment).broadcast("fence", epoch)
            problems = await answers.results_async(timeout_s=FENCE_TIMEOUT_S, return_exceptions=True)
        except (DeploymentUnavailableError, NoReplica):  # no Denoiser runs
            return
        except TimeoutError as error:
            problems = [error]
        for problem in problems:
            if isinstance(problem, Exception):
                logger.warning("a Denoiser was not fenced: %r", problem)

    async def _by_vae(self, method: str, spec: ImageSpec, *args: Any) -> Any:
        """Call a Vae with latents; where the replica dies or there is none, another: the latents are still in hand."""
        attempt = 1
        while True:
            try:
                with translated():
                    return await getattr(self._handle(VAE.deployment), method).remote(spec, *args)
            except ReplicaLost:
                if attempt == MAX_VAE_ATTEMPTS:
                    raise
                logger.warning("lost the Vae in a call to %s", method)
                attempt += 1
            except NoReplica as error:
                logger.debug("%s waits: %s", method, error)
                await asyncio.sleep(AGAIN_S)

    def _handle(self, deployment: str) -> DeploymentHandle:
        return handle_of(deployment, self._app_name)


def _after(before: StepUpdate, update: StepUpdate, left: int, upscale_s: float) -> StepUpdate:
    """Return the update of a pass as one of its image: after the last one of the pass `before`, and with `left` model
    calls of later passes to come."""
    return replace(
        update,
        step=before.step + update.step,
        steps=before.step + update.steps + left,
        denoise_s=before.denoise_s + update.denoise_s,
        upscale_s=before.upscale_s + upscale_s,
    )
