"""How much an image's file is compressed, as Pillow's `save` takes it. No torch, no Pillow."""

from typing import Any

from models.spec import ImageSpec

FULL_COLOR_QUALITY = 90  # of a JPEG; below it a colour sample covers 2x2 pixels, which halves the file
LOSSLESS_QUALITY = 100  # of a WebP


def compression(spec: ImageSpec) -> dict[str, Any]:
    """Return the options that decide the pixels of the file; none for a PNG."""
    quality = spec.output_compression
    if spec.output_format == "png":
        return {}
    if spec.output_format == "jpeg":
        return {"quality": quality, "subsampling": "4:4:4" if quality >= FULL_COLOR_QUALITY else "4:2:0"}
    return {"lossless": True} if quality >= LOSSLESS_QUALITY else {"quality": quality}
