"""What a replica gives back of its memory."""

import psutil

from deployments.stages.memory import trim_heap


def test_what_was_freed_between_what_is_used_goes_back() -> None:
    blocks = [b"x" * 100_000 for _ in range(1000)]
    kept = [bytes(100_000), blocks[500]]
    held = psutil.Process().memory_info().rss
    del blocks
    trim_heap()
    assert held - psutil.Process().memory_info().rss > 80_000_000
    assert all(kept)
