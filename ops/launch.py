"""`make serve`: Darkroom on one machine, from the first check to the last process.

Checks the config, locks `state_dir`, checks the port (two Serves on one port split requests silently), starts a Ray of
its own, deploys, and waits for `/v1/ready`. Ctrl-C and SIGTERM drain and end all of it with exit code 0; a second one
ends it at once, with 130 or 143. What keeps it from serving is said in words, with exit code 1.
"""

import argparse
import ctypes
import fcntl
import logging
import math
import os
import re
import reprlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import psutil
import yaml
from pydantic import ValidationError

from deployments.config import AppConfig
from ops.status import ROOT, answers, generation_args, read_holder

if TYPE_CHECKING:  # Ray takes seconds to import: only those functions do that cannot do without
    from ray.serve._private.client import ServeControllerClient
    from ray.serve.schema import ServeDeploySchema

RAY_SETTINGS = {  # which Ray reads when it is imported
    "RAY_AUTH_MODE": "token",  # its own default, but unsaid it warns
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^Task build_serve_application failed",  # four tracebacks of what `reason` says
}
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
OBJECT_STORE_BYTES = 256 * 2**20  # what is on its way between stages: a latent has 32 to 512 KB
FORCE_AFTER_S = 1.0  # `make` hands a SIGTERM on, so that one request to stop may arrive twice


class StartError(Exception):
    """What the operator should know, in words. A traceback would not help."""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line. Paths become absolute: from here on the checkout is the working directory."""
    parser = argparse.ArgumentParser(prog="python -m ops.launch", description="Serve Darkroom on this machine.")
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "serve_config.yaml", help="Serve config file")
    parser.add_argument("--host", help="in place of http_options.host")
    parser.add_argument("--port", type=int, help="in place of http_options.port")
    parser.add_argument("--model", help="in place of model.checkpoint: a diffusers folder or a hub id")
    args = parser.parse_args(argv)
    args.config = args.config.absolute()
    if args.model and (folder := Path(args.model).expanduser()).exists():
        args.model = str(folder.absolute())
    return args


def read_config(args: argparse.Namespace) -> tuple["ServeDeploySchema", AppConfig]:
    """Return the config file with the overrides in it, checked. Raises StartError with each wrong key."""
    from ray.serve.schema import ServeDeploySchema

    overrides = {key: value for key, value in (("host", args.host), ("port", args.port)) if value is not None}
    try:
        config = yaml.safe_load(args.config.read_text(encoding="utf-8"))
        app_args = generation_args(config)
        config["http_options"] = (config.get("http_options") or {}) | overrides
        if args.model:
            app_args["model"] = (app_args.get("model") or {}) | {"checkpoint": args.model}
        app = AppConfig.model_validate(app_args)
        return ServeDeploySchema.model_validate(config), app
    except ValidationError as error:
        wrong = [f"  {'.'.join(map(str, e['loc']))} = {reprlib.repr(e['input'])}: {e['msg']}" for e in error.errors()]
        raise StartError("\n".join([f"{args.config} cannot be used:", *wrong])) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError) as error:
        raise StartError(f"{args.config} cannot be used: {error}") from error


def cpus_wanted(config: "ServeDeploySchema") -> int:
    """Return the CPUs that all replicas reserve. With fewer, on paper, Ray would never start the last of them."""
    total = 0.0
    for deployment in (d.model_dump(exclude_unset=True) for app in config.applications for d in app.deployments):
        scaling = deployment.get("autoscaling_config") or {}
        replicas = scaling.get("max_replicas", deployment.get("num_replicas"))
        cpus = (deployment.get("ray_actor_options") or {}).get("num_cpus", 1)
        total += cpus * (replicas if isinstance(replicas, int) else 1)  # "auto" takes what there is
    return math.ceil(total)


def check_address(host: str, port: int, allow_public: bool) -> None:
    """Raise StartError where Serve could not listen, another listens already, or strangers could call."""
    if not 0 < port < 2**16:
        raise StartError(f"http_options.port = {port}: a port is a number from 1 to 65535.")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closing connections do not take a port
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(f"Cannot listen on {host}:{port}: {error.strerror}{listener(port)}.") from error
        loopback = ip_address(probe.getsockname()[0]).is_loopback
    if not loopback and not allow_public:
        raise StartError(
            f"Other machines can reach {host}, and whoever reaches it can use it. If you mean that, set "
            "`allow_public: true` in the args of the application generation."
        )


def listener(port: int) -> str:
    """Return who listens on `port`, in words; nothing where the system does not tell."""
    try:
        taken = [c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and tuple(c.laddr)[1] == port]
        return "".join(f" by process {pid} ({psutil.Process(pid).name()})" for pid in taken[:1] if pid)
    except psutil.Error:  # macOS tells root alone
        return ""


@contextmanager
def hold(state_path: Path, address: str) -> Iterator[None]:
    """Lock `state_path`, our pid and address in the lock. Raises StartError, naming the holder, if it is locked."""
    try:
        state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (state_path / "lock").open("a", encoding="utf-8")
    except OSError as error:
        raise StartError(f"state_dir cannot be used: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_holder(state_path)
            who = f"Process {holder.pid}, serving {holder.address}," if holder else "Another process"
            raise StartError(f"{who} holds {state_path}. End it, or choose another state_dir and port.") from None
        file.truncate(0)
        file.write(f"{os.getpid()} {address}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # and not removed: one who has it open already would lock a file without a name


class Stop(threading.Event):
    """Set by the first SIGINT or SIGTERM. The second ends all processes at once."""

    def listen(self) -> None:
        """Take both signals. `ray.init` takes SIGTERM back, so this is called again after it."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.is_set():
            self.set()
            self._since = time.monotonic()
            os.write(2, b"\nStopping. Ctrl-C again ends it at once.\n")  # print() may be at work below us
        elif time.monotonic() - self._since > FORCE_AFTER_S:
            kill_and_leave(128 + number)


