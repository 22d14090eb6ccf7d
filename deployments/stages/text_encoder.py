"""Serves `models.text_encoder`: specs in, conditioning out, in batches."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from ray import serve

from deployments.metrics import TextEncoderMetrics
from deployments.model_config import ModelConfig
from deployments.stages import TEXT_ENCODER
from deployments.stages.executor import SerialExecutor
from deployments.stages.memory import trim_heap
from deployments.stages.startup import Startup
from deployments.stages.stats import StageStats
from models.checkpoint.loading import allocated_bytes, choose_device, choose_dtype
from models.checkpoint.location import locate_parts
from models.errors import DarkroomError
from models.model_card import ModelCard
from models.parameters import PromptSyntax
from models.spec import Embedding, ImageSpec, Tokens
from models.text_encoder import EncodedPrompt, load_text_encoder


class TextEncoder:
    """One replica: the text encoders of a checkpoint, with their tokenizers."""

    def __init__(self, model: ModelConfig, card: ModelCard) -> None:
        startup = Startup(TEXT_ENCODER.deployment)
        config = model.text_encoder
        torch.set_num_threads(config.threads)
        self._device = choose_device(model.device)
        self._encoder = load_text_encoder(
            locate_parts(model.checkpoint, card, TEXT_ENCODER.domain, model.allowed_roots, model.overrides),
            card.family,
            self._device,
            choose_dtype(model.dtype),
            batch_invariant=model.batch_invariant,
            max_prompt_chunks=model.max_prompt_chunks,
        )
        if model.adapters_path is not None:
            self._encoder.enable_loras(model.adapters_path, model.max_lora_rank, model.lora_ranks)
        if model.embeddings_path is not None:
            self._encoder.enable_embeddings(model.embeddings_path, card.embedding_widths, card.max_tokens)
        startup.loaded()
        self._digest = card.digest
        self._stats = StageStats(self._encoder.parameter_bytes)
        self._metrics = TextEncoderMetrics()
        self._thread = SerialExecutor("encoder")
        batch: Any = self._encode_batch
        batch.set_max_batch_size(config.max_batch_size)
        batch.set_batch_wait_timeout_s(config.batch_wait_timeout_s)
        self._encoder.warm_up()
        startup.warm(self._encoder.parameter_bytes)

    async def encode(self, spec: ImageSpec) -> EncodedPrompt:
        """Encode one picture's prompts, together with those that arrive at the same time.

        Raises:
            AdapterChanged, UnusableAdapter: a LoRA or an embedding of this picture.
        """
        encoded: EncodedPrompt | DarkroomError = await self._encode_batch(spec)
        if isinstance(encoded, DarkroomError):
            raise encoded
        return replace(encoded, model_digest=self._digest)

    async def tokens(
        self, text: str, syntax: PromptSyntax = "plain", embeddings: Sequence[Embedding] = (), field: str = "prompt"
    ) -> Tokens:
        """Count the tokens of a field's text, and find what is not read. Raises AdapterChanged, UnusableAdapter."""
        # A tokenizer bears no two threads at a time.
        return await self._thread.run(self._encoder.tokens, text, syntax, embeddings, field)

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
    async def _encode_batch(self, specs: Sequence[ImageSpec]) -> list[EncodedPrompt | DarkroomError]:
        self._stats.count(len(specs))
        asked, cached = self._encoder.asked, self._encoder.cached
        start = time.perf_counter()
        encoded = await self._thread.run(self._encoder.encode, specs)
        seconds = time.perf_counter() - start
        self._stats.took(len(specs), seconds)
        self._metrics.prompts(self._encoder.asked - asked, self._encoder.cached - cached)
        self._metrics.seconds.observe(seconds)
        return encoded
