"""Image files of every kind, byte by byte where Pillow cannot write them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LINEAR = 256  # a gamma of 1.0 in a profile


def photo(width: int = 40, height: int = 24, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth image whose quarters differ, so that no orientation leaves it as it is."""
    random = np.random.default_rng(seed)
    rough = Image.fromarray(random.integers(0, 256, (3, 5, 4), np.uint8), "RGBA")
    image = rough.resize((width, height), Image.Resampling.BICUBIC)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as Pillow writes it."""
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, color: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG of any type; each of its rows begins with the number of its filter."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return PNG_SIGNATURE + header + b"".join(chunks) + data + chunk(b"IEND", b"")


def with_chunks(content: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks, right after its header."""
    return content[:33] + b"".join(chunks) + content[33:]


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def with_segments(content: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments, in front of its own."""
    return content[:2] + b"".join(segments) + content[2:]


def oriented(orientation: int) -> bytes:
    """EXIF with an orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a camera"
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def profile(tags: dict[bytes, bytes], space: bytes = b"RGB ", connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of a display, or of a press if its space is CMYK."""
    start, directory, data = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        directory += name + struct.pack(">II", start + len(data), len(value))
        data += value
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"", 0x02400000, b"mntr", space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + data


def curve(gamma: int) -> bytes:
    """A curve of a profile, its gamma in units of 1/256."""
    return struct.pack(">4s4xIH", b"curv", 1, gamma)


def xyz(x: float, y: float, z: float) -> bytes:
    """A colour of a profile."""
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in (x, y, z)))


def sampled_srgb_curve(count: int) -> bytes:
    """The curve of sRGB as a table, as scanners and cameras of the nineties have it."""
    signal = np.linspace(0, 1, count)
    light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return struct.pack(f">4s4xI{count}H", b"curv", count, *np.round(light * 65535).astype(int))


def rgb_profile(*, swapped: bool = False, tone: bytes = curve(LINEAR)) -> bytes:
    """A profile with the primaries of sRGB; with red and green swapped, nobody can miss that it was applied."""
    primaries = [xyz(0.4361, 0.2225, 0.0139), xyz(0.3851, 0.7169, 0.0971), xyz(0.1431, 0.0606, 0.7141)]
    names = (b"gXYZ", b"rXYZ", b"bXYZ") if swapped else (b"rXYZ", b"gXYZ", b"bXYZ")
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone)
    return profile(dict(zip(names, primaries, strict=True)) | curves | {b"wtpt": xyz(0.9642, 1, 0.8249)})


def table(inputs: int, levels: int, entries: bytes) -> bytes:
    """A table of a profile that turns `inputs` channels into three."""
    identity = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    return b"mft1" + bytes([0, 0, 0, 0, inputs, 3, levels, 0]) + matrix + identity * inputs + entries + identity * 3


def newer_table(levels: int, entries: bytes) -> bytes:
    """A table of a profile of version 4, of three channels."""
    curves = (b"para" + bytes(8) + struct.pack(">i", 65536)) * 3
    clut = bytes([levels] * 3).ljust(16, b"\0") + b"\1\0\0\0" + entries
    offsets = struct.pack(">5I", 32, 0, 0, 32 + 2 * len(curves), 32 + len(curves))
    return b"mAB " + bytes([0, 0, 0, 0, 3, 3, 0, 0]) + offsets + curves * 2 + clut


def cmyk_profile() -> bytes:
    """A press whose cyan ink is white and whose other inks are black."""
    white, black = bytes([255, 128, 128]), bytes([0, 128, 128])
    entries = b"".join(white if corner & 0b0111 == 0 else black for corner in range(16))  # cyan is the highest bit
    return profile({b"A2B0": table(4, 2, entries), b"wtpt": xyz(0.9642, 1, 0.8249)}, b"CMYK", b"Lab ")


def srgb_profile() -> bytes:
    """LittleCMS's own profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def every_kind() -> dict[str, bytes]:
    """A valid file of every kind that is accepted, by what it is."""
    color, gray, alpha = photo(), photo(mode="L"), photo(mode="RGBA")
    frames = [photo(seed=seed) for seed in (1, 2)]
    deep = b"".join(b"\0" + bytes(range(80)) for _ in range(3))
    icc, exif = rgb_profile(swapped=True), oriented(6)
    return {
        "png": saved(color, "png", exif=exif, icc_profile=icc),
        "png gray": saved(gray, "png"),
        "png gray and alpha": saved(photo(mode="L").convert("LA"), "png"),
        "png 1 bit": saved(photo(mode="1"), "png"),
        "png palette": saved(color.quantize(16), "png"),
        "png palette, transparent": saved(color.quantize(16), "png", transparency=bytes(range(16))),
        "png alpha": saved(alpha, "png"),
        "png 16 bit gray": png((40, 3), 16, 0, deep, chunk(b"tRNS", b"\0\1")),
        "png 16 bit": png((10, 3), 16, 6, deep),
        "apng": saved(frames[0], "png", save_all=True, append_images=frames[1:]),
        "jpeg": saved(color, "jpeg", exif=exif, icc_profile=icc),
        "jpeg gray": saved(gray, "jpeg"),
        "jpeg progressive": saved(color, "jpeg", progressive=True),
        "jpeg cmyk": saved(color.convert("CMYK"), "jpeg", icc_profile=cmyk_profile()),
        "mpo": saved(frames[0], "mpo", save_all=True, append_images=frames[1:]),
        "webp": saved(color, "webp", exif=exif, icc_profile=icc),
        "webp lossless": saved(alpha, "webp", lossless=True),
        "webp alpha": saved(alpha, "webp"),
        "webp animated": saved(frames[0], "webp", save_all=True, append_images=frames[1:]),
    }
