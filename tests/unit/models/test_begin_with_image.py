"""What begins with an image is what the diffusers pipelines for that make of it, with any sampler.

The references are `StableDiffusionImg2ImgPipeline`, `StableDiffusionInpaintPipeline` and their kin, loaded from the
folder. Latents within 1e-4 relative L2; each cell has a negative control, one step off, that this must refuse.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import InvalidRequest
from models.init_image import PADDING, around_mask, put_back, whole
from models.spec import ImageSpec, InitImage
from tests.checkpoints import build_inpainting
from tests.stages import Stages
from tests.unit.models.test_parity import LATENTS_WITHIN, NAMED, SCHEDULERS, added_up_in_float64, gap

STEPS = 8
STRENGTHS = (0.3, 0.75, 1.0)
KINDS = ("img2img", "inpaint")
GUIDANCE = (1.0, 5.0)
FAMILIES = {"tiny_sd": "StableDiffusion", "tiny_sd2": "StableDiffusion", "tiny_sdxl": "StableDiffusionXL"}
CLASSES = {"img2img": "Img2ImgPipeline", "inpaint": "InpaintPipeline"}


class Cell(NamedTuple):
    """What one image is made of."""

    sampler: str
    kind: str
    strength: float
    guidance_scale: float


SLICE = [  # each sampler once, and each pair of family, kind, strength and guidance
    (list(FAMILIES)[k % 3], Cell(sampler, KINDS[k % 2], STRENGTHS[(k + k // 3) % 3], GUIDANCE[(k + k // 6) % 2]))
    for k, sampler in enumerate(NAMED)
]


class Pair:
    """A checkpoint in our stages, and in its diffusers pipelines."""

    def __init__(self, folder: Path, family: str, kinds: Sequence[str] = KINDS) -> None:
        self.stages = Stages(folder)
        self.pipelines = {kind: getattr(diffusers, family + CLASSES[kind]).from_pretrained(folder) for kind in kinds}
        self._config = self.pipelines[kinds[0]].scheduler.config
        side = self.stages.card.defaults["width"]
        rng = np.random.default_rng(3)
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        self.image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        self.mask = np.zeros((side, side), bool)
        self.mask[side // 4 : side // 4 * 3, side // 8 : side // 2] = True

    def spec(self, cell: Cell) -> ImageSpec:
        mask = "a mask" if cell.kind == "inpaint" else None
        init = InitImage(input="an image", strength=cell.strength, mask=mask)
        chosen = {"sampler": cell.sampler, "guidance_scale": cell.guidance_scale}
        return self.stages.spec(**chosen, num_inference_steps=STEPS, init=init)

    def ours(self, spec: ImageSpec, steps_off: int = 0) -> np.ndarray:
        assert spec.init is not None
        image = self.stages.encoded(np.asarray(self.image), self.mask if spec.init.mask else None)
        [latents] = self.stages.denoise(self.stages.state(spec, steps_off, image))
        return latents

    def theirs(self, spec: ImageSpec, kind: str) -> np.ndarray:
        assert spec.init is not None
        pipeline = self.pipelines[kind]
        pipeline.set_progress_bar_config(disable=True)
        class_name, options = SCHEDULERS[spec.sampler]
        pipeline.scheduler = getattr(diffusers, class_name).from_config(self._config, **options)
        masked = {"mask_image": Image.fromarray(self.mask)} if kind == "inpaint" else {}
        sized = {"width": spec.width, "height": spec.height} if kind == "inpaint" else {}
        with added_up_in_float64(pipeline.scheduler):
            output = pipeline(
                spec.prompt,
                image=self.image,
                strength=spec.init.strength,
                **masked,
                **sized,
                num_inference_steps=spec.num_inference_steps,
                guidance_scale=spec.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(spec.seed),
                output_type="latent",
            )
        return output.images[0].numpy()

    def check(self, cell: Cell) -> None:
        """Hold an image and its negative control against the pipeline's."""
        spec = self.spec(cell)
        reference = self.theirs(spec, cell.kind)
        assert gap(self.ours(spec), reference) < LATENTS_WITHIN
        assert gap(self.ours(spec, steps_off=1), reference) > LATENTS_WITHIN


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest) -> dict[str, Pair]:
    return {name: Pair(request.getfixturevalue(name), family) for name, family in FAMILIES.items()}


@pytest.mark.parametrize(("checkpoint", "cell"), SLICE)
def test_what_begins_with_an_image_is_what_the_pipeline_makes_of_it(pairs, checkpoint, cell):
    pairs[checkpoint].check(cell)


@pytest.mark.nightly
@pytest.mark.parametrize(("checkpoint", "sampler"), list(product(FAMILIES, NAMED)))
def test_so_it_is_in_the_whole_table(pairs, checkpoint, sampler):
    for kind, strength, guidance in product(KINDS, STRENGTHS, GUIDANCE):
        pairs[checkpoint].check(Cell(sampler, kind, strength, guidance))


@pytest.mark.parametrize("strength", [0.75, 1.0])
def test_the_shapes_model_begins_with_an_image_too(shapes, strength):
    """Its latents have eight channels, which diffusers' inpainting takes for a mistake."""
    Pair(shapes, "StableDiffusion", ["img2img"]).check(Cell("dpmpp_2m", "img2img", strength, 5.0))


