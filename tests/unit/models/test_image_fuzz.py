"""A broken file is an image within its bounds or refused, whatever is broken in it."""

import time
from collections import Counter
from pathlib import Path

import pytest

from models.errors import InvalidImage
from models.image_input import read_image
from tests.fuzz.images import hostile_image

MAX_PIXELS = 500_000
NIGHTLY = pytest.param(20_000, marks=pytest.mark.nightly)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def outcome(seed: int) -> str:
    """The image's mode, or the first words of the refusal; anything else is this file's failure."""
    begun = time.thread_time()
    try:
        image = read_image(hostile_image(seed), MAX_PIXELS)
        assert 0 < image.width * image.height <= MAX_PIXELS
        return image.mode
    except InvalidImage as error:
        return " ".join(error.message.split()[2:6])
    finally:
        assert time.thread_time() - begun < 1, f"seed {seed}"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [400, NIGHTLY])
def test_broken_files_are_images_or_refused_and_leave_no_memory_behind(count: int) -> None:
    outcome(0)
    before = resident_bytes()
    outcomes = Counter(outcome(seed) for seed in range(count))
    assert resident_bytes() - before < 50 * 2**20
    assert {"RGB", "RGBA"} < set(outcomes)
    refused = count - outcomes["RGB"] - outcomes["RGBA"]
    assert 0.3 < refused / count < 0.9, outcomes
