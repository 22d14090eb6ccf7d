"""Every kind of PNG, JPEG and WebP becomes upright sRGB of 8 bits; all else is refused, fast and in little memory."""

import io
import resource
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from models.errors import InvalidImage, InvalidRequest
from models.image_container import MAX_BLOCKS, MAX_SCANS, MAX_TABLES
from models.image_input import Sides, extended, read_image
from tests.image_files import (
    chunk,
    cmyk_profile,
    curve,
    every_kind,
    newer_table,
    oriented,
    photo,
    png,
    profile,
    rgb_profile,
    sampled_srgb_curve,
    saved,
    segment,
    srgb_profile,
    table,
    with_chunks,
    with_segments,
    xyz,
)

pytestmark = pytest.mark.filterwarnings("error")
MIB = 2**20
GRAY, RGB, PALETTE, RGBA = 0, 2, 3, 6
RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)
LOSSLESS = ("png", "webp")


def read(content: bytes, max_pixels: int = 1_000_000) -> Image.Image:
    return read_image(content, max_pixels)


def pixels(content: bytes) -> list[list]:
    """All pixels of a file, row by row."""
    return np.asarray(read(content)).tolist()


def refusal(content: bytes, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(InvalidImage) as raised:
        read(content, max_pixels)
    return raised.value.message


def plain(kind: str, size: tuple[int, int] = (8, 8), color: object = RED) -> bytes:
    return saved(Image.new("RGB", size, color), kind, **({"lossless": True} if kind == "webp" else {}))


def plain_png_with(icc: bytes) -> bytes:
    return saved(Image.new("RGB", (8, 8), BLACK), "png", icc_profile=icc)


@contextmanager
def within(seconds: float, more_bytes: int) -> Iterator[None]:
    """Expect a block to take so much time of a core and so much memory; beyond 1 GiB it gets none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**30, hard))
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    held, begun = peak_bytes(), time.thread_time()
    try:
        yield
    finally:
        taken, grown = time.thread_time() - begun, peak_bytes() - held
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert taken < seconds
    assert grown < more_bytes, f"{grown / MIB:.0f} MiB"


def peak_bytes() -> int:
    """The most memory that this process held since the peak was reset."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def rows(*lines: bytes) -> bytes:
    return b"".join(b"\0" + line for line in lines)


def samples(*levels: int) -> bytes:
    return struct.pack(f">{len(levels)}H", *levels)


# What is read


@pytest.mark.parametrize("kind", every_kind())
def test_every_kind_of_file_is_read_as_rgb_or_rgba_of_8_bits(kind: str) -> None:
    image = read(every_kind()[kind])
    assert image.mode == ("RGBA" if any(word in kind for word in ("alpha", "transparent", "lossless", "16")) else "RGB")
    assert sum(image.size) in (64, 43, 13)


@pytest.mark.parametrize(
    "kind", ["png gray", "png gray and alpha", "png 1 bit", "png palette", "png palette, transparent", "png alpha"]
)
def test_a_png_has_the_pixels_that_pillow_gives(kind: str) -> None:
    content = every_kind()[kind]
    image = read(content)
    with Image.open(io.BytesIO(content)) as by_pillow:
        assert np.array_equal(np.asarray(image), np.asarray(by_pillow.convert(image.mode)))


def test_of_16_bits_a_channel_the_upper_8_remain() -> None:
    gray = png((4, 1), 16, GRAY, rows(samples(0, 255, 256, 65535)))
    assert pixels(gray) == [[[0] * 3, [0] * 3, [1] * 3, [255] * 3]]
    color = png((1, 2), 16, RGB, rows(samples(0x1234, 0xFF00, 0x00FF), samples(0, 0, 0)))
    assert pixels(color) == [[[0x12, 0xFF, 0]], [[0, 0, 0]]]
    assert pixels(png((1, 1), 16, RGBA, rows(samples(0x1234, 0, 0, 0x80FF)))) == [[[0x12, 0, 0, 0x80]]]


@pytest.mark.parametrize(
    ("depth", "color", "row", "key"),
    [
        (1, GRAY, b"\x40", samples(1)),
        (2, GRAY, b"\x10", samples(1)),
        (4, GRAY, b"\x05", samples(5)),
        (8, GRAY, b"\0\x07", samples(7)),
        (16, GRAY, samples(0x0701, 0x0702), samples(0x0702)),
        (8, RGB, b"\0\0\0\1\2\3", samples(1, 2, 3)),
        (16, RGB, samples(0, 0, 0, 0x100, 0x200, 0x300), samples(0x100, 0x200, 0x300)),
    ],
)
def test_one_color_of_a_png_is_transparent_at_every_depth(depth: int, color: int, row: bytes, key: bytes) -> None:
    [[first, second]] = pixels(png((2, 1), depth, color, rows(row), chunk(b"tRNS", key)))
    assert (first[3], second[3]) == (255, 0)


def test_entries_of_a_palette_are_as_transparent_as_the_file_says() -> None:
    palette, alphas = chunk(b"PLTE", bytes([*RED, *GREEN, 9, 9, 9])), chunk(b"tRNS", bytes([255, 100]))
    content = png((3, 1), 8, PALETTE, rows(bytes([0, 1, 2])), palette, alphas)
    assert pixels(content) == [[[*RED, 255], [*GREEN, 100], [9, 9, 9, 255]]]


def test_an_interlaced_png_is_read() -> None:
    whole = bytearray(png((1, 1), 8, GRAY, rows(b"\x50")))
    header = whole[16:28] + b"\1"
    assert pixels(bytes(whole[:8]) + chunk(b"IHDR", bytes(header)) + bytes(whole[33:])) == [[[0x50] * 3]]


def test_a_cmyk_jpeg_is_read_as_adobe_writes_it() -> None:
    inked = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    [red, green, blue] = pixels(saved(inked, "jpeg", quality=100))[0][0]
    assert red > 250
    assert max(green, blue) < 5


def test_a_cmyk_jpeg_with_a_profile_is_printed_with_its_inks() -> None:
    cyan = saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "jpeg", quality=100)
    assert pixels(cyan)[0][0][0] < 5
    printed = saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "jpeg", quality=100, icc_profile=cmyk_profile())
    assert min(pixels(printed)[0][0]) > 250  # the cyan ink of this press is white


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(kind: str, orientation: int) -> None:
    content = saved(photo(), kind, exif=oriented(orientation))
    with Image.open(io.BytesIO(content)) as by_pillow:
        assert np.array_equal(np.asarray(read(content)), np.asarray(ImageOps.exif_transpose(by_pillow)))
    assert read(content).size == ((40, 24) if orientation < 5 else (24, 40))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("orientation", "turned"), [(6, True), (0, False), (9, False), (65535, False)], ids=["6", "0", "9", "65535"]
)
def test_an_orientation_counts_from_1_to_8_in_either_byte_order(order: str, orientation: int, turned: bool) -> None:
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    exif = head + struct.pack(order + "HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    assert (read(with_chunks(saved(photo(), "png"), chunk(b"eXIf", exif))).size == (24, 40)) == turned


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"?"]
)
def test_exif_that_cannot_be_read_counts_as_absent(exif: bytes) -> None:
    image = photo()
    assert np.array_equal(read(with_chunks(saved(image, "png"), chunk(b"eXIf", exif))), image)


