"""A cluster in one process: the real Dispatcher over a pipeline that draws plain squares."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Sequence

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deployments.autoscaling import Demand
from deployments.dispatcher.client import DispatcherClient
from deployments.dispatcher.lease import Lease
from deployments.image_store import ImageStore
from deployments.jobs import ImageResult
from models.model_card import ModelCard
from models.parameters import PromptSyntax
from models.settings_text import settings_text
from models.spec import Embedding, ImageSpec, StepUpdate, Tokens
from tests.fakes import LocalCalls, a_dispatcher

CARD = ModelCard(
    id="shapes",
    family="sd",
    digest="0" * 64,
    defaults={
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "num_inference_steps": 8,
        "guidance_scale": 4.0,
        "guidance_rescale": 0.0,
        "prompt_syntax": "plain",
        "clip_skip": 0,
        "sampler": "ddim",
        "output_format": "png",
    },
    bounds={"width": (64, 64), "height": (64, 64), "num_inference_steps": (1, 100), "clip_skip": (0, 12)},
    size_multiple=64,
    samplers=("ddim", "euler"),
    max_tokens=30,
    member_defaults={"init.strength": 0.75, "hires.strength": 0.7},
    styles=("flat", "cartoon"),
    notice="Draws one plain shape on a plain background, and nothing else.",
    examples=(
        {"prompt": "a red circle on a blue background", "seed": 7},
        {"prompt": "a green star on a white background", "style": "cartoon"},
    ),
)


def picture(spec: ImageSpec, size: int | None = None, file_format: str = "PNG", text: str = "") -> bytes:
    """A square whose colour is the seed, with its settings or another text in the file."""
    image = Image.new("RGB", (size or spec.width, size or spec.height), (spec.seed % 200 + 40, 90, 60))
    info, content = PngInfo(), io.BytesIO()
    info.add_text("parameters", text or settings_text(spec))
    image.save(content, file_format, **({"pnginfo": info} if file_format == "PNG" else {}))
    return content.getvalue()


class FakePipeline:
    """Draws at once; while `go` is cleared, it stops after half the steps."""

    def __init__(self, images: ImageStore, card: ModelCard) -> None:
        self._card = card
        self.go = threading.Event()
        self.go.set()
        self.specs: list[ImageSpec] = []
        self._images = images

    async def meet(self, demand: Demand) -> ModelCard:
        """What may be asked for."""
        return self._card

    async def fence(self, epoch: int) -> None:
        """Nobody was there before."""

    async def compile_plan(self, spec: ImageSpec) -> None:
        """Every sampler has one."""

    async def tokens(self, text: str, syntax: PromptSyntax, embeddings: Sequence[Embedding], field: str) -> Tokens:
        """A word is a token."""
        found = text.split()
        return Tokens(len(found), CARD.max_tokens, " ".join(found[CARD.max_tokens :]))

    async def generate(self, spec: ImageSpec, lease: Lease) -> AsyncIterator[StepUpdate | ImageResult]:
        self.specs.append(spec)
        steps = spec.num_inference_steps
        for step in range(1, steps + 1):
            preview = picture(spec, 8, "WEBP") if step == steps // 2 else None
            yield StepUpdate(
                step=step,
                steps=steps,
                batch_rows=2,
                batch_images=1,
                most_rows=2,
                step_s=0.01,
                denoise_s=0.01 * step,
                preview=preview,
            )
            while not self.go.is_set() and step >= steps // 2:
                await asyncio.sleep(0.01)
        name = lease.file_name("png")
        self._images.put(name, picture(spec))
        yield ImageResult(
            index=lease.index,
            url=f"/v1/files/{name}",
            name=name,
            seed=spec.seed,
            spec=spec,
            model_digest="0" * 64,
            encode_s=0.01,
            denoise_s=0.1,
            decode_s=0.01,
            batch_rows=2,
            attempts=lease.attempt,
        )


class Cluster:
    """A Dispatcher over a fake pipeline, and a client of it."""

    def __init__(self, images: ImageStore, card: ModelCard = CARD, max_waiting: int = 8) -> None:
        self.pipeline = FakePipeline(images, card)
        self.images = images._root
        self.dispatcher = a_dispatcher(self.pipeline, images=self.images, max_waiting=max_waiting)
        self.client = DispatcherClient(LocalCalls(self.dispatcher))
