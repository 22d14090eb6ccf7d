"""`make serve` as a whole: the launcher in a process group of its own, with the checkout's serve_config.yaml.

One service serves the tests down to the one that ends it; those after it start on the port and state that it left.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from ops.status import get

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
RAY_CALLS = (  # one of each kind of server
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.serve.ASGIService/HandleRequest",
)
RAYS_METRICS = {44217, 44227}  # of its autoscaler and its dashboard: whichever Ray came first to this machine has them
READY_WITHIN_S = 120
ENDED_WITHIN_S = 60


@dataclass
class Run:
    """A command that was started, and the files it writes to."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def exit_code(self, within_s: float) -> int:
        """Wait for the end; where it does not come, kill (Ray's processes share the launcher's fate) and raise."""
        try:
            return self.process.wait(timeout=within_s)
        finally:
            self.process.kill()

    def said(self) -> str:
        return self.out.read_text() + self.err.read_text()


@dataclass
class Place:
    """The state folder and the port of launchers."""

    folder: Path
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        """The file that the service was started with, which a test may change."""
        return self.folder / "config.yaml"

    def run(self, module: str, *options: str) -> Run:
        """Start `python -m module` in a session of its own, as a terminal's foreground job is in one."""
        logs = Path(tempfile.mkdtemp(dir=self.folder))
        with (logs / "out").open("w") as out, (logs / "err").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                cwd=ROOT,
                env=os.environ | {"XDG_STATE_HOME": str(self.folder)},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return Run(process, logs / "out", logs / "err")

    def launch(self, *options: str) -> Run:
        return self.run("ops.launch", "--port", str(self.port), *options)


