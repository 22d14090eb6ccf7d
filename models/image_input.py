"""Images that callers send: files to pixels, pixels and masks to a size, results back into their originals.

A mask is white where an image changes.
"""

import io
import struct
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from models.color_profile import to_srgb
from models.errors import InvalidImage, InvalidRequest
from models.image_container import EXIF_PREFIX, Container, damaged, read_container
from models.parameters import MaskFlaw, ResizeMode

MAX_SIDE = 65_535  # pixels: a JPEG's own bound. The filters of a resize take memory by the side
WHITE = 128  # of 255: gray from here on counts as white in a mask
MAX_EXCESS = 8  # times the length of a crop that is scaled with it
PLUGINS = {"PNG": PngImageFile, "JPEG": JpegImageFile, "WebP": WebPImageFile}
ORIENTATION, SHORT = 0x0112, 3  # an EXIF tag, and the type of its value
UPRIGHT = {  # what turns an image whose EXIF says so
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Sides(NamedTuple):
    """Room on the sides of an image, as a share of its width or height."""

    left: float = 0.0
    right: float = 0.0
    up: float = 0.0
    down: float = 0.0


def read_image(content: bytes, max_pixels: int) -> Image.Image:
    """Decode a whole PNG, JPEG or WebP file to upright sRGB of 8 bits: RGB, or RGBA where the file has transparency.

    Of 16 bits the upper 8 remain. CMYK is read inverted, as Adobe writes it and every browser reads it. EXIF and a
    colour profile that cannot be read count as absent. Not applied are gamma and chromaticities without a profile
    (gAMA, cHRM, cICP) and an orientation in XMP. Pixels that a well-formed file lacks are black in a PNG and gray in a
    JPEG, as their decoders have it. Pillow issues no warning, and its global settings are not changed.

    Raises:
        InvalidImage: another type, damaged, truncated or too large: which, and what to do. It names no field.
    """
    container = read_container(content)
    _check_size(container.width, container.height, max_pixels)
    image = _in_srgb(_decoded(container), container.profile)
    turn = UPRIGHT.get(_orientation(container.exif))
    return image if turn is None else image.transpose(turn)


def _check_size(
    width: int, height: int, max_pixels: int, is_so: str = "The image is", remedy: str = "Scale it down."
) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise InvalidImage(f"{is_so} {width}x{height} pixels; each side must be from 1 to {MAX_SIDE:,}. {remedy}")
    if width * height > max_pixels:
        raise InvalidImage(
            f"{is_so} {width}x{height}, {width * height:,} pixels; the limit is {max_pixels:,}. {remedy}"
        )


def _decoded(container: Container) -> Image.Image:
    """Decode the pixels, to a mode of 8 bits a channel: L, LA, RGB, RGBA or CMYK."""
    try:
        image = PLUGINS[container.format](io.BytesIO(container.pixels))
        if image.size != (container.width, container.height):
            raise damaged(container.format)
        image.load()
        return _in_eight_bits(image)
    except (InvalidImage, MemoryError):
        raise
    except Exception as error:  # of any class: Pillow promises none
        raise damaged(container.format) from error


def _in_eight_bits(image: Image.Image) -> Image.Image:
    transparent = image.info.get("transparency")  # a colour, or a palette's: of a PNG without an alpha channel
    if image.mode == "I;16":
        levels = np.asarray(image)
        gray = Image.fromarray((levels >> 8).astype(np.uint8))
        if transparent is None:
            return gray
        return Image.merge("LA", (gray, Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8))))
    if transparent is not None and image.mode in ("1", "L", "P", "RGB"):
        return image.convert("RGBA")
    return image.convert({"1": "L", "P": "RGB"}[image.mode]) if image.mode in ("1", "P") else image


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image of 8 bits as RGB, or as RGBA where it has an alpha channel."""
    has_alpha = image.mode in ("LA", "RGBA")
    if not has_alpha:
        return to_srgb(image, profile)
    if not profile:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    color = to_srgb(image.convert(image.mode[:-1]), profile)
    color.putalpha(image.getchannel("A"))
    return color


def _orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in the first directory of EXIF; 1, which is upright, where it has none."""
    tiff = exif.removeprefix(EXIF_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == ORIENTATION:
                return value if kind == SHORT and value in UPRIGHT else 1
    except struct.error:
        pass
    return 1


def resized(image: Image.Image, width: int, height: int, mode: ResizeMode) -> UInt8[np.ndarray, "H W 3"]:
    """Resize with Lanczos: crop what exceeds the shape, fit and extend the edges, or stretch. Transparency is white.

    Source: diffusers `VaeImageProcessor.resize`, whose modes are "crop", "fill" and "default".
    """
    return np.array(_resized(_over(image, "white"), width, height, mode))


def resized_mask(image: Image.Image, width: int, height: int, mode: ResizeMode) -> Bool[np.ndarray, "H W"]:
    """Resize a mask as its image, True where the image changes: white, and gray from half on. Transparency is black.

    Source: the `mask_processor` of diffusers `StableDiffusionInpaintPipeline`.
    """
    return np.array(_resized(_over(image, "black"), width, height, mode).convert("L")) >= WHITE


def mask_flaw(image: Image.Image) -> MaskFlaw | None:
    """Return what keeps an image from being a mask, in any size; None if nothing does."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        return "transparent"
    levels = image.convert("L").histogram()
    return None if any(levels[WHITE:]) else "black"


def latent_mask(mask: Bool[np.ndarray, "H W"], scale: int) -> Bool[np.ndarray, "h w"]:
    """Return the nearest of a mask for latents of `scale` pixels a cell; both sides are multiples of it.

    Source: `torch.nn.functional.interpolate`, by which the inpainting pipelines shrink masks.
    """
    return mask[::scale, ::scale]


def paste_weights(mask: Bool[np.ndarray, "H W"], blur: int) -> UInt8[np.ndarray, "H W"]:
    """Return the weights, 0 to 255, with which a generated image is pasted back: 255 in the mask.

    Outside they fade by a Gaussian of `blur` pixels: below a fortieth from 2 `blur` on, and 0 beyond 3 `blur`.

    Source: outside the mask, diffusers `VaeImageProcessor.blur`. That fades inside too, so small masks change nothing.
    """
    levels = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.maximum(np.asarray(levels), np.asarray(levels.filter(ImageFilter.GaussianBlur(blur))))


def pasted_back(
    generated: UInt8[np.ndarray, "H W 3"],
    original: UInt8[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    blur: int,
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the original with the generated image in the mask, mixed around it by `paste_weights`.

    In the mask the pixels are the generated ones, and outside the mask and its blur the original's, bit for bit.

    Source: diffusers `VaeImageProcessor.apply_overlay`, which rounds twice where this rounds once.
    """
    weights = Image.fromarray(paste_weights(mask, blur))
    return np.array(Image.composite(Image.fromarray(generated), Image.fromarray(original), weights))


def extended(
    image: Image.Image, mask: Image.Image | None, sides: Sides, max_pixels: int
) -> tuple[Image.Image, Image.Image]:
    """Return an image with room on its sides, and a mask of that room: white, and as it was over the image.

    The room is filled from the outermost pixels. A mask of another size is stretched over the image.

    Raises:
        InvalidImage: the result is too large. It names no field.
        InvalidRequest: the room on a side is less than a pixel; `param` is the side.
    """
    width, height = image.size
    left, right, up, down = (
        _room(name, share, length)
        for name, share, length in zip(Sides._fields, sides, (width, width, height, height), strict=True)
    )
    extended_size = width + left + right, height + up + down
    _check_size(
        *extended_size, max_pixels, "With this room the image is", "Ask for less room, or scale the image down."
    )
    room = (up, down), (left, right)
    pixels = np.pad(np.array(_over(image, "white")), (*room, (0, 0)), mode="edge")
    changes = np.zeros((height, width), bool) if mask is None else resized_mask(mask, width, height, "stretch")
    return Image.fromarray(pixels), Image.fromarray(np.pad(changes, room, constant_values=True))


def _room(side: str, share: float, length: int) -> int:
    """Return the pixels of room on a side of an image."""
    pixels = round(length * share)
    if share and not pixels:
        message = f"{side} must be 0, or {1 / length:.2g} or more: {share:g} of {length} pixels is less than one."
        raise InvalidRequest(message, side)
    return pixels


def _over(image: Image.Image, background: str) -> Image.Image:
    """Return an image as RGB, over a background where it is transparent."""
    if image.mode != "RGBA":
        return image if image.mode == "RGB" else image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")


def _resized(image: Image.Image, width: int, height: int, mode: ResizeMode) -> Image.Image:
    if mode == "stretch":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    box = _cropped_box(image, width, height) if mode == "crop" else (0, 0, image.width, image.height)
    source_width, source_height = box[2] - box[0], box[3] - box[1]
    is_wider = width * source_height > height * source_width
    if is_wider == (mode == "crop"):
        size = width, max(1, source_height * width // source_width)
    else:
        size = max(1, source_width * height // source_height), height
    scaled = image.resize(size, Image.Resampling.LANCZOS, box)
    canvas = Image.new("RGB", (width, height))
    corner = width // 2 - scaled.width // 2, height // 2 - scaled.height // 2
    canvas.paste(scaled, corner)
    if mode == "fit":
        _extend_edges(canvas, scaled, *corner)
    return canvas


def _cropped_box(image: Image.Image, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the part of an image that is scaled for its crop: all of it, unless it is longer than memory bears."""
    part_width = min(image.width, max(1, MAX_EXCESS * image.height * width // height))
    part_height = min(image.height, max(1, MAX_EXCESS * image.width * height // width))
    left, top = (image.width - part_width) // 2, (image.height - part_height) // 2
    return left, top, left + part_width, top + part_height


def _extend_edges(canvas: Image.Image, scaled: Image.Image, left: int, top: int) -> None:
    """Fill what an image at (left, top) leaves free of its canvas, on two opposite sides, from its outermost pixels."""
    width, height = scaled.size
    if top > 0:
        for edge, at in ((0, 0), (height, top + height)):
            canvas.paste(scaled.resize((width, top), box=(0, edge, width, edge)), (0, at))
    elif left > 0:
        for edge, at in ((0, 0), (width, left + width)):
            canvas.paste(scaled.resize((left, height), box=(edge, 0, edge, height)), (at, 0))
