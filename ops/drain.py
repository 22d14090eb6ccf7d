"""`python -m ops.drain SECONDS`: this Ray node will go. Returns when Serve's replicas have left it, or after that time.

What a pod does before it ends (ops/rayservice.yaml). Serve starts replicas elsewhere for those that are here, then lets
these finish what they have begun; where there is no room elsewhere, it begins to end them `graceful_shutdown_timeout_s`
before the time is up.
"""

import argparse
import re
import time
from typing import Any

import psutil

REPLICA = re.compile(r"ray::.*\bServeReplica:")  # as Ray names the process of one, idle or at work


def replicas() -> set[int]:
    """Return the processes that are replicas: a pod sees its own alone."""
    titles = {process.pid: process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline"])}
    return {pid for pid, title in titles.items() if REPLICA.match(title[0])}


def announce(within_s: float) -> None:
    """Tell Ray that the node of this process will be gone after `within_s` seconds.

    Raises:
        ConnectionError: there is no Ray to tell.
        RuntimeError: Ray refuses, and why.
    """
    import ray
    from ray._private import worker
    from ray.core.generated import autoscaler_pb2

    ray.init(address="auto", log_to_driver=False)
    context = ray.get_runtime_context()
    connected: Any = worker.global_worker
    deadline_ms = int((time.time() + within_s) * 1000)
    reasons: Any = autoscaler_pb2  # generated
    reason = reasons.DRAIN_NODE_REASON_PREEMPTION  # the one that a busy node cannot refuse
    accepted, why = connected.gcs_client.drain_node(context.get_node_id(), reason, "it was told to leave", deadline_ms)
    ray.shutdown()
    if not accepted:
        raise RuntimeError(f"Ray will not drain this node: {why}")


def main() -> None:
    """Announce, and wait."""
    parser = argparse.ArgumentParser(prog="python -m ops.drain", description="Let replicas leave this Ray node.")
    parser.add_argument("seconds", type=float, help="at most")
    within_s = parser.parse_args().seconds
    ends = time.monotonic() + within_s
    announce(within_s)
    while replicas() and time.monotonic() < ends:
        time.sleep(1)


if __name__ == "__main__":
    main()
