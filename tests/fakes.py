"""What tests put in the place of the cluster: a model's card, and a pipeline that draws plain squares."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from deployments.autoscaling import Demand
from deployments.config import InputsConfig, QueueConfig
from deployments.dispatcher.client import DispatcherClient
from deployments.dispatcher.clock import SteadyClock
from deployments.dispatcher.deployment import Dispatcher
from deployments.dispatcher.lease import Lease
from deployments.dispatcher.model_queue import Stages
from deployments.dispatcher.queue_stats import Replicas
from deployments.image_store import ImageStore
from deployments.input_intake import InputIntake
from deployments.input_store import InputStore
from deployments.jobs import ImageResult
from deployments.stages.executor import SerialExecutor
from models.errors import AdapterChanged, Unavailable, UnsupportedSampler
from models.model_card import ModelCard
from models.parameters import PromptSyntax
from models.spec import Embedding, ImageSpec, StepUpdate, Tokens

STEPS = 8
INPUTS = InputsConfig()
PATIENCE_S = 15  # until a test that waits for what does not happen fails; nothing takes this long
CARD = ModelCard(
    id="shapes",
    family="sd",
    digest="d" * 64,
    defaults={
        "negative_prompt": "",
        "width": 128,
        "height": 128,
        "num_inference_steps": STEPS,
        "guidance_scale": 4.0,
        "guidance_rescale": 0.0,
        "clip_skip": 0,
        "prompt_syntax": "plain",
        "sampler": "ddim",
        "output_format": "png",
    },
    member_defaults={"init.strength": 0.75, "hires.strength": 0.7},
    bounds={"width": (64, 256), "height": (128, 128), "clip_skip": (0, 12)},
    size_multiple=64,
    samplers=("ddim", "euler"),
    min_steps={"euler": 3},
    max_tokens=30,
    styles=("flat", "cartoon"),
)


def a_spec(**changes: object) -> ImageSpec:
    """A picture as the card's defaults have it."""
    return replace(ImageSpec(model="shapes", prompt="a circle", seed=7, **CARD.defaults), **changes)


def picture(spec: ImageSpec, side: int = 4) -> bytes:
    """A square whose colour is the seed."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), (spec.seed % 256, 90, 60)).save(content, spec.output_format)
    return content.getvalue()


def a_preview(step: int) -> bytes:
    """A WebP with as many pixels a side as its step."""
    return picture(a_spec(output_format="webp"), step)


def a_result(spec: ImageSpec, lease: Lease) -> ImageResult:
    """The receipt of a finished picture."""
    name = lease.file_name(spec.output_format)
    return ImageResult(
        index=lease.index,
        url=f"/v1/files/{name}",
        name=name,
        seed=spec.seed,
        spec=spec,
        model_digest="d" * 64,
        encode_s=0.01,
        denoise_s=0.1,
        decode_s=0.01,
        batch_rows=2,
        attempts=lease.attempt,
    )


class FakePipeline:
    """Draws as the real one does, but at once. While it is held, each step waits for a permit of `allow`."""

    def __init__(self, images: ImageStore | None = None, card: ModelCard = CARD) -> None:
        self.is_up = True
        self.max_rows = 2
        self.epoch = 0
        self.demand = Demand()
        self.served = card  # may change: new weights
        self.forwards = 0
        self.started: list[Lease] = []
        self.left: list[Lease] = []  # whose generator has ended, however it ended
        self.specs: list[ImageSpec] = []
        self.problems: list[Exception] = []  # raised by the next pictures, one each, after their first step
        self.changed: set[str] = set()  # embeddings whose files are not what they were
        self.cut: Mapping[str, str] = {}  # what the text encoder does not read of each text
        self.preview_at: tuple[int, ...] = ()  # steps with a preview
        self.no_plan: set[tuple[str, int]] = set()  # samplers and steps that the scheduler refuses
        self._images = images
        self._permits: asyncio.Semaphore | None = None

    @property
    def running(self) -> int:
        """Pictures in the making."""
        return len(self.started) - len(self.left)

    def hold(self) -> None:
        """From now on no picture makes a step without a permit."""
        self._permits = asyncio.Semaphore(0)

    def allow(self, steps: int) -> None:
        """Permit some steps."""
        assert self._permits is not None
        for _ in range(steps):
            self._permits.release()

    def let_go(self) -> None:
        """Permit everything from now on."""
        permits, self._permits = self._permits, None
        for _ in range(1000 if permits else 0):
            permits.release()

    async def meet(self, demand: Demand) -> ModelCard:
        self.demand = demand
        if not self.is_up:
            raise Unavailable
        return self.served

    async def fence(self, epoch: int) -> None:
        self.epoch = epoch

    async def compile_plan(self, spec: ImageSpec) -> None:
        if (spec.sampler, spec.num_inference_steps) in self.no_plan:
            raise UnsupportedSampler("num_inference_steps must be another number.", "num_inference_steps")

    async def tokens(self, text: str, syntax: PromptSyntax, embeddings: Sequence[Embedding], field: str) -> Tokens:
        """A word is a token."""
        if changed := [each.name for each in embeddings if each.name in self.changed]:
            raise AdapterChanged(f"{field}: {changed[0]} has changed.", field)
        found = text.split()
        return Tokens(len(found), CARD.max_tokens, " ".join(found[CARD.max_tokens :]))

    async def generate(self, spec: ImageSpec, lease: Lease) -> AsyncIterator[StepUpdate | ImageResult]:
        self.started.append(lease)
        self.specs.append(spec)
        try:
            problem = self.problems.pop(0) if self.problems else None
            for step in range(1, spec.num_inference_steps + 1):
                await (self._permits.acquire() if self._permits else asyncio.sleep(0))
                self.forwards += 1
                yield StepUpdate(
                    step=step,
                    steps=spec.num_inference_steps,
                    batch_rows=spec.rows,
                    batch_images=1,
                    most_rows=self.max_rows,
                    step_s=0.01,
                    cut=self.cut,
                    denoise_s=0.01 * step,
                    preview=a_preview(step) if step in self.preview_at else None,
                )
                if problem is not None:
                    raise problem
            result = a_result(spec, lease)
            if self._images is not None:
                self._images.put(result.name, picture(spec))
            yield result
        finally:
            self.left.append(lease)


class Inline(SerialExecutor):
    """Runs what it is given in the loop's next turn, so that tests need not wait for a thread."""

    async def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)  # others have a turn, as while a thread works
        return work(*args, **kwargs)


