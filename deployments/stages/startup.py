"""A stage's start: what loading has left free goes back, and what the start took is a line of the replica's log."""

import gc
import logging
import time

import torch
from ray import serve
from ray.serve.exceptions import RayServeException

from deployments.stages.memory import peak_bytes, trim_heap

logger = logging.getLogger(f"ray.serve.{__name__}")
MIB = 2**20


class Startup:
    """Begins when it is made. Serve calls a replica ready when its constructor returns, so that it is warm by then."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._began = time.monotonic()
        self._loaded_s = 0.0
        self._is_warm = False

    def loaded(self) -> None:
        """Give back the memory that loading has left free: of a Denoiser's on the CPU some 100 MiB.

        Before the first forwards, so that a warm replica holds what it will go on using. The half million objects that
        PyTorch, diffusers and Ray have made by now stay: looking at them again would stop a replica for a quarter of a
        second, and so that it is seldom done, Python's collector would let garbage grow to a quarter of them.
        """
        gc.collect()
        gc.freeze()
        trim_heap()
        self._loaded_s = time.monotonic() - self._began

    def warm(self, parameter_bytes: int) -> None:
        """Log what the start took, the most memory included; once."""
        if self._is_warm:
            return
        self._is_warm = True
        logger.info(
            "%s: %.0f MiB of weights checked and loaded in %.1f s, warm after %.1f s; at most %.0f MiB of memory, "
            "%.0f MiB of the device's",
            self._stage,
            parameter_bytes / MIB,
            self._loaded_s,
            time.monotonic() - self._began,
            peak_bytes() / MIB,
            torch.cuda.max_memory_allocated() / MIB if torch.cuda.is_available() else 0.0,
        )


def warn_of_cuts(longest_s: float) -> None:
    """Log a warning where Serve would not wait for a picture of `longest_s` when this replica is to leave."""
    try:
        config = serve.get_replica_context()._deployment_config  # there is no public way
    except RayServeException:  # not in a replica
        return
    if config.graceful_shutdown_timeout_s < longest_s:
        logger.warning(
            "graceful_shutdown_timeout_s = %g: the longest picture that may be asked for takes about %.0f s here; a "
            "replica that leaves would cut it, and it would begin again elsewhere",
            config.graceful_shutdown_timeout_s,
            longest_s,
        )
