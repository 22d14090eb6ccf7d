"""What a replica's process holds of the machine's memory."""

import ctypes
import resource
import sys


def trim_heap() -> None:
    """Return to the system what was freed and the C library keeps: a few milliseconds. glibc alone keeps much.

    What is kept lies between what is used, so that it grows by some MiB in a thousand pictures, where nothing leaks.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def peak_bytes() -> int:
    """Return the most memory that this process had in use: its own, and pages of files that it has mapped."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
