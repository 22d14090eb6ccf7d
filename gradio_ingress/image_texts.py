"""The texts that an image's file carries, by the keys that PNG has for them. No pixel is decoded. Pure."""

import io
import struct
from collections.abc import Iterator
from contextlib import suppress

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngStream

from models.errors import InvalidRequest

STEPS = "Steps: "  # begins AUTOMATIC1111's line of settings
FORMATS = ("PNG", "JPEG", "WEBP")
PNG_SIGNATURE_BYTES = 8
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
COMMENT_CODES = (b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", bytes(8))  # of EXIF: how a comment is encoded
BROKEN = (OSError, ValueError, SyntaxError, TypeError, LookupError, struct.error, Image.DecompressionBombError)


def read_texts(content: bytes) -> dict[str, str]:
    """Return a PNG's texts, or those that tools write into EXIF in place of them, by the same keys.

    Raises:
        InvalidRequest: not such a file.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.format == "PNG":
                return _png_texts(content)
            exif = image.getexif()
            return {"parameters": _user_comment(exif)} | _tagged_texts(exif)
    except BROKEN:
        raise InvalidRequest("This is not a PNG, JPEG or WebP picture that can be read.") from None


def format_of(content: bytes) -> str:
    """Return the format of a file whose texts were read, as requests name it."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return str(image.format).lower()


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


def _user_comment(exif: Image.Exif) -> str:
    """The first comment with settings: cameras write there too. Some tools put it beside the camera's entries."""
    comments = (folder.get(ExifTags.Base.UserComment) for folder in (exif.get_ifd(ExifTags.IFD.Exif), exif))
    readings = (text for comment in comments for text in _readings(comment))
    return next((text for text in readings if STEPS in text or (text[:1] == "{" and text[-1:] == "}")), "")


def _tagged_texts(exif: Image.Exif) -> dict[str, str]:
    """ComfyUI's texts, which begin with their keys, under what the camera is called."""
    parts = (str(exif.get(tag, "")).partition(":") for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    return {key: text for key, _, text in parts if key in ("prompt", "workflow")}


def _readings(comment: object) -> Iterator[str]:
    """What a comment could say. It may lack its code, or have that of another encoding; UTF-16's names no byte order.

    Of settings, one reading alone has their mark.
    """
    if isinstance(comment, str):  # of type ASCII, whose bytes Pillow takes for Latin-1, without a last NUL
        comment = comment.encode("latin-1", "replace")
    if not isinstance(comment, bytes):
        return
    for code in COMMENT_CODES:
        comment = comment.removeprefix(code)
    comment += bytes(len(comment) % 2)
    for encoding in ("utf-8", "utf-16-be", "utf-16-le", "latin-1"):
        with suppress(UnicodeDecodeError):
            text = comment.decode(encoding).strip("\0\ufeff")
            if "\0" not in text:  # as every other letter of UTF-16 is to the others
                yield text