def alive_in_session(session: int) -> list[str]:
    """Return the processes that a launcher started and that live, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter(["name", "status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.info["name"])
        except (ProcessLookupError, PermissionError):
            continue
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Place(tmp_path_factory.mktemp("serve"), probe.getsockname()[1])


@pytest.fixture(scope="module")
def launched(place: Place) -> Iterator[Run]:
    """A launcher that has said that it is ready."""
    shutil.copy(ROOT / "serve_config.yaml", place.config)
    run = place.launch(str(place.config))
    deadline = time.monotonic() + READY_WITHIN_S
    try:
        while "Darkroom is ready" not in run.out.read_text():
            assert run.process.poll() is None, run.said()
            assert time.monotonic() < deadline, f"not ready within {READY_WITHIN_S} s: {run.said()}"
            time.sleep(0.2)
        yield run
    finally:
        run.process.kill()


def test_it_prints_the_address_where_page_and_api_answer(place: Place, launched: Run) -> None:
    assert re.search(rf"ready after \d+ s: {place.address} ", launched.out.read_text())
    assert json.loads(get(f"{place.address}/v1/ready")[1])["ready"] is True
    status, page = get(f"{place.address}/")
    assert status == 200
    assert b"<html" in page


def test_a_second_start_names_the_holder_and_exits_1(place: Place, launched: Run) -> None:
    second = place.launch()
    assert second.exit_code(within_s=30) == 1
    assert f"Process {launched.process.pid}, serving {place.address}" in second.err.read_text()


def test_a_start_with_other_state_on_the_same_port_exits_1(place: Place, launched: Run, tmp_path: Path) -> None:
    other = Place(tmp_path, place.port).launch()
    assert other.exit_code(within_s=30) == 1
    assert "Address already in use" in other.err.read_text()


def test_status_shows_every_deployment_and_the_queue(place: Place, launched: Run) -> None:
    status = place.run("ops.status")
    assert status.exit_code(within_s=30) == 0
    table = status.out.read_text()
    for name in ("ApiIngress", "Dispatcher", "TextEncoder", "Denoiser", "VaeDecoder", "GradioIngress"):
        assert re.search(rf"{name} +1/1", table)
    assert "0 waiting" in table


def test_no_port_beyond_those_of_security_md_answers_who_has_no_token(place: Place, launched: Run) -> None:
    launcher = psutil.Process(launched.process.pid)
    ports = {
        connection.laddr
        for process in [launcher, *launcher.children(recursive=True)]
        for connection in listening(process)
    }
    assert ("127.0.0.1", place.port) in ports
    answers = {at: answer_to_a_stranger(*at) for at in ports if not ip_address(at[0]).is_loopback}
    open_ports = {at: words for at, words in answers.items() if words not in ("UNAUTHENTICATED", "401")}
    assert set(open_ports.values()) == {"metrics"}, answers
    assert len({at.port for at in open_ports} - RAYS_METRICS) == 1, open_ports


def listening(process: psutil.Process) -> list[Any]:
    try:
        return [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:  # an idle worker that has ended
        return []


def answer_to_a_stranger(host: str, port: int) -> str:
    """What a port says to calls without a token; every kind of gRPC server here knows one of `RAY_CALLS`."""
    host = "127.0.0.1" if ip_address(host).is_unspecified else host
    codes = set()
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in RAY_CALLS:
            try:
                channel.unary_unary(method)(b"", timeout=10)
                codes.add("OK")
            except grpc.RpcError as error:
                codes.add(error.code().name)
                if codes == {"UNAVAILABLE"}:  # no gRPC
                    return answer_over_http(host, port)
    return " ".join(sorted(codes - {"UNIMPLEMENTED"}))


def answer_over_http(host: str, port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/", timeout=10) as answer:
            return "metrics" if answer.read().startswith(b"# HELP") else "HTTP"
    except urllib.error.HTTPError as error:
        return str(error.code)


def test_reload_deploys_what_has_changed_and_a_model_that_sleeps_wakes(place: Place, launched: Run) -> None:
    """The config becomes that of two models; the Dispatcher is replaced, the stages of the first model are not."""

    def models() -> list[str]:
        with suppress(OSError):  # nothing answers while the queue is replaced, on a busy machine for long
            status, body = get(f"{place.address}/v1/models")
            return [card["id"] for card in json.loads(body)["data"]] if status == 200 else []
        return []

    place.config.write_text("applications: []")
    assert place.run("ops.reload", str(place.config)).exit_code(within_s=30) == 1
    shutil.copy(ROOT / "ops" / "configs" / "two-models.yaml", place.config)
    assert place.run("ops.reload", str(place.config)).exit_code(within_s=30) == 0
    deadline = time.monotonic() + READY_WITHIN_S
    while models() != ["shapes", "draft"]:
        assert time.monotonic() < deadline, launched.said()
        time.sleep(0.5)
    body = json.dumps({"prompt": "a red circle on a blue background", "model": "draft"}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{place.address}/v1/images/generations", body, headers)
    with urllib.request.urlopen(request, timeout=READY_WITHIN_S) as answer:
        assert json.loads(answer.read())["data"][0]["b64_json"]


def test_ctrl_c_ends_it_with_0_quietly_and_no_process_survives(launched: Run) -> None:
    os.killpg(launched.process.pid, signal.SIGINT)  # a terminal signals the whole group
    assert launched.exit_code(within_s=ENDED_WITHIN_S) == 0
    assert alive_in_session(launched.process.pid) == []
    assert launched.err.read_text().split("\n") == ["", "Stopping. Ctrl-C again ends it at once.", ""]


def without_index(checkpoint: Path) -> None:
    (checkpoint / "model_index.json").unlink()


def with_cut_weights(checkpoint: Path) -> None:
    weights = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def with_sums_of_another(checkpoint: Path) -> None:
    (checkpoint / "SHA256SUMS").write_text(f"{'0' * 64}  model_index.json\n")


@pytest.mark.parametrize(
    ("spoil", "reason", "starts_ray"),
    [
        pytest.param(without_index, "model_index.json: missing", False, id="no index"),
        pytest.param(with_cut_weights, "diffusion_pytorch_model.safetensors: not a safetensors file", False, id="cut"),
        pytest.param(with_sums_of_another, "model_index.json: its SHA-256 is", True, id="other sums"),
    ],
)
def test_a_broken_checkpoint_exits_1_with_its_reason(
    place: Place, tiny_sd: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str, starts_ray: bool
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_sd, broken)
    spoil(broken)
    run = place.launch("--model", str(broken))
    assert run.exit_code(within_s=READY_WITHIN_S) == 1
    assert ("Starting Ray" in run.out.read_text()) == starts_ray  # sums of gigabytes are taken once, there
    errors = run.err.read_text()
    assert reason in errors
    assert "Traceback" not in errors
    assert alive_in_session(run.process.pid) == []
