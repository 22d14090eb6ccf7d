"""`python -m ops.audit`: known vulnerabilities among the pinned packages, as PyPI has them on record.

Where that record cannot be reached nothing was audited: it is said in so many words, and is no failure.
"""

import subprocess
import sys
import urllib.error
import urllib.request

from ops.config import ROOT

RECORD = "https://pypi.org/pypi/pip/23.0/json"  # of a release that is surely there
WAIVED: dict[str, str] = {}  # id of a vulnerability -> why it does no harm here


def is_reachable() -> bool:
    """Whether PyPI's record of vulnerabilities answers. A mirror of its index has none."""
    try:
        with urllib.request.urlopen(RECORD, timeout=10) as answer:  # nosec B310  # a constant, and https
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def command() -> list[str]:
    """Return the call of pip-audit. Strict: a package that is not on record is a failure, not a line in the output."""
    waivers = [word for name in WAIVED for word in ("--ignore-vuln", name)]
    pins = ["--no-deps", "--disable-pip", "-r", str(ROOT / "constraints.txt")]
    return [sys.executable, "-m", "pip_audit", "-s", "pypi", "--strict", *pins, *waivers]


def main() -> int:
    """Audit; 1 where something is known that nobody has waived."""
    if not is_reachable():
        print(f"NOT AUDITED: {RECORD} does not answer here, so the packages' vulnerabilities are unknown.")
        return 0
    for name, reason in WAIVED.items():
        print(f"waived: {name}: {reason}")
    return subprocess.run(command(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
