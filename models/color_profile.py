"""The colours of an image file as sRGB: what its ICC profile says about its numbers is applied, with LittleCMS."""

import io
import math
import struct
from functools import cache

import numpy as np
from PIL import Image, ImageCms

CHANNELS = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # a profile's colour space -> Pillow's mode of its colours
PROBE_STEP = 15  # between the levels of a channel at which a profile is compared with sRGB
SAME_COLOR = 1  # levels, of 255, by which variants of sRGB differ


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image of mode L, RGB or CMYK as RGB, its colours converted from its profile.

    Without a profile gray and RGB are taken for sRGB, and CMYK is converted without regard to inks. A profile that
    is broken or belongs to another kind of image is no profile, as for web browsers. One that is sRGB in all but name
    changes nothing.
    """
    mode = CHANNELS.get(profile[16:20])
    if mode == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    transform = _transform(profile, image.mode) if mode == image.mode and _is_bounded(profile) else None
    if transform is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    return image if mode == "RGB" and _keeps_colors(transform) else transform.apply(image)


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts an image of a mode, as photo editors do by default; None where the profile is broken."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
    except (ImageCms.PyCMSError, OSError):
        return None


def _keeps_colors(transform: ImageCms.ImageCmsTransform) -> bool:
    change = np.asarray(transform.apply(_probe()), np.int16) - np.asarray(_probe(), np.int16)
    return bool(np.abs(change).max() <= SAME_COLOR)


@cache
def _probe() -> Image.Image:
    """All colours at some levels, one a pixel."""
    levels = np.arange(0, 256, PROBE_STEP).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3))


def _is_bounded(profile: bytes) -> bool:
    """Return whether a profile's cost is bounded by its bytes.

    LittleCMS allocates a table before it reads it, and lets 80 kB of repeated elements take 15 s. Photographs and
    presses have no profiles of such elements.
    """
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        tags = [struct.unpack_from(">4x2I", profile, 132 + 12 * index) for index in range(min(count, 101))]
        return count <= 100 and all(_tag_is_bounded(profile[start : start + size]) for start, size in tags)
    except (struct.error, IndexError, ValueError):
        return False


def _tag_is_bounded(tag: bytes) -> bool:
    kind = tag[:4]
    if kind in (b"mft1", b"mft2"):
        inputs, outputs, levels = tag[8:11]
        return levels**inputs * outputs <= len(tag)
    if kind in (b"mAB ", b"mBA "):
        inputs, outputs, (table,) = tag[8], tag[9], struct.unpack_from(">I", tag, 24)
        levels = tag[table : table + inputs] if table else b""
        return math.prod(levels) * outputs <= len(tag)
    return kind != b"mpet"
