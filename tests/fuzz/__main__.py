"""`make fuzz`: 20,000 requests and 6,000 broken images to a service of its own. Prints reports and a line of JSON."""

import argparse
import json
import sys
import time

from benchmarks.harness import running_service
from tests.fuzz.run import fuzz
from tests.fuzz.uploads import send_uploads

A_LITTLE = 0.2  # megapixel steps: what is asked for at random is mostly more, and refused


def main() -> int:
    """Send them; 1 if any answer was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--examples", type=int, default=1600, help="for each operation in each phase")
    parser.add_argument("--images", type=int, default=2000, help="for each route that takes them")
    args = parser.parse_args()
    with running_service({"queue": {"max_job_cost": A_LITTLE, "max_waiting": 100_000}}) as service:
        found = fuzz(service.address, args.examples, args.seed)
        uploads = send_uploads(service.address, service.pid, args.images, args.seed)
    print(found.report, *uploads.problems, sep="\n")
    clean = found.clean and not uploads.problems
    measured = {
        "answers": uploads.answers,
        "slowest_refusal_s": round(uploads.slowest_refusal_s, 2),
        "growth_mib": round(uploads.growth_mib, 1),
        "grown": uploads.grown,
    }
    print(json.dumps({"fuzz": found.cases, "uploads": measured, "clean": clean, "seed": args.seed}))
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