def test_of_two_exif_segments_the_first_counts() -> None:
    content = with_segments(saved(photo(), "jpeg"), *(segment(0xE1, oriented(turn)) for turn in (1, 6)))
    assert read(content).size == (40, 24)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_of_an_animation_the_first_frame_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN)]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert pixels(content)[0][0] == list(RED)


def test_of_a_png_whose_animation_lacks_its_image_the_image_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (GREEN, BLACK)]
    still = saved(Image.new("RGB", (8, 8), RED), "png", save_all=True, append_images=frames, default_image=True)
    assert pixels(still)[0][0] == list(RED)


def test_of_a_phones_mpo_file_the_first_image_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (WHITE, BLACK)]
    assert pixels(saved(frames[0], "mpo", save_all=True, append_images=frames[1:]))[0][0] == list(WHITE)


@pytest.mark.parametrize("kind", every_kind())
def test_what_follows_an_image_in_its_file_is_dropped(kind: str) -> None:
    content = every_kind()[kind]
    assert np.array_equal(read(content + b"\xff\xd9 something else \xff\xd8"), read(content))


# Colour profiles


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colors_of_a_profile_are_converted_to_srgb_and_transparency_is_kept(kind: str, mode: str) -> None:
    image = Image.new(mode, (8, 8), (255, 0, 0, 77)[: len(mode)])
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    converted = pixels(saved(image, kind, icc_profile=rgb_profile(swapped=True), **options))[0][0]
    assert converted == [*GREEN, 77][: len(mode)]


