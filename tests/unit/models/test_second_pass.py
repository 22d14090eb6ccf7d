"""A second pass is what chained diffusers pipelines make: text to image, or with an image, then image to image.

The reference hands the latents of its first pipeline on as `torch.nn.functional.interpolate` scales them, or its image
as Pillow's Lanczos does, with a new generator of the same seed. Latents within 1e-4 relative L2, and where an image is
handed on 5e-4: if one of its 3,072 values is rounded the other way, that alone is 1e-4. Each cell has a negative
control, one step off in the second pass, that this must refuse.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import InvalidRequest, NonFinite
from models.hires import Hires
from models.parameters import Upscaler
from models.spec import EncodedImage, ImageSpec, InitImage
from models.upscaling import FirstPass, upscale
from tests.checkpoints import build_inpainting
from tests.stages import Stages
from tests.unit.models.test_parity import LATENTS_WITHIN, NAMED, SCHEDULERS, added_up_in_float64, gap

STEPS, SECOND_STEPS = 6, 8
UPSCALERS: tuple[Upscaler, ...] = get_args(Upscaler)
WITHIN = {"latent": LATENTS_WITHIN, "lanczos": 5 * LATENTS_WITHIN}
FAMILIES = {"tiny_sd": "StableDiffusion", "tiny_sdxl": "StableDiffusionXL"}
KINDS = {"plain": "Pipeline", "img2img": "Img2ImgPipeline", "inpaint": "InpaintPipeline"}


class Cell(NamedTuple):
    """What one image is made of."""

    sampler: str
    upscaler: Upscaler
    kind: str = "plain"  # of the first pass
    strength: float = 0.6
    scale: float = 2.0


SLICE = [
    (list(FAMILIES)[k % 2], Cell(sampler, UPSCALERS[k // 2 % 2], scale=(2.0, 1.5)[k % 2]))
    for k, sampler in enumerate(NAMED)
]
WITH_IMAGES = [
    Cell("euler", upscaler, kind, strength)
    for upscaler in UPSCALERS
    for kind, strength in (("img2img", 0.6), ("inpaint", 0.6), ("inpaint", 1.0))
]


class Chain:
    """A checkpoint in our stages, and in its diffusers pipelines."""

    def __init__(self, folder: Path, family: str, kinds: Sequence[str] = tuple(KINDS)) -> None:
        self.stages = Stages(folder)
        self.pipelines = {kind: getattr(diffusers, family + KINDS[kind]).from_pretrained(folder) for kind in kinds}
        self._config = self.pipelines[kinds[0]].scheduler.config

    def spec(self, cell: Cell) -> ImageSpec:
        init = InitImage(input="an image", strength=0.5, mask="a mask" if cell.kind == "inpaint" else None)
        hires = Hires(scale=cell.scale, strength=cell.strength, steps=SECOND_STEPS, upscaler=cell.upscaler)
        return self.stages.spec(
            sampler=cell.sampler,
            num_inference_steps=STEPS,
            guidance_scale=5.0,
            init=None if cell.kind == "plain" else init,
            hires=hires,
        )

    def ours(self, spec: ImageSpec, steps_off: int = 0) -> np.ndarray:
        first, second = spec.passes
        image = None
        if spec.init is not None:
            image = self.stages.encoded(pixels_of(first), mask_of(first))
        latents = self.stages.latents(first, image=image)
        larger = self.stages.upscaled(spec, latents, mask_of(second))
        return self.stages.latents(second, image=larger, steps_off=steps_off)

    def theirs(self, spec: ImageSpec, kind: str) -> np.ndarray:
        first, second = spec.passes
        assert spec.hires is not None
        is_latent = spec.hires.upscaler == "latent"
        image = {} if spec.init is None else {"image": Image.fromarray(pixels_of(first)), "strength": 0.5}
        result = self._run(first, kind, "latent" if is_latent else "pil", image)
        if is_latent:
            size = [side // self.stages.model.scale for side in (second.height, second.width)]
            larger = torch.nn.functional.interpolate(result[None], size=size, mode="bilinear", antialias=False)
            masked = {"masked_image_latents": larger} if kind == "inpaint" else {}
        else:
            larger, masked = result.resize((second.width, second.height), Image.Resampling.LANCZOS), {}
        again = {"image": larger, "strength": spec.hires.strength, **masked}
        return self._run(second, "inpaint" if kind == "inpaint" else "img2img", "latent", again).numpy()

    def _run(self, spec: ImageSpec, kind: str, output_type: str, options: dict[str, Any]) -> Any:
        pipeline = self.pipelines[kind]
        pipeline.set_progress_bar_config(disable=True)
        class_name, of_scheduler = SCHEDULERS[spec.sampler]
        pipeline.scheduler = getattr(diffusers, class_name).from_config(self._config, **of_scheduler)
        if kind == "inpaint":
            options = {**options, "mask_image": Image.fromarray(mask_for(spec))}
        if kind != "img2img":
            options = {**options, "width": spec.width, "height": spec.height}
        with added_up_in_float64(pipeline.scheduler):
            return pipeline(
                spec.prompt,
                **options,
                num_inference_steps=spec.num_inference_steps,
                guidance_scale=spec.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(spec.seed),
                output_type=output_type,
            ).images[0]

    def check(self, cell: Cell) -> None:
        """Hold an image and its negative control against the pipelines'."""
        spec = self.spec(cell)
        reference = self.theirs(spec, cell.kind)
        width, height = spec.size
        assert reference.shape[1:] == (height // self.stages.model.scale, width // self.stages.model.scale)
        within = WITHIN[cell.upscaler]
        assert gap(self.ours(spec), reference) < within
        assert gap(self.ours(spec, steps_off=1), reference) > within


def pixels_of(spec: ImageSpec) -> np.ndarray:
    """An image to begin with."""
    coarse = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((spec.width, spec.height), Image.Resampling.BICUBIC))