@pytest.mark.parametrize(("kind", "strength"), list(product(KINDS, [0.5, 1.0])))
def test_a_latent_consistency_model_begins_with_an_image_in_its_own_way(tiny_lcm, kind, strength):
    pair = Pair(tiny_lcm, "StableDiffusion", KINDS)
    own = diffusers.LatentConsistencyModelImg2ImgPipeline.from_pretrained(tiny_lcm)
    pair.pipelines["img2img"] = own
    pair.check(Cell("lcm", kind, strength, 8.0))
    assert pair.stages.model.plan(pair.spec(Cell("lcm", "img2img", strength, 8.0))).draws_noise.count(True) == STEPS - 1


@pytest.mark.parametrize(
    ("checkpoint", "sampler"),
    [
        pytest.param(*cell, marks=() if k % 2 == 0 else pytest.mark.nightly)  # ten: each sampler once a day
        for k, cell in enumerate(product(["tiny_sd", "tiny_sdxl"], ["ddim", "euler_ancestral", "pndm", "unipc", "lcm"]))
    ],
)
def test_a_model_for_inpainting_alone_takes_the_mask_as_an_input(inpainting, checkpoint, sampler):
    pair = inpainting[checkpoint]
    assert pair.stages.model.family.latent_channels(pair.stages.model._model.config) == 4
    for strength, guidance in ((1.0, 5.0), (0.75, 1.0)):
        pair.check(Cell(sampler, "inpaint", strength, guidance))


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_sdxl: Path) -> dict[str, Pair]:
    return {
        name: Pair(
            build_inpainting(
                tmp_path_factory.mktemp(name), getattr(diffusers, f"{FAMILIES[name]}InpaintPipeline"), base
            ),
            FAMILIES[name],
            ["inpaint"],
        )
        for name, base in (("tiny_sd", tiny_sd), ("tiny_sdxl", tiny_sdxl))
    }


def test_such_a_model_refuses_a_request_without_a_mask(inpainting):
    stages = inpainting["tiny_sd"].stages
    assert stages.card.requires == ("init.mask",)
    for init in (None, InitImage(input="an image", strength=0.5)):
        with pytest.raises(InvalidRequest, match=r"^init\.mask is required: model makes anew"):
            stages.spec(init=init)


def test_images_of_such_a_model_are_as_alone_whatever_shares_their_forwards(inpainting):
    pair = inpainting["tiny_sdxl"]
    cells = [Cell("ddim", "inpaint", 1.0, 5.0), Cell("heun", "inpaint", 0.75, 1.0), Cell("lcm", "inpaint", 0.5, 5.0)]
    specs = [pair.spec(cell) for cell in cells]
    image = pair.stages.encoded(np.asarray(pair.image), pair.mask)
    together = pair.stages.denoise(*(pair.stages.state(spec, image=image) for spec in specs))
    for spec, latents in zip(specs, together, strict=True):
        assert gap(latents, pair.ours(spec)) < LATENTS_WITHIN


def test_a_strength_that_leaves_no_step_is_refused(pairs):
    with pytest.raises(InvalidRequest, match=r"^init\.strength must be 0\.125 or more: of 8 steps 0\.1 is"):
        pairs["tiny_sd"].spec(Cell("ddim", "img2img", 0.1, 1.0))


@pytest.mark.parametrize("corner", [(5, 7), (60, 100)])
def test_what_lies_around_a_mask_is_made_anew_in_the_whole_size_as_by_the_pipeline(pairs, corner):
    """As `padding_mask_crop` of the pipeline; its overlay rounds twice, ours once."""
    pair = pairs["tiny_sd"]
    left, top = corner
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 256, (8, 6, 3), dtype=np.uint8)).resize((120, 160))
    marked = np.zeros((160, 120), bool)
    marked[top : top + 22, left : left + 13] = True
    mask = Image.fromarray(marked)
    spec = pair.spec(Cell("ddim", "inpaint", 0.75, 5.0))
    part, original, box = around_mask(photo, mask, spec.width, spec.height)
    [latents] = pair.stages.denoise(pair.stages.state(spec, image=pair.stages.encoded(*part)))
    ours = put_back(pair.stages.pixels(latents)[0], original, box, 0)
    pipeline = pair.pipelines["inpaint"]
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pair._config, clip_sample=False)
    reference = pipeline(
        spec.prompt,
        image=photo,
        mask_image=mask,
        strength=0.75,
        padding_mask_crop=PADDING,
        width=spec.width,
        height=spec.height,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        generator=torch.Generator("cpu").manual_seed(spec.seed),
    ).images[0]
    assert ours.shape == (160, 120, 3)
    assert np.abs(ours.astype(int) - np.asarray(reference).astype(int)).max() <= 2
    assert np.array_equal(ours[~marked], np.asarray(photo)[~marked])
    assert not np.array_equal(ours[marked], np.asarray(photo)[marked])


def test_a_mask_of_which_nothing_white_is_left_is_refused_with_the_size():
    image, dotted = Image.new("RGB", (640, 640)), Image.new("RGB", (640, 640))
    dotted.putpixel((320, 320), (255, 255, 255))
    for read, size in (
        (lambda: around_mask(image, image, 32, 32), "640x640"),
        (lambda: whole(image, dotted, 32, 32, "crop"), "32x32"),
    ):
        with pytest.raises(InvalidRequest, match=rf"^init\.mask must be white .* at {size} pixels it is black"):
            read()