def test_a_linear_profile_makes_half_of_the_light_188() -> None:
    half = Image.new("RGB", (8, 8), (128, 128, 128))
    assert pixels(saved(half, "png", icc_profile=rgb_profile()))[0][0] == [188] * 3
    gray = profile({b"kTRC": curve(256), b"wtpt": xyz(0.9642, 1, 0.8249)}, b"GRAY")
    assert pixels(saved(half.convert("L"), "png", icc_profile=gray))[0][0] == [188] * 3
    assert pixels(saved(half.convert("LA"), "png", icc_profile=gray))[0][0] == [188] * 3 + [255]
    assert pixels(saved(half, "jpeg", icc_profile=rgb_profile()))[0][0] == [188] * 3


def test_a_gray_image_may_have_a_profile_of_rgb() -> None:
    assert pixels(saved(Image.new("L", (8, 8), 128), "png", icc_profile=rgb_profile()))[0][0] == [188] * 3


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("srgb", [srgb_profile(), rgb_profile(tone=sampled_srgb_curve(1024))], ids=["formula", "table"])
def test_a_profile_of_srgb_changes_no_bit(kind: str, srgb: bytes) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    content = saved(photo(), kind, icc_profile=srgb, **options)
    assert np.array_equal(read(content), photo())


def test_a_profile_whose_curve_is_nearly_that_of_srgb_is_applied() -> None:
    content = saved(photo(), "png", icc_profile=rgb_profile(tone=curve(round(2.2 * 256))))
    change = np.abs(np.asarray(read(content), int) - np.asarray(photo(), int)).max()
    assert 2 <= change <= 10


@pytest.mark.parametrize("of_version", ["2", "4"])
def test_a_profile_with_a_table_is_applied(of_version: str) -> None:
    white = bytes([255, 128, 128]) * 8
    tag = table(3, 2, white) if of_version == "2" else newer_table(2, white)
    icc = profile({b"A2B0": tag, b"wtpt": xyz(0.9642, 1, 0.8249)}, b"RGB ", b"Lab ")
    assert min(pixels(plain_png_with(icc))[0][0]) > 250


@pytest.mark.parametrize(
    "broken",
    [
        b"not a profile",
        rgb_profile(swapped=True)[:200],
        rgb_profile(swapped=True).replace(b"acsp", b"ACSP"),
        rgb_profile(swapped=True).replace(b"RGB ", b"CMYK"),
        profile({}),
        rgb_profile(swapped=True) + bytes(5 * MIB),
    ],
    ids=["text", "cut", "signature", "another kind of image", "empty", "5 MiB"],
)
def test_a_profile_that_cannot_be_read_counts_as_absent(broken: bytes) -> None:
    assert np.array_equal(read(saved(photo(), "png", icc_profile=broken)), photo())
    assert np.array_equal(read(saved(photo(), "webp", lossless=True, icc_profile=broken)), photo())