def mask_of(spec: ImageSpec) -> np.ndarray | None:
    """What of a pass is made anew, if its image has a mask."""
    return None if spec.init is None or spec.init.mask is None else mask_for(spec)


def mask_for(spec: ImageSpec) -> np.ndarray:
    """A mask in the size of a pass."""
    mask = np.zeros((spec.height, spec.width), bool)
    mask[spec.height // 4 : spec.height // 4 * 3, spec.width // 8 : spec.width // 2] = True
    return mask


@pytest.fixture(scope="module")
def chains(request: pytest.FixtureRequest) -> dict[str, Chain]:
    return {name: Chain(request.getfixturevalue(name), family) for name, family in FAMILIES.items()}


@pytest.mark.parametrize(("checkpoint", "cell"), SLICE)
def test_a_second_pass_is_what_chained_pipelines_make(chains, checkpoint, cell):
    chains[checkpoint].check(cell)


@pytest.mark.nightly
@pytest.mark.parametrize(("checkpoint", "sampler"), [(name, sampler) for name in FAMILIES for sampler in NAMED])
def test_so_it_is_in_the_whole_table(chains, checkpoint, sampler):
    for upscaler in UPSCALERS:
        for strength in (0.3, 1.0):
            chains[checkpoint].check(Cell(sampler, upscaler, strength=strength))


@pytest.mark.parametrize("cell", WITH_IMAGES)
def test_an_image_to_begin_with_is_the_first_passs_and_its_mask_is_both_passes(chains, cell):
    chains["tiny_sd"].check(cell)


def test_the_shapes_model_has_a_second_pass_too(shapes):
    """Its latents have eight channels, which diffusers takes for no latents: it is given pixels alone."""
    chain = Chain(shapes, "StableDiffusion", ["plain", "img2img"])
    chain.stages.card = replace(chain.stages.card, bounds={})  # it was trained for one size
    chain.check(Cell("dpmpp_2m", "lanczos", scale=1.5))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_latent_consistency_model_does_all_steps_of_its_second_pass(tiny_lcm, strength):
    chain = Chain(tiny_lcm, "StableDiffusion", ["plain", "img2img"])
    chain.pipelines["img2img"] = diffusers.LatentConsistencyModelImg2ImgPipeline.from_pretrained(tiny_lcm)
    cell = Cell("lcm", "latent", strength=strength)
    chain.check(cell)
    assert chain.spec(cell).model_calls == STEPS + SECOND_STEPS


def test_a_result_that_cannot_be_scaled_up_is_an_error_among_its_neighbours(chains):
    stages = chains["tiny_sd"].stages
    hires = {name: chains["tiny_sd"].spec(Cell("ddim", name)).hires for name in ("latent", "lanczos")}
    good = np.zeros((4, 16, 16), np.float32)
    items = [(good, "lanczos"), (np.full_like(good, np.nan), "lanczos"), (good, "latent"), (good + 1, "lanczos")]
    outcomes = upscale(stages.vae, [FirstPass(latents, hires[name]) for latents, name in items], requires_mask=False)
    assert [type(outcome) for outcome in outcomes] == [EncodedImage, NonFinite, EncodedImage, EncodedImage]
    first, latent, last = (each for each in outcomes if isinstance(each, EncodedImage))
    assert {each.mean.shape for each in (first, latent, last)} == {(4, 32, 32)}
    assert (first.std is None, latent.std is None) == (False, True)
    assert not np.array_equal(first.mean, last.mean)


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Chain:
    """A checkpoint for inpainting alone."""
    folder = build_inpainting(tmp_path_factory.mktemp("inpainting"), diffusers.StableDiffusionInpaintPipeline, tiny_sd)
    return Chain(folder, "StableDiffusion", ["inpaint"])


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_model_for_inpainting_alone_has_its_pixels_scaled_up(inpainting, strength):
    inpainting.check(Cell("euler", "lanczos", "inpaint", strength))


def test_such_a_model_refuses_to_have_its_latents_scaled_up(inpainting):
    with pytest.raises(InvalidRequest, match=r"^hires\.upscaler must be lanczos for model, which reads pixels too"):
        inpainting.spec(Cell("ddim", "latent", "inpaint"))
