"""A second pass at a higher resolution: its size, its bounds, and what requests call its fields. No torch."""

from dataclasses import dataclass
from math import ceil, floor, gcd

from models.errors import InvalidRequest
from models.parameters import MAX_HIRES_SCALE, Upscaler

SECOND_PASS = {  # field of an image -> what requests call it in their second pass
    "width": "hires.scale",
    "height": "hires.scale",
    "num_inference_steps": "hires.steps",
    "init.strength": "hires.strength",
}

Size = tuple[int, int]  # width and height, in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Hires:
    """A second pass at a higher resolution, which begins with the result of the first one.

    A mask of the image holds in it too, at its size: what the mask does not mark stays as it was scaled up.
    """

    scale: float
    strength: float  # how much of the first pass's result is made anew
    steps: int  # of the whole schedule, of which the strength leaves some out
    upscaler: Upscaler = "latent"  # of latents, bilinear; or of decoded pixels
    width: int = 0  # of the finished image, in pixels: `hires_size` of the first pass's
    height: int = 0


def hires_size(size: Size, scale: float, multiple: int) -> Size:
    """Return a size `scale` times as large, rounded down to multiples of `multiple` pixels."""
    width, height = (
        floor(round(side * scale, 6)) // multiple * multiple  # rounded: 200 * 1.16 is less than 232 in floats
        for side in size
    )
    return width, height


def check_scale(size: Size, scale: float, multiple: int, largest: Size, model: str) -> None:
    """Check that a second pass is larger than the first one of a size, and no larger than the model allows.

    Raises:
        InvalidRequest: with the least and the greatest scale of a first pass of this size.
    """
    most = min(MAX_HIRES_SCALE, *(bound / side for bound, side in zip(largest, size, strict=True)))
    if scale <= most and hires_size(size, scale, multiple) != size:
        return
    allowed = ceil((1 + multiple / max(size)) * 1000) / 1000, floor(most * 1000) / 1000
    images = f"for images of {size[0]}x{size[1]} with {model}"
    if allowed[1] < allowed[0]:
        raise InvalidRequest(f"hires must be left out {images}: no scale gives a larger size.", "hires")
    message = f"hires.scale must be from {allowed[0]:g} to {allowed[1]:g} {images}, got {scale:g}."
    raise InvalidRequest(message, "hires.scale")


def check_shape(size: Size, scale: float, multiple: int) -> None:
    """Check that a second pass has the shape of the first one of a size: rounding may have changed it.

    Raises:
        InvalidRequest: with a scale that keeps the shape.
    """
    width, height = hires_size(size, scale, multiple)
    if width * size[1] == height * size[0]:
        return
    parts = gcd(size[0] // multiple, size[1] // multiple)  # an image larger by one of so many parts has its shape
    keeps = ceil(max(floor(scale * parts), parts + 1) / parts * 10_000) / 10_000
    message = (
        f"hires.scale must keep the shape of {size[0]}x{size[1]} with init.area masked, got {scale:g}; {keeps:g} does."
    )
    raise InvalidRequest(message, "hires.scale")


def of_pass(number: int, error: InvalidRequest) -> InvalidRequest:
    """Return an error about a pass, 0 for the first, as the request names its field."""
    field = SECOND_PASS.get(error.param or "")
    if not number or not field:
        return error
    return type(error)(error.message.replace(error.param or "", field, 1), field)
