"""Ray and Serve on this machine, from the first process to the last: start, watch, deploy anew, drain, end.

SIGHUP has the config file read and deployed again: Serve changes what differs, and the rest goes on. Ctrl-C and SIGTERM
drain and end all of it, with exit code 0; a second one ends it at once, with 130 or 143.
"""

import ctypes
import json
import logging
import math
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from ops.config import Config, UnusableConfig, check_files
from ops.guard import guarded, kill
from ops.status import FAILED, answers, reason

if TYPE_CHECKING:  # Ray takes seconds to import: only those functions do that cannot do without
    from ray.serve._private.client import ServeControllerClient
    from ray.serve.schema import ServeDeploySchema

RAY_SETTINGS = {  # of every process of Ray, which reads its own when it is imported
    "RAY_AUTH_MODE": "token",  # its own default, but unsaid it warns
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "ops.proxy:middlewares",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^Task build_serve_application failed",  # four tracebacks of what `reason` says
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # one that answers nobody would be let finish, its pictures with it
    "MALLOC_ARENA_MAX": "1",  # a replica's 40 threads reuse what any has freed, and all of that can be given back
}
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
OBJECT_STORE_BYTES = 256 * 2**20  # what is on its way between stages: a latent has 32 to 512 KB
FORCE_AFTER_S = 1.0  # `make` hands a SIGTERM on, so that one request to stop may arrive twice


class StartError(Exception):
    """What the operator should know, in words. A traceback would not help."""


class Stop(threading.Event):
    """Set by the first SIGINT or SIGTERM. The second ends all processes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.reload = threading.Event()  # set by SIGHUP

    def listen(self) -> None:
        """Take the signals. `ray.init` takes SIGTERM back, so this is called again after it."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGHUP, lambda number, frame: self.reload.set())

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


def cpus_wanted(config: "ServeDeploySchema") -> int:
    """Return the CPUs that all replicas reserve. With fewer, on paper, Ray would never start the last of them."""
    total = 0.0
    for deployment in (d.model_dump(exclude_unset=True) for app in config.applications for d in app.deployments):
        scaling = deployment.get("autoscaling_config") or {}
        replicas = scaling.get("max_replicas", deployment.get("num_replicas"))
        cpus = (deployment.get("ray_actor_options") or {}).get("num_cpus", 1)
        total += cpus * (replicas if isinstance(replicas, int) else 1)  # "auto" takes what there is
    return math.ceil(total)


