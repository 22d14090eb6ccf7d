"""`make fuzz`: 20,000 requests to a service of its own. Prints Schemathesis's report and one line of JSON."""

import argparse
import json
import sys
import time

from benchmarks.harness import running_service
from tests.fuzz.run import fuzz

A_LITTLE = 0.2  # megapixel steps: what is asked for at random is mostly more, and refused


def main() -> int:
    """Send them; 1 if any answer was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--examples", type=int, default=1600, help="for each operation in each phase")
    args = parser.parse_args()
    with running_service({"queue": {"max_job_cost": A_LITTLE, "max_waiting": 100_000}}) as service:
        found = fuzz(service.address, args.examples, args.seed)
    print(found.report)
    print(json.dumps({"fuzz": found.cases, "clean": found.clean, "seed": args.seed}))
    return 0 if found.clean else 1


if __name__ == "__main__":
    sys.exit(main())
