"""An image as a file, in the format of its request, with its settings inside."""

import io
import json
from dataclasses import asdict
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from models.settings_text import settings_text
from models.spec import ImageSpec
from models.vae import Decoded

FULL_COLOR_QUALITY = 90  # of a JPEG; below it a colour sample covers 2x2 pixels, which halves the file
LOSSLESS_QUALITY = 100  # of a WebP


def encode_image(decoded: Decoded, spec: ImageSpec, digest: str) -> bytes:
    """Encode an image in its spec's format, with its settings as AUTOMATIC1111 writes them; in a PNG as JSON too."""
    image, target = Image.fromarray(decoded.pixels), io.BytesIO()
    if spec.output_format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", settings_text(spec))  # tEXt where Latin-1 holds it: few tools read iTXt
        info.add_text(
            "darkroom", json.dumps(asdict(spec) | {"model_digest": digest, "tiled": decoded.tiled}, ensure_ascii=False)
        )
        image.save(target, "png", pnginfo=info)
    else:
        image.save(target, spec.output_format, exif=_exif(settings_text(spec)), **_compression(spec))
    return target.getvalue()


def _exif(text: str) -> Image.Exif:
    exif = Image.Exif()  # big-endian, and so are the code units of its text
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif


def _compression(spec: ImageSpec) -> dict[str, Any]:
    quality = spec.output_compression
    if spec.output_format == "jpeg":
        return {"quality": quality, "subsampling": "4:4:4" if quality >= FULL_COLOR_QUALITY else "4:2:0"}
    return {"lossless": True} if quality >= LOSSLESS_QUALITY else {"quality": quality}
