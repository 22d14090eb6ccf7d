"""`make serve` as a whole: what a launcher that is ready says and shows, and what it listens on."""

import json
import pickle
import re
import shutil
import urllib.error
import urllib.request
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from ray.serve.generated.serve_pb2 import ASGIRequest

from ops.status import get
from tests.cluster import Cluster, alive_in_session, configured

RAY_CALLS = (  # one of each kind of server
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.serve.ASGIService/HandleRequest",
)
UNPICKLES = "/ray.serve.ASGIService/HandleRequest"
TOKEN = Path.home() / ".ray/auth_token"
RAYS_METRICS = {44217, 44227}  # of its autoscaler and its dashboard: whichever Ray came first to this machine has them
ANSWERS_WITHIN_S = 60
READY_WITHIN_S = 180


def test_it_prints_the_address_where_page_and_api_answer(service: Cluster) -> None:
    assert re.search(rf"ready after \d+ s: {service.address} ", service.launcher.out.read_text())
    assert json.loads(get(f"{service.address}/v1/ready")[1])["ready"] is True
    status, page = get(f"{service.address}/")
    assert status == 200
    assert b"<html" in page


def test_a_second_start_names_the_holder_and_exits_1(service: Cluster) -> None:
    second = service.run("ops.launch", "--port", service.address.rpartition(":")[2])
    assert second.exit_code(ANSWERS_WITHIN_S) == 1
    assert f"Process {service.launcher.process.pid}, serving {service.address}" in second.err.read_text()


def test_a_start_with_other_state_on_the_same_port_exits_1(service: Cluster, tmp_path: Path) -> None:
    other = Cluster(tmp_path, configured()).run("ops.launch", "--port", service.address.rpartition(":")[2])
    assert other.exit_code(ANSWERS_WITHIN_S) == 1
    assert "Address already in use" in other.err.read_text()


def test_while_it_starts_no_path_is_said_not_to_exist(service: Cluster) -> None:
    assert service.answered_while_starting[503] > 0
    assert set(service.answered_while_starting) <= {200, 503}


def test_status_shows_every_deployment_and_the_queue(service: Cluster) -> None:
    status = service.run("ops.status")
    assert status.exit_code(ANSWERS_WITHIN_S) == 0
    table = status.out.read_text()
    for name in ("ApiIngress", "Dispatcher", "TextEncoder", "Denoiser", "Vae", "GradioIngress"):
        assert re.search(rf"{name} +1/1", table)
    assert "0 waiting" in table


def test_no_port_beyond_those_of_security_md_answers_who_has_no_token(service: Cluster) -> None:
    ports = {connection.laddr for _, process in service.processes() for connection in listening(process)}
    assert ("127.0.0.1", int(service.address.rpartition(":")[2])) in ports
    answers = {at: answer_to_a_stranger(*at) for at in ports if not ip_address(at[0]).is_loopback}
    open_ports = {at: words for at, words in answers.items() if words not in ("UNAUTHENTICATED", "401")}
    assert set(open_ports.values()) == {"metrics"}, answers
    assert len({at.port for at in open_ports} - RAYS_METRICS) == 1, open_ports


def test_no_replica_unpickles_what_a_stranger_sends(service: Cluster, tmp_path: Path) -> None:
    """Serve's calls between replicas carry pickles, and each replica listens for them on every interface."""
    replicas = [process for what, process in service.processes() if what.startswith("ray::ServeReplica")]
    ports = {connection.laddr.port for process in replicas for connection in listening(process)}
    token = (("authorization", f"Bearer {TOKEN.read_text().strip()}"),)
    opened = {
        (port, metadata): is_unpickled(port, metadata, tmp_path / f"{port}-{number}")
        for port in ports
        for number, metadata in enumerate(((), (("authorization", "Bearer wrong"),), token))
    }
    assert sum(by_token for (_, metadata), by_token in opened.items() if metadata == token) == len(replicas)
    assert not [at for at, unpickled in opened.items() if unpickled and at[1] != token]


def is_unpickled(port: int, metadata: tuple[tuple[str, str], ...], witness: Path) -> bool:
    """Whether a replica opens a pickle that makes a file."""
    payload = ASGIRequest(pickled_request_metadata=pickle.dumps(Touch(str(witness)))).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, suppress(grpc.RpcError):
        channel.unary_unary(UNPICKLES)(payload, timeout=10, metadata=metadata)
    return witness.exists()


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


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


@pytest.mark.nightly
def test_a_checkpoint_with_the_sums_of_another_exits_1_with_its_reason_and_ends_ray(
    tiny_sd: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_sd, tmp_path / "broken")
    (broken / "SHA256SUMS").write_text(f"{'0' * 64}  model_index.json\n")
    alone = Cluster(tmp_path, configured())
    run = alone.run("ops.launch", "--port", alone.address.rpartition(":")[2], "--model", str(broken))
    assert run.exit_code(READY_WITHIN_S) == 1
    assert "Starting Ray" in run.out.read_text()  # sums of gigabytes are taken once, there
    errors = run.err.read_text()
    assert "model_index.json: its SHA-256 is" in errors
    assert "Traceback" not in errors
    assert alive_in_session(run.process.pid) == []
