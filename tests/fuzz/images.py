"""Image files that nobody would write: valid ones of every kind, broken in one to three places."""

import random
import struct
import zlib
from collections.abc import Callable

from tests.image_files import PNG_SIGNATURE, every_kind

NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
VALID = tuple(every_kind().values())


def hostile_image(seed: int) -> bytes:
    """A broken file, the same for the same seed."""
    dice = random.Random(seed)
    content = dice.choice(VALID)
    for _ in range(dice.choice((1, 1, 2, 3))):
        content = dice.choice(MUTATIONS)(content, dice)
    return content


def flip(content: bytes, dice: random.Random) -> bytes:
    """Change some bytes."""
    changed = bytearray(content or b"?")
    for _ in range(dice.choice((1, 4, 32))):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def change_number(content: bytes, dice: random.Random) -> bytes:
    """Write a number at one of the bounds of its kind, mostly into the headers."""
    number, kind = dice.choice(NUMBERS), dice.choice((">H", "<H", ">I", "<I"))
    data = struct.pack(kind, number & (0xFFFF if kind[1] == "H" else 0xFFFFFFFF))
    at = dice.randrange(max(1, min(len(content), dice.choice((64, 512, 100_000)))))
    return content[:at] + data + content[at + len(data) :]


def cut(content: bytes, dice: random.Random) -> bytes:
    """Lose the end of the file."""
    return content[: dice.randrange(len(content) + 1)]


def lose_or_repeat(content: bytes, dice: random.Random) -> bytes:
    """Lose or repeat a part of the file, of any length."""
    start, end = sorted(dice.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[start:end] * dice.choice((0, 2, 20)) + content[end:]


def swap_blocks(content: bytes, dice: random.Random) -> bytes:
    """Exchange two chunks or segments."""
    blocks = split(content)
    first, second = (dice.randrange(len(blocks)) for _ in range(2))
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return b"".join(blocks)


def borrow_block(content: bytes, dice: random.Random) -> bytes:
    """Put a chunk or segment of another file in between."""
    blocks = split(content)
    blocks.insert(dice.randrange(len(blocks) + 1), dice.choice(split(dice.choice(VALID))))
    return b"".join(blocks)


def change_block(content: bytes, dice: random.Random) -> bytes:
    """Change the data of a chunk and mend its checksum: what a decoder reads past all checks of the file."""
    blocks = split(content)
    at = dice.randrange(len(blocks))
    block = dice.choice((flip, change_number))(blocks[at], dice)
    if content.startswith(PNG_SIGNATURE) and len(block) >= 12:
        block = struct.pack(">I", len(block) - 12) + block[4:-4] + struct.pack(">I", zlib.crc32(block[4:-4]))
    blocks[at] = block
    return b"".join(blocks)


def split(content: bytes) -> list[bytes]:
    """The chunks or segments of a file, as far as they can be told apart; the rest is the last."""
    if content.startswith(PNG_SIGNATURE):
        return _split(content, 8, lambda at: 12 + struct.unpack_from(">I", content, at)[0])
    if content.startswith(b"\xff\xd8"):
        return _split(content, 2, lambda at: 2 + struct.unpack_from(">H", content, at + 2)[0])
    return _split(content, 12, lambda at: 8 + struct.unpack_from("<I", content, at + 4)[0] // 2 * 2)


def _split(content: bytes, at: int, length_at: Callable[[int], int]) -> list[bytes]:
    blocks = [content[:at]]
    while at + 8 <= len(content) and len(blocks) < 100:
        end = at + length_at(at)
        blocks.append(content[at:end])
        at = end
    return [*blocks, content[at:]]


MUTATIONS = (flip, change_number, cut, lose_or_repeat, swap_blocks, borrow_block, change_block, change_block)