def test_a_jpegs_profile_may_come_in_parts_and_in_any_order() -> None:
    content, icc = plain("jpeg", color=(128, 128, 128)), rgb_profile()
    parts = [segment(0xE2, b"ICC_PROFILE\0" + bytes([n + 1, 2]) + icc[n * 200 :][:200]) for n in range(2)]
    assert len(icc) > 200
    parts[1] = segment(0xE2, b"ICC_PROFILE\0" + bytes([2, 2]) + icc[200:])
    assert pixels(with_segments(content, *parts))[0][0] == [188] * 3
    assert pixels(with_segments(content, *parts[::-1]))[0][0] == [188] * 3
    assert pixels(with_segments(content, parts[0]))[0][0] == [128] * 3


# What is refused


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "empty"),
        (plain("gif"), "a GIF image"),
        (plain("tiff"), "a TIFF image"),
        (plain("bmp"), "a BMP image"),
        (plain("ico"), "an ICO image"),
        (plain("avif"), "an AVIF image"),
        (b"\0\0\0\x18ftypheic", "a HEIC image or a video"),
        (saved(photo(), "jpeg2000"), "a JPEG 2000 image"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG image"),
        (b"<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"%PDF-1.7", "a PDF"),
        (b"a photo of a cat", "text"),
        (b"\x00\x01\x02\x03", "not an image of a known type"),
        (b"RIFF\0\0\0\0WAVE", "not an image of a known type"),
    ],
)
def test_a_file_of_another_type_is_named_with_those_that_are_accepted(content: bytes, name: str) -> None:
    assert refusal(content) == f"The file is {name}. Send a PNG, JPEG or WebP file."


@pytest.mark.parametrize("kind", every_kind())
def test_a_file_that_ends_anywhere_before_its_end_is_refused(kind: str) -> None:
    content = every_kind()[kind]
    end = content.index(b"\xff\xd9") if kind == "mpo" else len(content)
    for length in range(16, end - 1, 7):
        assert "truncated" in refusal(content[:length])
    assert "truncated" in refusal(content[: end - 1])


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_image_beyond_the_bound_is_told_its_size_and_the_bound(kind: str) -> None:
    message = refusal(plain(kind, (300, 200)), 59_999)
    assert message == "The image is 300x200, 60,000 pixels; the limit is 59,999. Scale it down."
    assert read(plain(kind, (300, 200)), 60_000).size == (300, 200)


def test_an_image_without_pixels_or_with_a_side_that_no_jpeg_has_is_refused() -> None:
    for size in ((0, 8), (8, 0), (65_536, 1)):
        assert f"{size[0]}x{size[1]} pixels; each side must be from 1 to 65,535" in refusal(png(size, 8, GRAY, b""))
    whole = bytearray(plain("jpeg"))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 7] = b"\0\0"
    assert "8x0 pixels" in refusal(bytes(whole))


def test_a_file_whose_checksum_is_wrong_is_damaged() -> None:
    content = bytearray(saved(photo(), "png"))
    content[-20] ^= 1
    assert refusal(bytes(content)).startswith("The PNG file is damaged, or of a rare kind that cannot be read.")


@pytest.mark.parametrize(
    "content",
    [
        png((8, 8), 8, 5, rows(*[bytes(8)] * 8)),
        png((8, 8), 3, GRAY, rows(*[bytes(8)] * 8)),
        png((8, 8), 8, PALETTE, rows(*[bytes(8)] * 8)),
        png((8, 8), 8, GRAY, b"\x09" * 72),
        png((8, 8), 8, GRAY, b"", chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))),
        plain("jpeg").replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
        plain("jpeg").replace(b"\xff\xc0", b"\xff\xc3"),
        plain("webp").replace(b"VP8L", b"VP8?"),
        b"\xff\xd8\xff\xd9",
    ],
    ids=["color type", "depth", "no palette", "filter", "two headers", "12 bits", "lossless jpeg", "chunk", "no jpeg"],
)
def test_a_file_that_no_decoder_understands_is_damaged(content: bytes) -> None:
    assert "is damaged" in refusal(content)