def start(config: "ServeDeploySchema", stop: Stop) -> "ServeControllerClient":
    """Start a Ray of our own, Serve in it, and the applications, which come up by themselves from here.

    Raises:
        StartError: Ray does not start.
    """
    import ray
    from ray._private.utils import get_num_cpus
    from ray.serve._private.api import serve_start

    if sys.platform == "linux":  # what Ray's processes leave behind when they die becomes our child, so that we see it
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    keep_token()
    try:
        context: Any = ray.init(
            address="local",  # whatever other cluster runs here or is named by the environment
            namespace="serve",
            num_cpus=max(int(get_num_cpus()), cpus_wanted(config)),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except Exception as error:  # Ray's own word for it: on a machine that has no time for it, after 30 s
        raise StartError(f"Ray does not start: {error}") from error
    stop.listen()
    node = context.address_info
    metrics = f"127.0.0.1:{node['metrics_export_port']}"
    tell_prometheus(metrics, Path(node["session_dir"]))
    print(f"  logs: {node['session_dir']}/logs/serve\n  metrics: http://{metrics}/metrics", flush=True)
    client = serve_start(
        http_options=config.http_options.model_dump(),
        global_logging_config=config.logging_config,
        global_tracing_config=config.tracing_config,
        proxy_location=config.proxy_location,
    )
    client.deploy_apps(config)
    return client


def keep_token() -> None:
    """Make Ray's token, if there is none, and let this account alone read it: it runs code. Ray would let everybody."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):  # the operator's own
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    path.chmod(0o600)


def tell_prometheus(target: str, session: Path) -> None:
    """Write the file by which Prometheus finds what to scrape; Ray does so only where its dashboard runs."""
    services = [{"labels": {"job": "ray"}, "targets": [target]}]
    (session / "prom_metrics_service_discovery.json").write_text(json.dumps(services), encoding="utf-8")


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


def why_failed(name: str, app: dict[str, Any]) -> str:
    """Return the reason of each part of an application that failed, a line each."""
    parts = {f"{name}/{part}": state for part, state in app["deployments"].items() if state["status"] in FAILED}
    return "\n".join(f"{part}: {reason(state['message'])}" for part, state in (parts or {name: app}).items())


def wait_until_ready(client: "ServeControllerClient", models: Set[str], address: str, stop: Stop) -> None:
    """Return when every application runs and `/v1/ready` answers 200.

    A model that cannot be served is told, and does without where there is another.

    Raises:
        StartError: the service will never be ready.
    """
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
        failed = {name: why_failed(name, app) for name, app in apps.items() if app["status"] in FAILED}
        if failed and not failed.keys() < models:
            raise StartError("\n".join(failed.values()))
        running = all(app["status"] == "RUNNING" for name, app in apps.items() if name not in failed)
        if running and answers(f"{address}/v1/ready"):
            for said_of in failed.values():
                print(f"  NOT SERVED  {said_of}", flush=True)
            return


def check_change(running: Config, wanted: Config, cpus: float) -> None:
    """Raise UnusableConfig for what only a restart changes: Serve would leave it out, or Ray wait for ever."""
    as_started = _read_at_start(running)
    for name, option in _read_at_start(wanted).items():
        if option != as_started[name]:
            raise UnusableConfig(f"{name}: a change takes a restart.")
    if cpus_wanted(wanted.serve) > cpus:
        reserved = f"The replicas reserve up to {cpus_wanted(wanted.serve)} CPUs (num_cpus), and Ray has {cpus:g}"
        raise UnusableConfig(f"{reserved}: a restart gives it more, on paper, or let them reserve less.")


def _read_at_start(config: Config) -> dict[str, Any]:
    serve = config.serve
    names = ("http_options", "proxy_location", "grpc_options", "controller_options")
    tracing = serve.tracing_config if serve.tracing_config and serve.tracing_config.enabled else None
    return {name: getattr(serve, name) for name in names} | {
        "tracing_config": tracing,
        "generation.state_dir": config.generation.state_path,  # which is locked
        "generation.database_url": config.generation.database,  # in another, epochs may be lower than Denoisers obey
    }


def deploy_again(client: "ServeControllerClient", running: Config, read: Callable[[], Config]) -> None:
    """Deploy the config as it reads by now; one that cannot be used, or not while this runs, changes nothing."""
    import ray

    try:
        config = read()
        check_change(running, config, ray.cluster_resources()["CPU"])
        broken = check_files(config)
    except UnusableConfig as error:
        print(f"Nothing was changed.\n{error}", file=sys.stderr, flush=True)
        return
    client.deploy_apps(config.serve)
    print("Deployed again; `make status` shows how it goes.", flush=True)
    for said_of in broken:
        print(f"  NOT SERVED  {said_of}", flush=True)


def drain(client: "ServeControllerClient") -> None:
    """Let replicas finish what they have begun, each within its graceful_shutdown_timeout_s."""
    client.delete_apps(list(applications(client)), blocking=False)
    while applications(client):
        time.sleep(0.1)


def end_ray(guard: int) -> None:
    """End Ray and all its processes; the guard, of this pid, ends after them."""
    import ray

    family = [process for process in psutil.Process().children(recursive=True) if process.pid != guard]
    ray.shutdown()
    kill(psutil.wait_procs(family, timeout=10)[1])


def run(config: Config, read: Callable[[], Config], address: str, stop: Stop) -> None:
    """Serve `config` until told to stop, and what `read` returns when told to reload. Raises StartError."""
    began = time.monotonic()
    print("Starting Ray and Serve ...", flush=True)
    with guarded() as guard:
        try:
            client = start(config.serve, stop)
            wait_until_ready(client, frozenset(config.generation.models), address, stop)
            if not stop.is_set():
                took = f"after {time.monotonic() - began:.0f} s"
                print(f"Darkroom is ready {took}: {address}  (API: {address}/v1/docs)", flush=True)
                while not stop.wait(1):
                    check_ray()
                    if stop.reload.is_set():
                        stop.reload.clear()
                        deploy_again(client, config, read)
                drain(client)
        finally:
            end_ray(guard)
    if stop.is_set():
        print("Darkroom has ended.")