def a_dispatcher(
    pipeline: Stages,
    *,
    others: Mapping[str, Stages] = {},
    database_url: str = "sqlite://",
    images: Path | str = "memory://darkroom",
    max_rows: int = 2,
    replicas: Callable[[], Mapping[str, Replicas]] = lambda: {"denoiser": Replicas(1)},
    keys: Path | None = None,
    aliases: Mapping[str, str] = {},
    clock: SteadyClock | None = None,
    inputs: InputsConfig = INPUTS,
    **queue: Any,
) -> Dispatcher:
    """A Dispatcher whose writes take no time, and whose clock follows any jump unless one is given. Two guided pictures
    are in flight at once, and eight may wait."""
    config = QueueConfig(**{"max_waiting": 8} | queue)
    models = {CARD.id: pipeline, **others}
    dispatcher = Dispatcher(
        models,
        config,
        inputs=inputs,
        database_url=database_url,
        images=str(images),
        max_rows=max_rows,
        replicas=lambda: dict.fromkeys(models, replicas()),
        keys=keys,
        aliases=aliases,
        clock=clock or SteadyClock(hold_s=0.0),
    )
    dispatcher._writer._thread = Inline("inline")
    return dispatcher


class Jumping:
    """A system's clock that a test puts ahead, read by a Dispatcher's clock that has gone right for hours."""

    def __init__(self) -> None:
        self.ahead_s = self._hours_s = 0.0
        self.clock = SteadyClock(
            system=lambda: time.time() + self.ahead_s, monotonic=lambda: time.monotonic() + self._hours_s
        )
        self.later(2 * 3600)
        assert self.clock.settled

    def later(self, seconds: float) -> None:
        """Let time pass in which nobody looks at a clock but this one."""
        self.ahead_s += seconds
        self._hours_s += seconds


def an_intake(client: DispatcherClient, images: Path | str = "memory://darkroom") -> InputIntake:
    """What takes uploaded images, into a folder that `a_dispatcher` looks in."""
    return InputIntake(client, InputStore(images), INPUTS)


class LocalCalls:
    """Calls to a Dispatcher in this process: what `ServeCalls` is over Serve."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method and return its result."""
        return await getattr(self._dispatcher, method)(*args)

    def stream(self, method: str) -> AsyncIterator[Any]:
        """Call an async generator method."""
        return getattr(self._dispatcher, method)()


async def until(condition: Callable[[], object]) -> None:
    """Let everything else go on until `condition` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0)


async def settled() -> None:
    """Let everything else go on until nothing more is to be expected of it."""
    for _ in range(50):
        await asyncio.sleep(0)
