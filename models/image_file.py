"""An image as a file, in the format of its request, with its settings inside."""

import io
import json

from PIL import ExifTags, Image, PngImagePlugin

from models.compression import compression
from models.public_data import public_data
from models.settings_text import settings_text
from models.spec import ImageSpec
from models.vae import Decoded


def encode_image(decoded: Decoded, spec: ImageSpec, digest: str) -> bytes:
    """Encode an image in its spec's format, with its settings as AUTOMATIC1111 writes them; in a PNG as JSON too."""
    image, target = Image.fromarray(decoded.pixels), io.BytesIO()
    if spec.output_format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", settings_text(spec))  # tEXt where Latin-1 holds it: few tools read iTXt
        settings = public_data(spec) | {"model_digest": digest, "tiled": decoded.tiled}
        info.add_text("darkroom", json.dumps(settings, ensure_ascii=False))
        image.save(target, "png", pnginfo=info)
    else:
        image.save(target, spec.output_format, exif=_exif(settings_text(spec)), **compression(spec))
    return target.getvalue()


def _exif(text: str) -> Image.Exif:
    exif = Image.Exif()  # big-endian, and so are the code units of its text
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif
