"""An image file taken apart into its size, its pixels, its EXIF and its colour profile, without an image library.

Pillow reads a file's metadata before its caller learns the image's size, and a hostile file can exploit that: 8 MB of
small EXIF segments take 5 s, and an animated PNG allocates its canvas. So Pillow gets a file of the pixels alone.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from models.errors import InvalidImage

ACCEPTED = "PNG, JPEG or WebP"
MAX_BLOCKS = 20_000  # of a file: chunks or segments. The most that files of 20 MB were seen to have is 5,000
MAX_SCANS = 50  # of a progressive JPEG, each of which costs a pass over the image; encoders write about 10
MAX_TABLES = 64  # segments that a JPEG has in front of its pixels, metadata excluded; encoders write about 10
MAX_PROFILE_BYTES = 4 * 2**20  # of a colour profile; those of printing presses take 3 MB

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAYSCALE, TRUECOLOR, PALETTE = 0, 2, 3  # colour types of a PNG
EXIF_PREFIX = b"Exif\0\0"
EOI, SOS = 0xD9, 0xDA  # markers of a JPEG
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
TABLES = {0xC4, 0xCC, 0xDB, 0xDD}  # Huffman, arithmetic, quantization, restart interval
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # a stuffed 0xFF and restarts are parts of the pixels

OTHER_TYPES = (  # how files begin that people take for images that can be read here
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"BM", "a BMP image"),
    (b"\0\0\1\0", "an ICO image"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
)
TEXT_TYPES = ((b"<svg", "an SVG image"), (b"<html", "an HTML page"), (b"<!doctype html", "an HTML page"))


class Container(NamedTuple):
    """One image file. `pixels` is a file of the same format that holds the first image and no metadata.

    `exif` and `profile` are as the file has them, unread; empty where it has none.
    """

    format: str
    width: int
    height: int
    pixels: bytes
    exif: bytes
    profile: bytes


def read_container(content: bytes) -> Container:
    """Take a file apart. An animation is its still image, or its first frame; what follows the image is dropped.

    Raises:
        InvalidImage: it is of another type, ends too early, has a wrong checksum or is built like no real file.
    """
    for kind, begins, read in READERS:
        if begins(content):
            try:
                return read(content)
            except struct.error:
                raise truncated(kind) from None
    raise InvalidImage(f"The file is {_type_of(content)}. Send a {ACCEPTED} file.")


def damaged(kind: str) -> InvalidImage:
    """Return the error for a file that no decoder understands."""
    return InvalidImage(f"The {kind} file is damaged, or of a rare kind that cannot be read. Save the image again.")


def truncated(kind: str) -> InvalidImage:
    """Return the error for a file that ends too early."""
    return InvalidImage(f"The {kind} file is truncated: it ends before the image does. Send the whole file.")


def _type_of(content: bytes) -> str:
    """Return what a file is that is not accepted, as far as its first bytes tell."""
    if not content:
        return "empty"
    for begin, name in OTHER_TYPES:
        if content.startswith(begin):
            return name
    if content[4:8] == b"ftyp":
        return "an AVIF image" if content[8:12] in (b"avif", b"avis") else "a HEIC image or a video"
    head = content[:1024].lower()
    for part, name in TEXT_TYPES:
        if part in head:
            return name
    return "text" if head.isascii() and b"\0" not in head else "not an image of a known type"


def _read_png(content: bytes) -> Container:
    """Take a PNG apart. Of an animated one this is the image that programs without animation show."""
    chunks: dict[bytes, bytes] = {}
    data: list[memoryview] = []
    for kind, chunk in _png_chunks(content):
        if kind == b"IDAT":
            data.append(chunk)
        elif kind in (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf"):
            if kind in chunks:
                raise damaged("PNG")
            chunks[kind] = bytes(chunk)
    header = chunks.get(b"IHDR", b"")
    if len(header) != 13 or not data:
        raise damaged("PNG")
    width, height, depth, color = struct.unpack_from(">IIBB", header)
    if color == PALETTE and not chunks.get(b"PLTE"):
        raise damaged("PNG")
    kept = [(b"IHDR", header)]
    if color == PALETTE:
        kept.append((b"PLTE", chunks[b"PLTE"]))
    if b"tRNS" in chunks and color in (GRAYSCALE, TRUECOLOR, PALETTE):
        kept.append((b"tRNS", _transparency(chunks[b"tRNS"], depth, color)))
    kept += [(b"IDAT", b"".join(data)), (b"IEND", b"")]
    pixels = PNG_SIGNATURE + b"".join(_png_chunk(kind, chunk) for kind, chunk in kept)
    return Container("PNG", width, height, pixels, chunks.get(b"eXIf", b""), _png_profile(chunks.get(b"iCCP", b"")))


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield type and data of each chunk up to the last, with its checksum verified."""
    position, view = len(PNG_SIGNATURE), memoryview(content)
    for _ in range(MAX_BLOCKS):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        if struct.unpack_from(">I", content, end)[0] != zlib.crc32(view[position + 4 : end]):
            raise damaged("PNG")
        yield kind, view[position + 8 : end]
        if kind == b"IEND":
            return
        position = end + 4
    raise damaged("PNG")


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _transparency(chunk: bytes, depth: int, color: int) -> bytes:
    """Return a tRNS chunk whose colour has the depth of the pixels that Pillow decodes: 8 bits, or 16 of gray."""
    if color == PALETTE:
        return chunk
    if len(chunk) != (2 if color == GRAYSCALE else 6) or depth not in (1, 2, 4, 8, 16):
        raise damaged("PNG")
    samples = [sample % 2**depth for sample in struct.unpack(f">{len(chunk) // 2}H", chunk)]
    if color == TRUECOLOR and depth == 16:
        samples = [sample >> 8 for sample in samples]
    elif depth < 8:
        samples = [sample * 255 // (2**depth - 1) for sample in samples]
    return struct.pack(f">{len(samples)}H", *samples)


def _png_profile(chunk: bytes) -> bytes:
    """Return the colour profile of an iCCP chunk, decompressed; empty where it is broken or beyond its bound."""
    compressed = chunk.partition(b"\0")[2][1:]
    try:
        profile = zlib.decompressobj().decompress(compressed, MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return b""
    return _bounded_profile(profile)


def _read_jpeg(content: bytes) -> Container:
    """Take a JPEG apart. Of a phone's MPO file, or one with a gain map, this is the first image."""
    tables, profile, exif, size = [], [], b"", None
    scans = pixels_start = pixels_end = 0
    for marker, start, end in _jpeg_segments(content):
        data = slice(start + 4, end)
        if marker in FRAMES:
            if size:
                raise damaged("JPEG")
            size = struct.unpack_from(">HH", content, start + 5)
        if marker == SOS:
            scans += 1
            pixels_start = pixels_start or start
        elif marker == EOI:
            pixels_end = end
        elif marker == 0xE1 and content.startswith(EXIF_PREFIX, data.start):
            exif = exif or content[data]
        elif marker == 0xE2 and content.startswith(b"ICC_PROFILE\0", data.start):
            profile.append(content[data][12:])
        elif not scans and _is_needed(marker, content[data]):
            tables.append(content[start:end])
    if not size or not scans or scans > MAX_SCANS or len(tables) > MAX_TABLES:
        raise damaged("JPEG")
    pixels = b"\xff\xd8" + b"".join(tables) + content[pixels_start:pixels_end]
    return Container("JPEG", size[1], size[0], pixels, exif, _jpeg_profile(profile))


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment of the first image as marker, start and end; the pixels of a scan follow its segment."""
    position = 2
    for _ in range(MAX_BLOCKS):
        found = MARKER.search(content, position)
        if not found:
            raise truncated("JPEG")
        marker, start = found[1][0], found.start()
        if marker == EOI:
            yield marker, start, start + 2
            return
        position = start + 2 + struct.unpack_from(">H", content, start + 2)[0]
        if position < start + 4:
            raise damaged("JPEG")
        if position > len(content):
            raise truncated("JPEG")
        yield marker, start, position
    raise damaged("JPEG")


def _is_needed(marker: int, data: bytes) -> bool:
    """Return whether pixels are decoded with this segment: a frame, tables, or how its colours are meant."""
    return (
        marker in FRAMES | TABLES
        or (marker == 0xE0 and data.startswith(b"JFIF"))
        or (marker == 0xEE and data.startswith(b"Adobe"))
    )


def _jpeg_profile(parts: list[bytes]) -> bytes:
    """Return the colour profile of numbered parts; empty where one is missing or it is beyond its bound."""
    parts = sorted(parts)  # each begins with its number and the number of all
    if [tuple(part[:2]) for part in parts] != [(number, len(parts)) for number in range(1, len(parts) + 1)]:
        return b""
    return _bounded_profile(b"".join(part[2:] for part in parts))


def _bounded_profile(profile: bytes) -> bytes:
    return profile if len(profile) <= MAX_PROFILE_BYTES else b""


def _read_webp(content: bytes) -> Container:
    """Take a WebP apart. Its pixels are the whole file: only its decoder finds the first frame of an animation."""
    chunks: dict[bytes, bytes] = {}
    end = 0
    for kind, start, end in _webp_chunks(content):
        if kind in (b"ICCP", b"EXIF"):
            chunks.setdefault(kind, content[start:end])
    width, height = _webp_size(content)
    profile = _bounded_profile(chunks.get(b"ICCP", b""))
    return Container("WebP", width, height, content, chunks.get(b"EXIF", b""), profile)


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the data of each chunk."""
    position, file_end = 12, 8 + struct.unpack_from("<I", content, 4)[0]
    if file_end > len(content):
        raise truncated("WebP")
    for _ in range(MAX_BLOCKS):
        if position + 8 > file_end:
            return
        kind, length = struct.unpack_from("<4sI", content, position)
        start, end = position + 8, position + 8 + length
        if end > file_end:
            raise damaged("WebP")
        yield kind, start, end
        position = end + length % 2
    raise damaged("WebP")


def _webp_size(content: bytes) -> tuple[int, int]:
    """Return the size that a WebP's first chunk gives: a canvas, or a frame of one of two kinds."""
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return 1 + bits % 2**14, 1 + (bits >> 14) % 2**14
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width % 2**14, height % 2**14
    raise damaged("WebP")


READERS: tuple[tuple[str, Callable[[bytes], bool], Callable[[bytes], Container]], ...] = (
    ("PNG", lambda content: content.startswith(PNG_SIGNATURE), _read_png),
    ("JPEG", lambda content: content.startswith(b"\xff\xd8\xff"), _read_jpeg),
    ("WebP", lambda content: content[:4] == b"RIFF" and content[8:12] == b"WEBP", _read_webp),
)
