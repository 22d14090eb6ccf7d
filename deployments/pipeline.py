"""One picture through the three stages: the diffusers pipeline's call, with handles for modules."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.dispatcher.job_queue import Lease
from deployments.ray_errors import translated
from deployments.schema import ImageResult
from models.spec import ImageSpec, StepUpdate


class Pipeline:
    """Encode, denoise, decode. Embeddings pass by reference and never come here; latents pass once."""

    def __init__(
        self, text_encoder: DeploymentHandle, denoiser: DeploymentHandle, vae_decoder: DeploymentHandle, digest: str
    ) -> None:
        self._text_encoder = text_encoder
        self._denoiser = denoiser
        self._vae_decoder = vae_decoder
        self._digest = digest

    async def generate(self, spec: ImageSpec, lease: Lease) -> AsyncIterator[StepUpdate | ImageResult]:
        """Yield the newest step now and then, and the finished picture last.

        Raises:
            DarkroomError: what a stage raised; `ReplicaLost` where a replica died.
        """
        name = f"{lease.job_id}-{lease.index}-{lease.attempt}.{spec.output_format}"
        with translated():
            prompt_embeds = self._text_encoder.encode.remote(spec)  # not awaited: only a reference passes here
            updates: Any = self._denoiser.options(stream=True).denoise.remote(spec, prompt_embeds)
            update: StepUpdate | None = None
            try:
                async for newest in updates:
                    update = newest
                    yield replace(newest, latents=None)
            finally:
                updates.cancel()  # leaving the loop does not stop a producer
            assert update is not None  # a stream that ends without a step has raised
            start = time.monotonic()
            await self._vae_decoder.decode.remote(spec, update.latents, name)
        yield ImageResult(
            index=lease.index,
            url=f"/v1/files/{name}",
            name=name,
            seed=spec.seed,
            spec=spec,
            model_digest=self._digest,
            encode_s=update.encode_s,
            denoise_s=update.denoise_s,
            decode_s=time.monotonic() - start,
            batch_rows=update.batch_rows,
            attempts=lease.attempt,
        )
