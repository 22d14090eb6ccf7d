"""`make status`: what the running Darkroom serves, asked over HTTP (Ray's own `serve status` stops at Ray's token)."""

import argparse
import fcntl
import json
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deployments.config import AppConfig
from ops.config import ROOT, UnusableConfig, generation_of, load

TIMEOUT_S = 10.0
FAILED = ("DEPLOY_FAILED", "UNHEALTHY")  # what Serve says of an application or deployment
KEY = "DARKROOM_API_KEY"  # an environment variable: where keys are on, this command needs one


@dataclass(frozen=True)
class Holder:
    """The process that holds a `state_dir`, the address it serves, and its config: the content of `state_dir/lock`."""

    pid: int
    address: str
    config: str


def read_holder(state_path: Path) -> Holder | None:
    """Return who holds `state_path`; None where nobody does: one that was killed has left its word, and no lock."""
    try:
        with (state_path / "lock").open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        match (state_path / "lock").read_text(encoding="utf-8").rstrip("\n").split(" ", 2):
            case [pid, address, config]:  # else it has taken the lock only now, and said nothing yet
                return Holder(int(pid), address, config)
    return None


class NotRunning(Exception):
    """Nobody serves a config."""


def running(config: AppConfig) -> Holder:
    """Return who serves a config. Raises NotRunning."""
    holder = read_holder(config.state_path)
    if holder is None:
        raise NotRunning(f"Darkroom is not running: nobody holds {config.state_path}.")
    return holder


def get(url: str, key: str | None = None) -> tuple[int, bytes]:
    """GET `url` from this machine's own service; return status and body. Raises OSError when nothing answers."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    # The environment's proxy does not reach loopback, and a certificate is made out to the public name.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def answers(url: str) -> bool:
    """Whether `url` answers 200."""
    try:
        return get(url)[0] == 200
    except OSError:
        return False


def reason(message: str) -> str:
    """Return the last exception of a traceback, without its module; or the message, if there is no traceback.

    Of an error of our own, whose message is written for people, the message alone.
    """
    lines = message.strip().splitlines()
    last_frame = max((at for at, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    raised = next((at for at, line in enumerate(lines) if at > last_frame and not line.startswith(" ")), 0)
    return re.sub(r"^((models|deployments|ops)\.[\w.]+: |[\w.]+\.(?=\w+:))", "", "\n".join(lines[raised:]))


def table(ready: dict[str, Any], queue: dict[str, Any]) -> str:
    """Return what `/v1/ready` and `/v1/queue` say, for a terminal."""
    lines = [f"{'':<34}{'replicas':>9}  status"]
    for app, state in ready["applications"].items():
        failed = state["status"] in FAILED and state.get("message")
        lines.append(f"{app:<34}{'':>9}  {state['status']}{': ' + reason(state['message']) if failed else ''}")
        for name, deployment in state["deployments"].items():
            replicas = f"{deployment['running']}/{deployment['wanted']}"
            lines.append(f"  {name:<32}{replicas:>9}  {deployment['status']}")
    eta = f", the line is done in {queue['eta_s']:.0f} s" if queue["eta_s"] else ""
    lines += ["", f"queue: {queue['waiting']} waiting, {queue['running']} running{eta}"]
    return "\n".join(lines)


def report(holder: Holder, key: str | None = None) -> str:
    """Ask the service of `holder` how it is. Raises OSError when nothing answers, ValueError on a strange answer."""
    status, queue = get(f"{holder.address}/v1/queue", key)
    if status == 401:
        raise ValueError(f"it wants an API key; put one into {KEY}")
    _, ready = get(f"{holder.address}/v1/ready", key)  # 503 while a stage is missing: the table says which
    return table(json.loads(ready), json.loads(queue))


def main() -> int:
    """Print the table; 1 when nothing runs or answers."""
    parser = argparse.ArgumentParser(prog="python -m ops.status", description=__doc__)
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "serve_config.yaml")
    try:
        holder = running(generation_of(load(parser.parse_args().config)))
    except (UnusableConfig, ValidationError, NotRunning) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        table = report(holder, os.environ.get(KEY))
    except (OSError, ValueError, KeyError) as error:
        print(f"Darkroom does not answer at {holder.address} (process {holder.pid}): {error}", file=sys.stderr)
        return 1
    print(f"Darkroom at {holder.address}, process {holder.pid}\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
