"""One Ray cluster and one Serve for the whole session: starting them takes longer than most tests."""

import copy
import json
import logging
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.cluster import RAY_SETTINGS, applications
from ops.config import application

ROOT = Path(__file__).parents[1]
READY_WITHIN_S = 180


class Service:
    """Darkroom as `serve_config.yaml` says, with a few things changed, on a free port."""

    def __init__(self, client: Any, port: int, state_dir: Path) -> None:
        self._client = client
        self._state_dir = state_dir
        self.address = f"http://127.0.0.1:{port}"

    def deploy(
        self,
        queue: Mapping[str, Any] = {},
        models: Mapping[str, Mapping[str, Any]] = {},
        policy: str | None = None,
        wait: bool = True,
        **deployments: dict[str, Any],
    ) -> None:
        """Deploy the config with its `queue` and `deployments` changed, these by name; return when it is so.

        `models`: more models, or `shapes` itself -> args that differ; `policy`: of autoscaling, of each of them.
        """
        from ray.serve.schema import ServeDeploySchema

        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        given = application(config, "generation")["args"]
        given["state_dir"] = str(self._state_dir)
        given["queue"] |= queue
        shapes = application(config, "shapes")
        served = {"shapes": {}, **models}
        given["models"] = list(served)
        config["applications"].remove(shapes)
        for name, args in served.items():
            app = copy.deepcopy(shapes) | {"name": name}
            app["args"] |= args
            if policy is not None:
                app["autoscaling_policy"] = {"policy_function": policy}
            config["applications"].append(app)
        for deployment in (each for app in config["applications"] for each in app["deployments"]):
            deployment |= deployments.get(deployment["name"], {})
            deployment["ray_actor_options"] = {"num_cpus": 0.01}
        self._client.deploy_apps(ServeDeploySchema.model_validate(config))
        if not wait:
            return
        wanted = {name: count for name, change in deployments.items() if (count := change.get("num_replicas"))}
        self.wait(lambda: self._is_as_wanted(wanted))

    def _is_as_wanted(self, wanted: dict[str, int]) -> bool:
        status, body = self.get("/v1/ready")
        if status != 200:
            return False
        apps = body["applications"]
        healthy = all(app["status"] == "RUNNING" for app in apps.values())
        parts = {
            name: part for app in ("generation", "ui", "shapes") for name, part in apps[app]["deployments"].items()
        }
        return healthy and all(parts[name]["running"] == count for name, count in wanted.items())

    def pids(self, app: str, deployment: str) -> list[int]:
        """Return the processes of a deployment's replicas, as far as they have started."""
        replicas = applications(self._client)[app]["deployments"][deployment]["replicas"]
        return sorted(one["pid"] for one in replicas if one.get("pid"))

    def hang(self, app: str, deployment: str) -> None:
        """Have the event loop that serves requests, in each replica of a deployment, compute without an end."""
        import ray
        from ray.serve._private.constants import SERVE_NAMESPACE

        def spin(replica: Any) -> None:
            def compute() -> None:
                while True:
                    pass

            replica._replica_impl._user_callable_wrapper.event_loop.call_soon_threadsafe(compute)

        for replica in applications(self._client)[app]["deployments"][deployment]["replicas"]:
            actor: Any = ray.get_actor(replica["actor_name"], SERVE_NAMESPACE)
            ray.get(actor.__ray_call__.remote(spin))

    @staticmethod
    def wait(condition: Callable[[], bool], otherwise: Callable[[], object] = lambda: "it does not happen") -> None:
        """Ask again and again until `condition` holds; `otherwise` says what is wrong where it never does."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, otherwise()
            time.sleep(0.5)

    @staticmethod
    def logs() -> Path:
        """The folder of Ray's and Serve's logs."""
        from ray._private.worker import _global_node

        return Path(_global_node.get_session_dir_path()) / "logs"

    @staticmethod
    def metrics() -> str:
        """What Prometheus would scrape."""
        from ray._private.worker import _global_node

        address = f"http://127.0.0.1:{_global_node.metrics_export_port}/metrics"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.read().decode()

    def get(self, path: str) -> tuple[int, Any]:
        """GET JSON; (0, None) where nothing answers, and the text where it is no JSON."""
        return self._call(urllib.request.Request(self.address + path))

    def ended(self, job_id: str) -> dict[str, Any]:
        """How a job ended; whoever asks is answered, whatever is replaced meanwhile."""
        waiting = urllib.request.Request(f"{self.address}/v1/jobs/{job_id}", headers={"Prefer": "wait=60"})
        found: dict[str, Any] = {}

        def has_ended() -> bool:
            nonlocal found
            status, found = self._call(waiting)
            assert status == 200, found
            return found["status"] not in ("queued", "running")

        self.wait(has_ended)
        return found

    def post(self, path: str, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
        """POST a body: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._call(urllib.request.Request(self.address + path, data, {"Content-Type": content_type}))

    @staticmethod
    def _call(request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        except (urllib.error.URLError, ConnectionError):
            return 0, None
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode(errors="replace")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The whole service, ready."""
    # All but the token, which Ray reads as it is imported, and that it was long before this.
    os.environ.update({name: value for name, value in RAY_SETTINGS.items() if name != "RAY_AUTH_MODE"})
    import ray
    from ray import serve
    from ray.serve._private.api import serve_start

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(
        address="local",
        namespace="serve",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=256 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    client = serve_start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
    service = Service(client, port, tmp_path_factory.mktemp("state"))
    service.deploy()
    yield service
    serve.shutdown()
    ray.shutdown()
