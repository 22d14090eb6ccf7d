"""What `plan` foretells, and what comes: the demo's pictures at random moments, one replica of each stage.

The curve is measured here first. A plan gives each replica a device of its own; here the stages, HTTP and the clients
share the cores that the Denoiser draws with.
"""

import json
import random
import tempfile
from pathlib import Path

import torch

from benchmarks import curve, plan
from benchmarks.arrivals import at_random, over_http
from benchmarks.harness import finish, running_service
from benchmarks.requests import CARD, MAX_ROWS, SHAPES, a_request
from benchmarks.stages import CPU

PICTURES = 150
LOADS = (0.4, 0.7)  # of what a Denoiser can draw that has a core to itself
THREADS = 1  # as serve_config.yaml has them


def measured() -> plan.Curve:
    """The demo's curve on this machine."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curve.json"
        path.write_text(json.dumps(curve.measure(str(SHAPES), CPU, "float32", MAX_ROWS)))
        return plan.read_curve(path)


def main() -> None:
    """Print the table."""
    costs = measured()
    most = 1 / (costs.busy_s - costs.encode_s - costs.decode_s)
    pictures = [a_request(seed, costs.steps, CARD.defaults["guidance_scale"]) for seed in range(PICTURES)]
    print(f"{PICTURES} pictures a line, {costs.steps} steps of {costs.rows} rows; seconds from arrival to picture\n")
    print(f"{'':22}{'foretold':>16}{'seen':>18}")
    print(f"{'a second':>10}{'load':>8}" + f"{'p50':>10}{'p95':>8}" * 2)
    lines = []
    with running_service() as service:
        for load in LOADS:
            rate = load * most
            foretold = plan.latencies(costs, rate, 1, 1, 1, seed=0)
            seen = sorted(over_http(service, at_random(pictures, rate, random.Random(3)), warm=pictures[:8]))
            times = [plan.percentile(each, share) for each in (foretold, seen) for share in (0.5, 0.95)]
            print(f"{rate:10.2f}{load:8.0%}" + "".join(f"{a:10.2f}{b:8.2f}" for a, b in (times[:2], times[2:])))
            lines.append({"rate": round(rate, 3), "load": load, "seconds": [round(one, 3) for one in times]})
    finish("planned", {"alone_s": round(costs.alone_s, 3), "lines": lines})


if __name__ == "__main__":
    main()
