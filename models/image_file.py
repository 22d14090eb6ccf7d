"""An image as a file, in the format of its request, with its settings inside."""

import io
import json
from dataclasses import asdict

from PIL import Image, PngImagePlugin

from models.settings_text import settings_text
from models.spec import ImageSpec
from models.vae import Decoded


def encode_image(decoded: Decoded, spec: ImageSpec, digest: str) -> bytes:
    """Encode an image in its spec's format; a PNG carries its settings as text and as JSON."""
    image, target = Image.fromarray(decoded.pixels), io.BytesIO()
    if spec.output_format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("parameters", settings_text(spec))
        info.add_itxt(
            "darkroom", json.dumps(asdict(spec) | {"model_digest": digest, "tiled": decoded.tiled}, ensure_ascii=False)
        )
        image.save(target, "png", pnginfo=info)
    else:
        image.save(target, spec.output_format, quality=spec.output_compression)
    return target.getvalue()
