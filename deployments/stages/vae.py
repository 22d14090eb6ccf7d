"""Serves `models.vae`: latents in, images out to the image store, in batches."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from ray import serve

from deployments.errors import WeightsMismatch
from deployments.image_store import ImageStore, StoredImage
from deployments.metrics import StageMetrics
from deployments.model_config import ModelConfig
from deployments.stages import VAE
from deployments.stages.executor import SerialExecutor
from deployments.stages.init_images import InitImages, Source, paste, read_pixels, source_of
from deployments.stages.memory import trim_heap
from deployments.stages.startup import Startup
from deployments.stages.stats import StageStats
from models.checkpoint.loading import allocated_bytes, choose_device, choose_dtype
from models.checkpoint.location import locate_parts
from models.errors import DarkroomError
from models.image_file import encode_image
from models.model_card import ModelCard
from models.postprocess import PostProcessors
from models.spec import EncodedImage, ImageSpec
from models.upscaling import FirstPass, upscale
from models.vae import Decoded, load_vae

Item = tuple[ImageSpec, np.ndarray, str, str, str]  # a picture, its latents, store and name, and its owner

T = TypeVar("T")


class Vae:
    """One replica: an autoencoder, and what makes files of its pixels."""

    def __init__(self, model: ModelConfig, card: ModelCard) -> None:
        startup = Startup(VAE.deployment)
        config = model.vae
        torch.set_num_threads(config.threads)
        self._device = choose_device(model.device)
        self._vae = load_vae(
            locate_parts(model.checkpoint, card, VAE.domain, model.allowed_roots, model.overrides),
            card.family,
            self._device,
            choose_dtype(model.dtype),
            batch_invariant=model.batch_invariant,
        )
        self._postprocess = PostProcessors(model.postprocess)
        startup.loaded()
        self._digest = card.digest
        self._stats = StageStats(self._vae.parameter_bytes)
        self._metrics = StageMetrics()
        self._thread = SerialExecutor("vae")
        self._store_at = cache(ImageStore)  # opening one asks its filesystem, over the network maybe
        self._requires_mask = "init.mask" in card.requires
        self._init_images = InitImages(self._vae, card.digest, requires_mask=self._requires_mask)
        batches: tuple[Any, ...] = (self._encode_batch, self._upscale_batch, self._decode_batch)
        for batch in batches:
            batch.set_max_batch_size(config.max_batch_size)
            batch.set_batch_wait_timeout_s(config.batch_wait_timeout_s)
        self._vae.warm_up(card.defaults["width"], card.defaults["height"])
        startup.warm(self._vae.parameter_bytes)

    async def encode(self, spec: ImageSpec, images: str, owner: str) -> EncodedImage:
        """Encode the image that an image of `owner` begins with, from the inputs beside the store `images`.

        The latest are kept: all images of a job begin with the same one.

        Raises:
            NotFound, NonFinite, OutOfMemory
        """
        return _unless_error(await self._encode_batch(source_of(spec, images, owner)))

    async def upscale(
        self, spec: ImageSpec, latents: np.ndarray, model_digest: str, images: str, owner: str
    ) -> EncodedImage:
        """Scale float32 [C, h, w] latents, which an image's first pass made, up to what its second pass begins with.

        A mask is read from the inputs of `owner`, beside the store `images`.

        Raises:
            NonFinite, OutOfMemory, NotFound
            WeightsMismatch: the latents are of another checkpoint than the one with this digest.
        """
        if model_digest != self._digest:
            raise WeightsMismatch
        first_pass = await self._thread.run(_first_pass, spec, latents, images, owner)
        return replace(_unless_error(await self._upscale_batch(first_pass)), model_digest=self._digest)

    async def decode(
        self, spec: ImageSpec, latents: np.ndarray, model_digest: str, images: str, name: str, owner: str
    ) -> StoredImage:
        """Decode float32 [C, h, w] latents and put the image into the store `images` as `name`.

        Raises:
            NonFinite, OutOfMemory, NotFound, Refused, PostProcessFailed, StorageFull: nothing was stored.
            WeightsMismatch: the latents are of another checkpoint than the one with this digest.
        """
        if model_digest != self._digest:
            raise WeightsMismatch
        return _unless_error(await self._decode_batch((spec, latents, images, name, owner)))

    async def check_health(self) -> None:
        """Give back what the replica does not use, and tell what it holds: Serve asks every `health_check_period_s`."""
        await asyncio.to_thread(trim_heap)
        self._metrics.gpu_memory.set(allocated_bytes(self._device))

    def stats(self) -> StageStats:
        """Return what this replica holds and has done."""
        return self._stats

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell the autoscaling policy what a picture takes."""
        return {"picture_s": self._stats.picture_s}

    @serve.batch
    async def _encode_batch(self, sources: Sequence[Source]) -> list[EncodedImage | DarkroomError]:
        start = time.perf_counter()
        outcomes = await self._thread.run(self._init_images.encode, sources)
        self._stats.spent(time.perf_counter() - start)
        return outcomes

    @serve.batch
    async def _upscale_batch(self, items: Sequence[FirstPass]) -> list[EncodedImage | DarkroomError]:
        start = time.perf_counter()
        outcomes = await self._thread.run(upscale, self._vae, items, requires_mask=self._requires_mask)
        self._stats.spent(time.perf_counter() - start)
        return outcomes

    @serve.batch
    async def _decode_batch(self, items: Sequence[Item]) -> list[StoredImage | DarkroomError]:
        self._stats.count(len(items))
        start = time.perf_counter()
        outcomes = await self._thread.run(self._decode_and_store, items)
        seconds = time.perf_counter() - start
        self._stats.took(len(items), seconds)
        self._metrics.seconds.observe(seconds)
        return outcomes

    def _decode_and_store(self, items: Sequence[Item]) -> list[StoredImage | DarkroomError]:
        images = self._vae.decode([latents for _, latents, *_ in items])
        outcomes: list[StoredImage | DarkroomError] = []
        for item, decoded in zip(items, images, strict=True):
            try:
                outcomes.append(self._store(decoded, item))
            except DarkroomError as error:  # of this image; its neighbours are stored
                outcomes.append(error)
        return outcomes

    def _store(self, decoded: Decoded | DarkroomError, item: Item) -> StoredImage:
        spec, _, store, name, owner = item
        if isinstance(decoded, DarkroomError):
            raise decoded
        pixels = decoded.pixels
        if spec.init is not None and spec.init.paste_back:
            pixels = paste(pixels, source_of(spec.passes[-1], store, owner), spec.init.mask_blur)
        pixels = self._postprocess.pixels(pixels, spec)
        content = encode_image(decoded._replace(pixels=pixels), spec, self._digest)
        size = self._store_at(store).put(name, self._postprocess.file(content, spec))
        return StoredImage(size, decoded.tiled)


def _first_pass(spec: ImageSpec, latents: np.ndarray, images: str, owner: str) -> FirstPass:
    """Return what is scaled up; an image's mask in the size of its second pass. Raises NotFound."""
    assert spec.hires is not None
    has_mask = spec.init is not None and spec.init.mask is not None
    mask = read_pixels(source_of(spec.passes[-1], images, owner)).mask if has_mask else None
    return FirstPass(latents, spec.hires, mask)


def _unless_error(outcome: T | DarkroomError) -> T:
    if isinstance(outcome, DarkroomError):
        raise outcome
    return outcome
