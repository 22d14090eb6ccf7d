"""An image to begin with, from its file's pixels to what the denoiser gets of it, and back into its original."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from diffusers.image_processor import VaeImageProcessor
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from models.errors import DarkroomError, InvalidRequest
from models.image_input import latent_mask, pasted_back, resized, resized_mask
from models.parameters import ResizeMode
from models.spec import EncodedImage
from models.vae import Encoded, Vae

PADDING = 32  # pixels around a mask that are seen too, as AUTOMATIC1111 has it by default

Box = tuple[int, int, int, int]  # left, top, right, bottom


class InitPixels(NamedTuple):
    """An image to begin with, and what of it is made anew."""

    pixels: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"] | None


def whole(image: Image.Image, mask: Image.Image | None, width: int, height: int, mode: ResizeMode) -> InitPixels:
    """Return all of an image in the size of the one that is generated.

    Raises:
        InvalidRequest: the mask has nothing white at that size.
    """
    in_size = None if mask is None else resized_mask(mask, width, height, mode)
    if in_size is not None and not in_size.any():
        size = f"{width}x{height} pixels"
        raise InvalidRequest(
            f"init.mask must be white where the image changes; at {size} it is black everywhere.", "init.mask"
        )
    return InitPixels(resized(image, width, height, mode), in_size)


def around_mask(image: Image.Image, mask: Image.Image, width: int, height: int) -> tuple[InitPixels, InitPixels, Box]:
    """Return what lies around a mask in the size of the image that is generated, the whole in its own size, and where
    in that it lies.

    Source: `padding_mask_crop` of diffusers `StableDiffusionInpaintPipeline`.

    Raises:
        InvalidRequest: the mask has nothing white at that size.
    """
    original = whole(image, mask, *image.size, "stretch")
    assert original.mask is not None
    in_black_and_white = Image.fromarray(original.mask)
    box: Box = VaeImageProcessor.get_crop_region(in_black_and_white, width, height, pad=PADDING)
    part = whole(Image.fromarray(original.pixels).crop(box), in_black_and_white.crop(box), width, height, "fit")
    return part, original, box


def put_back(
    generated: UInt8[np.ndarray, "H W 3"], original: InitPixels, box: Box | None, blur: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Return an original with the generated image where its mask is; `box` is what of it was generated, None for all.

    Source: diffusers `VaeImageProcessor.apply_overlay`.
    """
    assert original.mask is not None  # requests without one are refused
    canvas = generated
    if box is not None:
        left, top, right, bottom = box
        canvas = original.pixels.copy()
        canvas[top:bottom, left:right] = resized(Image.fromarray(generated), right - left, bottom - top, "crop")
    return pasted_back(canvas, original.pixels, original.mask, blur)


def encode_init(vae: Vae, images: Sequence[InitPixels], *, requires_mask: bool) -> list[EncodedImage | DarkroomError]:
    """Encode images to begin with; for a model that `requires_mask`, also each without what its mask marks.

    One whose mask marks nothing of the latents is an `InvalidRequest`: it would not change.
    """
    encoded = vae.encode([image.pixels for image in images])
    holed = [without(*image) for image in images] if requires_mask else []
    masked = vae.encode(holed) if requires_mask else [None] * len(images)
    outcomes: list[EncodedImage | DarkroomError] = []
    for image, all_of_it, rest in zip(images, encoded, masked, strict=True):
        match all_of_it, rest:
            case (DarkroomError() as error, _) | (_, DarkroomError() as error):
                outcomes.append(error)
            case Encoded(mean, std), (Encoded() | None):
                cells = None if image.mask is None else latent_mask(image.mask, vae.scale)
                if cells is not None and not cells.any():
                    outcomes.append(_too_small(image, vae.scale))
                else:
                    outcomes.append(EncodedImage(mean=mean, std=std, mask=cells, masked=rest))
    return outcomes


def _too_small(image: InitPixels, scale: int) -> InvalidRequest:
    height, width, _ = image.pixels.shape
    return InvalidRequest(
        f"init.mask marks less than the model can change: of {width}x{height} pixels it reads one in {scale}, "
        f"across and down, and none of those is white. Mark {scale}x{scale} pixels or more at that size.",
        "init.mask",
    )


def without(pixels: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"] | None) -> Float32[np.ndarray, "H W 3"]:
    """Return an image from -1 to 1, with 0 where it is made anew: what inpainting models see of it.

    Source: diffusers `StableDiffusionInpaintPipeline.__call__`.
    """
    assert mask is not None  # requests without one are refused
    return (2 * (pixels.astype(np.float32) / 255) - 1) * ~mask[:, :, None]
