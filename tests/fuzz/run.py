"""Runs Schemathesis against a service."""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKS = (
    "no_unplanned_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
)


@dataclass(frozen=True)
class Findings:
    """How many requests there were, whether all answers were as promised, and the whole report."""

    cases: int
    clean: bool
    report: str


def fuzz(address: str, at_most: int, seed: int) -> Findings:
    """Send `at_most` requests to each operation in each phase: examples, bounds, random ones, and chains of them."""
    command = [  # one worker: in several threads Python 3.11 may fail at parsing, for Hypothesis
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/v1/openapi.json"),
        *("--url", f"{address}/v1", "--checks", ",".join(CHECKS), "--mode", "all"),
        *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(at_most), "--seed", str(seed)),
        *("--generation-database", "none", "--no-color", "--request-timeout", "60", "--continue-on-failure"),
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:  # it leaves what it found where it runs
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    report = done.stdout + done.stderr
    cases = [int(found) for found in re.findall(r"(\d+) generated", report)]
    return Findings(sum(cases), done.returncode == 0, report)
