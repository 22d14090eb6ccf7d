"""Serves `models.denoiser`: a Ray shell over the engine's thread."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from deployments.errors import Superseded, WeightsMismatch
from deployments.metrics import DenoiserMetrics
from deployments.model_config import DenoiserKnobs, ModelConfig
from deployments.nested_requests import MAX_LORAS
from deployments.serve.liveness import until_dead
from deployments.stages import DENOISER
from deployments.stages.executor import SerialExecutor
from deployments.stages.lora_leases import LoraLeases
from deployments.stages.memory import trim_heap
from deployments.stages.startup import Startup, warn_of_cuts
from deployments.stages.stats import StageStats
from models.adapters.lora_bank import RowRanks
from models.adapters.resident_loras import ResidentLoras
from models.checkpoint.loading import allocated_bytes, choose_device, choose_dtype
from models.checkpoint.location import locate_parts
from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine, Outcome
from models.denoiser.model import load_denoiser
from models.denoiser.preview import Preview
from models.denoiser.state import DenoiseState, new_state
from models.errors import DarkroomError
from models.model_card import ModelCard
from models.parameters import MAX_STEPS, SAMPLERS, model_calls
from models.spec import EncodedImage, ImageSpec, StepUpdate
from models.text_encoder import EncodedPrompt

MOST_MODEL_CALLS = max(model_calls(sampler, MAX_STEPS) for sampler in SAMPLERS)
UPDATE_INTERVAL_S = 0.1  # a stream item costs the Dispatcher about half a millisecond


class Denoiser:
    """One replica: a denoiser, and the images that share its forwards."""

    def __init__(self, model: ModelConfig, card: ModelCard) -> None:
        startup = Startup(DENOISER.deployment)
        config = model.denoiser
        torch.set_num_threads(config.threads)
        folder = locate_parts(model.checkpoint, card, DENOISER.domain, model.allowed_roots, model.overrides)
        device = choose_device(model.device)
        self._model = load_denoiser(folder, card.family, device, choose_dtype(model.dtype))
        startup.loaded()
        self._digest = card.digest
        self._stats = StageStats(self._model.parameter_bytes)
        self._metrics = DenoiserMetrics()
        self._thread = SerialExecutor("newcomers")
        self._mailboxes: dict[DenoiseState, Mailbox] = {}
        self._epoch = 0  # of the Dispatcher that this replica works for
        self._guard: asyncio.Task[None] | None = None  # over that Dispatcher's life
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lora_leases = self._lora_leases_of(model)
        if config.compile:
            self._model.compile()
        self._usual = self._model.expected_key(card.defaults["width"], card.defaults["height"], card.max_tokens)
        least_rows = self._model.family.image_rows
        sizer = BatchSizer(self._model, least_rows, batch_invariant=model.batch_invariant, padded=config.compile)
        self._engine = DenoisingEngine(self._model, self._publish, sizer=sizer, preview=Preview(card.latent_rgb))
        self._engine.start()
        self._startup = startup
        self._sizer = sizer
        self._largest = self._model.expected_key(card.bounds["width"][1], card.bounds["height"][1], card.max_tokens)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take in `user_config`: Serve calls it before the replica is ready, and at every change.

        Pictures in the making go on. Where it raises, Serve replaces the replica.

        Raises:
            ValidationError: names the key, its value and its bound.
            ValueError: max_rows is too small for one image, or cannot change once it is proved or compiled.
        """
        knobs = DenoiserKnobs.model_validate(user_config)
        await asyncio.wrap_future(self._engine.configure(knobs.max_rows, knobs.preview_interval_s, self._usual))
        self._startup.warm(self._model.parameter_bytes)
        step_s = self._sizer.curve.step_s(knobs.max_rows, self._largest.cells)
        warn_of_cuts(longest_s=MOST_MODEL_CALLS * step_s)

    async def denoise(
        self,
        spec: ImageSpec,
        encoded: EncodedPrompt,
        epoch: int,
        dispatcher: str,
        image: EncodedImage | None = None,
    ) -> AsyncIterator[StepUpdate]:
        """Yield the newest step at most every 0.1 s, and last the one with the finished latents.

        It begins with `image`, if the spec begins with one.

        Leaving the iteration takes the picture out of the engine within one step, and so does the death of the replica
        of the name `dispatcher`: Serve does not end what a dead caller asked for.

        Raises:
            UnsupportedSampler, NonFinite, DarkroomError: this picture failed; its neighbours did not.
            AdapterChanged, UnusableAdapter: a LoRA of this picture.
            WeightsMismatch: the conditioning or the image is of another checkpoint.
            Superseded: the Dispatcher that asked is not in charge any more.
        """
        self._loop = asyncio.get_running_loop()
        if any(each.model_digest != self._digest for each in (encoded, image) if each is not None):
            raise WeightsMismatch
        async with self._lora_leases.held(spec.loras) as loras:
            state = await self._thread.run(self._start, spec, encoded, image, loras)
            self._work_for(epoch, dispatcher)
            mailbox = self._mailboxes[state] = Mailbox(epoch)
            self._engine.submit(state)
            try:
                while True:
                    update = await mailbox.newest()
                    yield replace(update, model_digest=self._digest)
                    if update.latents is not None:
                        self._metrics.seconds.observe(update.denoise_s)
                        break
            finally:
                state.cancelled = True
                del self._mailboxes[state]

    async def compile_plan(self, spec: ImageSpec) -> None:
        """Compile the plan of an image's sampler, which is kept. Raises UnsupportedSampler."""
        await self._thread.run(self._model.plan, spec)

    def fence(self, epoch: int) -> None:
        """Work for the Dispatcher of `epoch` alone: pictures of earlier ones leave the engine within one step.

        Raises:
            Superseded: a later one is in charge.
        """
        if epoch < self._epoch:
            raise Superseded
        if epoch > self._epoch and self._guard is not None:
            self._guard.cancel()
            self._guard = None
        self._epoch = epoch
        self._leave(before=epoch)

    async def check_health(self) -> None:
        """Let Serve replace the replica where the engine's thread died or hangs; give back memory it does not use."""
        await asyncio.to_thread(trim_heap)
        self._metrics.gpu_memory.set(allocated_bytes(self._model.device))
        self._metrics.rows(sum(state.rows for state in self._mailboxes))
        self._engine.check_health()

    def stats(self) -> StageStats:
        """Return what this replica holds and has done."""
        return self._stats

    def _work_for(self, epoch: int, dispatcher: str) -> None:
        self.fence(epoch)
        if self._guard is None:
            self._guard = asyncio.create_task(self._leave_when_dead(epoch, dispatcher))
        elif self._guard.done():
            self._guard.result()
            raise Superseded  # what it asked for was on its way when it died

    async def _leave_when_dead(self, epoch: int, dispatcher: str) -> None:
        await until_dead(dispatcher)
        self._leave(before=epoch + 1)

    def _leave(self, before: int) -> None:
        """Take out what Dispatchers before an epoch asked for."""
        for state, mailbox in self._mailboxes.items():
            if mailbox.epoch < before:
                state.cancelled = True  # here, as nobody may be reading its mailbox any more
                mailbox.put(Superseded())

    def _start(
        self, spec: ImageSpec, encoded: EncodedPrompt, image: EncodedImage | None, loras: RowRanks
    ) -> DenoiseState:
        return new_state(spec, encoded, self._model.plan(spec), self._model, image, loras)

    def _lora_leases_of(self, model: ModelConfig) -> LoraLeases:
        """Make room for LoRAs, if the config has a folder of them.

        Where the forward must not depend on who asks, it has room for all that a request may name, in each row.
        """
        if model.adapters_path is None:
            return LoraLeases(None)
        fixed = MAX_LORAS * model.max_lora_rank if model.batch_invariant or model.denoiser.compile else None
        bank = self._model.enable_loras(model.lora_ranks, fixed)
        banks = {self._model.family.denoiser: bank}
        return LoraLeases(ResidentLoras(model.adapters_path, banks, self._model.read_lora, model.max_lora_rank))

    def _publish(self, outcomes: list[tuple[DenoiseState, Outcome]]) -> None:
        """Hand a step's outcomes to the event loop, in one call."""
        assert self._loop is not None
        self._stats.count(len(outcomes))
        step = next((outcome for _, outcome in outcomes if isinstance(outcome, StepUpdate)), None)
        if step is not None:
            self._metrics.step(step)
        self._loop.call_soon_threadsafe(self._deliver, outcomes)

    def _deliver(self, outcomes: list[tuple[DenoiseState, Outcome]]) -> None:
        for state, outcome in outcomes:
            mailbox = self._mailboxes.get(state)
            if mailbox is not None:
                mailbox.put(outcome)


class Mailbox:
    """The newest word on one picture. A preview that was not read yet survives a newer word without one."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch  # of the Dispatcher that waits for it
        self._newest: Outcome | None = None
        self._changed = asyncio.Event()
        self._read_at = 0.0

    def put(self, outcome: Outcome) -> None:
        """Replace the word; final ones are read at once, others when their time has come."""
        unread = self._newest
        if isinstance(unread, DarkroomError):
            return  # a step that was on its way changes nothing
        if isinstance(outcome, StepUpdate) and isinstance(unread, StepUpdate) and outcome.preview is None:
            outcome = replace(outcome, preview=unread.preview)
        self._newest = outcome
        final = isinstance(outcome, DarkroomError) or outcome.latents is not None
        if final or time.monotonic() - self._read_at >= UPDATE_INTERVAL_S:
            self._changed.set()

    async def newest(self) -> StepUpdate:
        """Wait for a word and take it; raise it if it is an error."""
        await self._changed.wait()
        self._changed.clear()
        self._read_at = time.monotonic()
        outcome, self._newest = self._newest, None
        if isinstance(outcome, DarkroomError):
            raise outcome
        assert outcome is not None
        return outcome