def test_a_refusal_is_a_bad_request_that_names_no_field() -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(b"")
    assert raised.value.code == "invalid_image"
    assert raised.value.param is None


# What is hostile


def animated_bomb(side: int = 60_000) -> bytes:
    """A PNG whose first frame asks for a canvas, of 14 GB by default, when the file is opened."""
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 1, 1, 0))
    return png((side, side), 8, RGBA, b"", control, frame)


def webp_bomb() -> bytes:
    """A WebP with a canvas of 2 GB."""
    data = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + (16382).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def jpeg_bomb() -> bytes:
    content = plain("jpeg")
    frame = content.index(b"\xff\xc0")
    return content[: frame + 5] + b"\xff\xff\xff\xff" + content[frame + 9 :]


def endless_scans() -> bytes:
    """A progressive JPEG of 25 MP that is gone over thousands of times."""
    content = saved(Image.new("RGB", (5000, 5000)), "jpeg", progressive=True)
    scan = content.rindex(b"\xff\xda")
    return content[:scan] + content[scan:-2] * 5000 + content[-2:]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "an image of 60,000 x 60,000 in a PNG": lambda: png((60_000, 60_000), 8, RGBA, b""),
    "an image of 60,000 x 60,000 in an animated PNG": animated_bomb,
    "an image of 65,535 x 65,535 in a JPEG": jpeg_bomb,
    "an image of 16,383 x 16,383 in a WebP": webp_bomb,
    "chunks": lambda: with_chunks(plain("png"), chunk(b"teSt", b"") * (MAX_BLOCKS + 1)),
    "16 MiB of chunks": lambda: with_chunks(plain("png"), chunk(b"IDAT", b"") * (16 * MIB // 12)),
    "segments": lambda: with_segments(plain("jpeg"), segment(0xE5, b"") * (MAX_BLOCKS + 1)),
    "16 MiB of EXIF": lambda: with_segments(plain("jpeg"), segment(0xE1, b"Exif\0\0.") * (16 * MIB // 11)),
    "16 MiB of nothing": lambda: plain("jpeg")[:20] + bytes(16 * MIB),
    "16 MiB of 0xFF": lambda: plain("jpeg")[:20] + b"\xff" * 16 * MIB,
    "tables": lambda: with_segments(plain("jpeg"), segment(0xDB, b"\0" + bytes(64)) * (MAX_TABLES + 1)),
    "scans": endless_scans,
    "WebP chunks": lambda: b"RIFF" + struct.pack("<I", 16 * MIB + 4) + b"WEBP" + b"VP8 \0\0\0\0" * (2 * MIB),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_within_a_second_and_64_mib(name: str) -> None:
    content = HOSTILE[name]()
    with within(seconds=1, more_bytes=64 * MIB):
        message = refusal(content, 32_000_000)
    assert ("the limit is 32,000,000" in message) == name.startswith("an image of")


def test_the_bound_of_memory_is_one_that_pillow_alone_exceeds() -> None:
    with pytest.raises(AssertionError, match="MiB"), within(seconds=1, more_bytes=64 * MIB):
        PngImagePlugin.PngImageFile(io.BytesIO(animated_bomb(6000)))


HARMLESS = {
    "16 MiB of compressed text": lambda: chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(16 * MIB))) * 20,
    "a compressed profile of 64 MiB": lambda: chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 * MIB))),
    "8 MiB of EXIF": lambda: chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\0\1\0\7\0\x80\0\0\0\0\0\0" * 699_050),
    "a profile of many elements": lambda: chunk(b"iCCP", b"a\0\0" + zlib.compress(repeated_elements())),
    "a profile of a large table": lambda: chunk(b"iCCP", b"a\0\0" + zlib.compress(large_table())),
    "a newer profile of a large table": lambda: chunk(b"iCCP", b"a\0\0" + zlib.compress(newer_large_table())),
}


