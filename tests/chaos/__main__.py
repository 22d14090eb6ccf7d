"""`make chaos`: every drill at its full count. Prints the ledger of kills, a table, and one line of JSON."""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.chromium import MISSING, find_chromium
from tests.chaos import clients, deaths, load, page
from tests.chaos.cluster import running_cluster
from tests.chaos.cuts import cut
from tests.chaos.drill import table
from tests.chaos.machines import running_machines


def main() -> int:
    """Run the drills; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts")
    args = parser.parse_args()
    share: float = args.share
    with tempfile.TemporaryDirectory() as state, running_cluster(Path(state), args.seed) as cluster:
        drills = (
            lambda: deaths.replica_deaths(cluster, jobs=round(1000 * share), kills=max(5, round(60 * share))),
            lambda: deaths.cluster_deaths(cluster, times=max(1, round(10 * share))),
            lambda: deaths.takeovers(cluster, times=max(1, round(10 * share))),
            lambda: deaths.poison(cluster, batches=round(100 * share)),
            lambda: clients.duplicates(cluster, keys=round(200 * share)),
            lambda: clients.cancels(cluster, times=round(200 * share), at_the_end=round(50 * share)),
            lambda: clients.cut_watches(cluster, times=round(200 * share)),
            *([lambda: page.reloads(cluster, times=round(100 * share))] if find_chromium() else []),
            lambda: load.fairness(cluster, pictures=round(100 * share)),
            lambda: load.overload(cluster, seconds=max(40, 180 * share)),
            lambda: load.estimates(cluster, jobs=max(40, round(300 * share))),
        )
        if not find_chromium():
            print(f"the page is left out: {MISSING}")
        outcomes = []
        for drill in drills:
            outcomes.append(drill())
            print(table(outcomes[-1:]), flush=True)  # the whole takes more than an hour
        kills = cluster.kills
    with tempfile.TemporaryDirectory() as state, running_machines(Path(state)) as machines:
        for seconds in (20, 120):  # Ray bears the first, and takes a machine for dead in the second
            outcomes.append(cut(machines, seconds))
            print(table(outcomes[-1:]), flush=True)
    print("kills: " + ", ".join(f"{kill['what']} at {kill['s']} s" for kill in kills))
    print(f"seed {args.seed}\n\n{table(outcomes)}\n")
    print(json.dumps({"chaos": [asdict(o) for o in outcomes], "seed": args.seed, "kills": kills}))
    return 0 if all(outcome.held and outcome.in_time for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