def kill_and_leave(code: int) -> NoReturn:
    """Kill all that was started, and exit without asking Ray, which may hang."""
    kill(psutil.Process().children(recursive=True))
    sys.stdout.flush()
    os._exit(code)


def kill(processes: list[psutil.Process]) -> None:
    """Kill what is left of `processes`, and see them go."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=3)  # so that none is there any more when we are not


def start(config: "ServeDeploySchema", stop: Stop) -> "ServeControllerClient":
    """Start a Ray of our own, Serve in it, and the applications, which come up by themselves from here."""
    import ray
    from ray._private.utils import get_num_cpus
    from ray.serve._private.api import serve_start

    if sys.platform == "linux":  # what Ray's processes leave behind when they die becomes our child, so that we see it
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    context: Any = ray.init(
        address="local",  # whatever other cluster runs here or is named by the environment
        namespace="serve",
        num_cpus=max(int(get_num_cpus()), cpus_wanted(config)),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    stop.listen()
    print(f"  logs: {context.address_info['session_dir']}/logs/serve", flush=True)
    client = serve_start(http_options=config.http_options.model_dump(), proxy_location=config.proxy_location)
    client.deploy_apps(config)
    return client


def check_ray() -> None:
    """Leave, killing what is left, if Ray died: its own calls would wait for a minute and then end the process."""
    from ray._private import worker

    node: Any = worker._global_node
    for name, _ in node.dead_processes():
        if name in ("raylet", "gcs_server"):
            print(f"Ray's {name} died; its logs may say why.", file=sys.stderr)
            kill_and_leave(1)


def applications(client: "ServeControllerClient") -> dict[str, Any]:
    """Return what Serve says of each application: status, message, deployments."""
    import ray
    from ray.exceptions import GetTimeoutError

    while True:
        check_ray()
        with suppress(GetTimeoutError):  # this is `serve.status()` with a timeout: without one it hangs if Ray dies
            details: Any = ray.get(client._controller.get_serve_instance_details.remote(), timeout=5)
            return details["applications"]


def reason(message: str) -> str:
    """Return the last exception of a traceback, without its module; or the message, if there is no traceback."""
    lines = message.strip().splitlines()
    last_frame = max((at for at, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    raised = next((at for at, line in enumerate(lines) if at > last_frame and not line.startswith(" ")), 0)
    return re.sub(r"^[\w.]+\.(?=\w+:)", "", "\n".join(lines[raised:]))


def wait_until_ready(client: "ServeControllerClient", address: str, stop: Stop) -> None:
    """Return when every application runs and `/v1/ready` answers 200. Raises StartError when one never will."""
    said = set[tuple[str, str]]()
    while not stop.wait(0.3):
        apps = applications(client)
        for name, app in apps.items():
            parts = {f"{name}/{part}": state for part, state in app["deployments"].items()}
            for part, state in parts.items():
                news = "is up" if state["status"] == "HEALTHY" else reason(state["message"])
                if news and (part, news) not in said:
                    said.add((part, news))
                    print(f"  {part}: {news}", flush=True)
            if app["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
                broken = {part: state for part, state in parts.items() if state["status"] == app["status"]}
                lines = [f"{part}: {reason(state['message'])}" for part, state in (broken or {name: app}).items()]
                raise StartError("\n".join(lines))
        if all(app["status"] == "RUNNING" for app in apps.values()) and answers(f"{address}/v1/ready"):
            return


def drain(client: "ServeControllerClient") -> None:
    """Let replicas finish what they have begun, each within its graceful_shutdown_timeout_s."""
    client.delete_apps(list(applications(client)), blocking=False)
    while applications(client):
        time.sleep(0.1)


def end_ray() -> None:
    """End Ray and all its processes."""
    import ray

    family = psutil.Process().children(recursive=True)
    ray.shutdown()
    kill(psutil.wait_procs(family, timeout=10)[1])


def run(config: "ServeDeploySchema", address: str, stop: Stop) -> None:
    """Serve until told to stop. Raises StartError."""
    began = time.monotonic()
    print("Starting Ray and Serve ...", flush=True)
    try:
        client = start(config, stop)
        wait_until_ready(client, address, stop)
        if not stop.is_set():
            took = f"after {time.monotonic() - began:.0f} s"
            print(f"Darkroom is ready {took}: {address}  (API: {address}/v1/docs)", flush=True)
            while not stop.wait(2):
                check_ray()
            drain(client)
    finally:
        end_ray()
    if stop.is_set():
        print("Darkroom has ended.")


def main(argv: list[str] | None = None) -> int:
    """Serve; return the exit code."""
    args = parse_args(argv)
    os.chdir(ROOT)  # replicas start in it and import from it; relative paths in the config mean it
    os.environ.update({name: value for name, value in RAY_SETTINGS.items() if name not in os.environ})
    stop = Stop()
    stop.listen()
    try:
        config, app = read_config(args)
        http = config.http_options
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.host) or http.host
        name = f"[{name}]" if ":" in name else name
        address = f"{'https' if http.ssl_certfile else 'http'}://{name}:{http.port}"
        with hold(app.state_path, address):
            check_address(http.host, http.port, app.allow_public)
            run(config, address, stop)
    except StartError as error:
        print(f"Darkroom cannot serve.\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
