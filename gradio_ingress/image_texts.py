"""The texts that an image's file carries, by the keys that PNG has for them. No pixel is decoded. Pure."""

import io
import struct
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngStream

from models.errors import InvalidRequest

STEPS = "Steps: "  # begins the line of settings
PNG_SIGNATURE_BYTES = 8
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
BROKEN = (OSError, ValueError, SyntaxError, TypeError, LookupError, struct.error, Image.DecompressionBombError)


def read_texts(content: bytes) -> dict[str, str]:
    """Return a PNG's texts, or a JPEG's or WebP's EXIF comment as `parameters`, where AUTOMATIC1111 has the same.

    Raises:
        InvalidRequest: not such a file.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.format == "PNG":
                return _png_texts(content)
            return {"parameters": _user_comment(image.getexif().get_ifd(ExifTags.IFD.Exif))}
    except BROKEN:
        raise InvalidRequest("This is not a PNG, JPEG or WebP picture that can be read.") from None


def _png_texts(content: bytes) -> dict[str, str]:
    """The texts of all chunks: tools that rewrite a file put them after the pixels, which Pillow reads on decoding."""
    file = io.BytesIO(content)
    file.seek(PNG_SIGNATURE_BYTES)
    with PngStream(file) as stream:
        while len(content) - file.tell() > 8:  # a file that was cut off keeps what it has
            kind, position, length = stream.read()
            if kind == b"IEND" or position + length > len(content):
                break
            if kind in PNG_TEXTS:
                stream.call(kind, position, length)
            file.seek(position + length + 4)  # beyond its checksum
        return dict(stream.im_text)


def _user_comment(exif: Mapping[int, Any]) -> str:
    """EXIF's comment, if it has settings: cameras write there too.

    Its first eight bytes name the encoding, but do not tell the order of UTF-16's bytes.
    """
    comment = exif.get(ExifTags.Base.UserComment, "")
    if not isinstance(comment, bytes):
        readings = [str(comment)]
    elif comment.startswith(b"UNICODE\0"):
        readings = [comment[8:].decode(order, errors="replace") for order in ("utf-16-be", "utf-16-le")]
    else:
        readings = [comment[8:].decode(errors="replace")]
    return next((text.rstrip("\0") for text in readings if STEPS in text), "")
