"""The diffusers pipelines of the shapes model, their code untouched: for text alone, image-to-image and inpainting."""

import io
from copy import copy
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

from benchmarks.requests import SHAPES, Requests, png
from models.samplers import new_scheduler


class Pipelines:
    """One set of weights in three pipelines. Requests of a call agree in all but prompt, seed and images."""

    def __init__(self) -> None:
        self._plain = StableDiffusionPipeline.from_pretrained(SHAPES)
        self._config = dict(self._plain.scheduler.config)
        parts: dict[str, Any] = {**self._plain.components, "requires_safety_checker": False}
        self._img2img = StableDiffusionImg2ImgPipeline(**parts)
        # The pipeline takes a UNet of 4 channels for one that sees latents alone, as this one does with 8, and refuses
        # others. It reads the number for nothing else, so a config that says 4, on a copy that shares the weights, lets
        # its own code blend as it does for any such UNet. The pipeline for text alone sizes its noise by the true one.
        unet = copy(self._plain.unet)
        unet.register_to_config(in_channels=4)
        self._inpaint = StableDiffusionInpaintPipeline(**parts | {"unet": unet})
        for pipeline in (self._plain, self._img2img, self._inpaint):
            pipeline.set_progress_bar_config(disable=True)

    def generate(self, requests: Requests) -> list[bytes]:
        """Return a PNG of each request."""
        specs, first = requests.specs, requests.specs[0]
        pipeline, begin = self._chosen(requests)
        pipeline.scheduler = new_scheduler(self._config, first.sampler)
        images = pipeline(
            [spec.prompt for spec in specs],
            num_inference_steps=first.num_inference_steps,
            guidance_scale=first.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(spec.seed) for spec in specs],
            **begin,
        ).images
        if first.init is not None and first.init.paste_back:  # as the documentation of diffusers does it
            assert first.init.mask_blur == 0  # their blur leaves the old image in the mask too
            images = map(self._inpaint.image_processor.apply_overlay, begin["mask_image"], begin["image"], images)
        return [png(image) for image in images]

    def _chosen(self, requests: Requests) -> tuple[Any, dict[str, Any]]:
        """Return the pipeline for requests, and what it begins with: their files, decoded."""
        inits = [spec.init for spec in requests.specs if spec.init is not None]
        if not inits:
            return self._plain, {}
        images = [_opened(requests.files[init.input], "RGB") for init in inits]
        begin = {"image": images, "strength": inits[0].strength}
        masks = [_opened(requests.files[init.mask], "L") for init in inits if init.mask is not None]
        if not masks:
            return self._img2img, begin
        size = {"width": requests.specs[0].width, "height": requests.specs[0].height}
        return self._inpaint, begin | size | {"mask_image": masks}


def _opened(content: bytes, mode: str) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert(mode)