def repeated_elements() -> bytes:
    """A profile for which LittleCMS needs 15 s: 10,000 times the same step."""
    step = b"matf" + struct.pack(">4xHH12f", 3, 3, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
    many = b"mpet" + struct.pack(">4xHHI", 3, 3, 10_000) + struct.pack(">II", 16 + 80_000, len(step)) * 10_000 + step
    return profile({b"D2B0": many, b"A2B0": table(3, 2, bytes(24))})


def large_table() -> bytes:
    """A profile of 3 kB that says that its table has 50 million entries."""
    return profile({b"A2B0": table(3, 255, bytes(24))})


def newer_large_table() -> bytes:
    return profile({b"A2B0": newer_table(255, bytes(24))}, b"RGB ", b"Lab ")


@pytest.mark.parametrize("name", HARMLESS)
def test_hostile_metadata_is_dropped_within_a_second_and_64_mib(name: str) -> None:
    content = with_chunks(saved(photo(), "png"), HARMLESS[name]())
    with within(seconds=1, more_bytes=64 * MIB):
        image = read(content)
    assert np.array_equal(image, photo())


def test_a_progressive_jpeg_of_as_many_scans_as_may_be_is_read() -> None:
    content = saved(photo(), "jpeg", progressive=True)
    scan = content.rindex(b"\xff\xda")
    repeated = content[:scan] + content[scan:-2] * (MAX_SCANS - content.count(b"\xff\xda") + 1) + content[-2:]
    assert read(repeated).size == (40, 24)
    assert "damaged" in refusal(repeated[:-2] + content[scan:])


def test_pillows_globals_are_neither_used_nor_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 10)
    content = saved(photo(), "png", icc_profile=srgb_profile())
    threads = [threading.Thread(target=read, args=(content,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(read(content), photo())
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (10, False)


def test_running_out_of_memory_is_not_blamed_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MemoryError):
        read(plain("png"))


def test_room_on_the_sides_of_an_image_has_its_outermost_pixels_and_is_what_changes() -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    wide, mask = extended(image, None, Sides(left=0.5, down=1.0), 20)
    assert (wide.size, mask.size) == ((3, 4), (3, 4))
    pixels, original = np.array(wide), np.array(image)
    assert (pixels[:2, 1:] == original).all()
    assert (pixels[:2, 0] == original[:, 0]).all()
    assert (pixels[3, 1:] == original[1]).all()
    assert np.array(mask).tolist() == [[True, False, False]] * 2 + [[True] * 3] * 2


def test_a_mask_stays_part_of_the_mask_of_the_room() -> None:
    old = Image.fromarray(np.array([[True, False], [False, False]]))
    _, mask = extended(Image.new("RGB", (2, 2)), old, Sides(right=0.5), 20)
    assert np.array(mask).tolist() == [[True, False, True], [False, False, True]]


def test_room_for_too_many_pixels_is_refused() -> None:
    with pytest.raises(InvalidImage, match=r"^With this room the image is 6x2.*the limit is 11.*less room"):
        extended(Image.new("RGB", (2, 2)), None, Sides(left=1.0, right=1.0), 11)


@pytest.mark.parametrize(("side", "least"), [("left", "0.025"), ("right", "0.025"), ("up", "0.05"), ("down", "0.05")])
def test_room_of_less_than_a_pixel_is_refused_by_its_side(side: str, least: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{side} must be 0, or {least} or more: 0\.01 of \d0 pixels") as refused:
        extended(Image.new("RGB", (40, 20)), None, Sides(**{"left": 0.5, side: 0.01}), 10_000)
    assert refused.value.param == side
