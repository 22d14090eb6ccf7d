"""Models that are scaled, replaced, added, broken, put to sleep and woken while the service runs."""

import base64
import contextlib
import io
import json
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from models.checkpoint import read_card
from ops.config import ROOT, application
from tests.chaos.cluster import scaled_checkpoint
from tests.cluster import Cluster
from tests.served.conftest import served

PROMPT = "a red circle on a blue background"
STAGES = ("TextEncoder", "Denoiser", "VaeDecoder")
ANSWERS_WITHIN_S = 60


def draw(service: Cluster, **fields: Any) -> np.ndarray:
    """A picture, as integers [H, W, 3]."""
    status, body = service.post("/v1/images/generations", {"prompt": PROMPT, "seed": 7, **fields})
    assert status == 200, body
    return pixels(base64.b64decode(body["data"][0]["b64_json"]))


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return answer.read()


# -- scaled and replaced


@pytest.fixture(scope="module")
def doubled(service: Cluster) -> Cluster:
    """The service with two replicas of each stage."""
    service.deploy(served(**{stage: {"num_replicas": 2} for stage in STAGES}))
    return service


def test_each_stage_scales_and_its_replicas_share_batched_work(doubled: Cluster) -> None:
    def worked() -> dict[str, set[str]]:
        """Deployment -> replicas that have worked, as Prometheus sees them."""
        found: dict[str, set[str]] = {stage: set() for stage in STAGES}
        for labels, count in re.findall(r"^ray_darkroom_stage_seconds_count\{(.*)\} (\S+)$", doubled.metrics(), re.M):
            label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if label["deployment"] in found and float(count) > 0:
                found[label["deployment"]].add(label["replica"])
        return found

    names = {stage: {f"{process.pid}" for process in doubled.replicas(stage)} for stage in STAGES}
    assert all(len(pids) == 2 for pids in names.values())
    prompts = [f"{PROMPT} {k}" for k in range(24)]
    with ThreadPoolExecutor(len(prompts)) as callers:
        list(callers.map(lambda prompt: draw(doubled, prompt=prompt, num_inference_steps=6), prompts))
    doubled.wait(lambda: all(len(replicas) >= 2 for replicas in worked().values()), worked)


@pytest.mark.parametrize(
    ("factors", "jobs"), [((1.02,), 20), pytest.param((1.02, 0.98), 66, marks=pytest.mark.nightly)], ids=["one", "two"]
)
def test_rolling_updates_lose_and_fail_nothing_and_no_picture_is_made_by_two_versions(
    doubled: Cluster, shapes: Path, tmp_path: Path, factors: tuple[float, ...], jobs: int
) -> None:
    """Jobs are drawn across updates to other weights, with two replicas of each stage, and back, with one."""
    versions = [scaled_checkpoint(shapes, tmp_path / str(factor), factor) for factor in factors]
    twice = {stage: {"num_replicas": 2} for stage in STAGES}
    updates = [served(models={"shapes": {"checkpoint": str(version)}}, **twice) for version in versions] + [served()]
    ids = []
    for update in updates:
        ids += [doubled.submit({"prompt": PROMPT, "seed": 7, "num_inference_steps": 6}) for _ in range(jobs)]
        doubled.deploy(update)
    ids.append(doubled.submit({"prompt": PROMPT, "seed": 7, "num_inference_steps": 6}))
    ends = [doubled.ended(job) for job in ids]
    assert [end["status"] for end in ends] == ["succeeded"] * (len(updates) * jobs + 1)
    drawn: dict[str, list[np.ndarray]] = {}
    for end in ends:
        image = end["images"][0]
        drawn.setdefault(image["model_digest"], []).append(pixels(fetched(doubled.address + image["url"])))
    assert set(drawn) == {read_card(str(version)).digest for version in (shapes, *versions)}
    for some in drawn.values():  # one version, one picture: but for the last bits, which depend on the neighbours
        assert all(np.abs(one - some[0]).max() <= 1 for one in some)


# -- added while jobs run, and broken


@dataclass(frozen=True)
class Reloaded:
    """What was seen of jobs that ran while `make reload` added a second model, and a third that is broken."""

    watched: list[list[dict[str, Any]]]  # each state of each job
    broken: Path
    before: np.ndarray
    processes: list[psutil.Process]  # of the first model's stages, before


@pytest.fixture(scope="module")
def reloaded(service: Cluster, tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloaded]:
    broken = shutil.copytree(tiny_sd, tmp_path_factory.mktemp("broken") / "tiny-sd")
    (broken / "unet" / "config.json").unlink()
    before, processes = draw(service), [process for stage in STAGES for process in service.replicas(stage)]
    body = {"prompt": PROMPT, "num_inference_steps": 100, "num_images": 2}
    jobs = [service.submit(body | {"seed": 10 * k}) for k in range(8)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        watches = [pool.submit(watch_until_the_end, service, job_id) for job_id in jobs]
        service.config_path.write_text("applications: []")
        refused = service.run("ops.reload", str(service.config_path))
        assert refused.exit_code(ANSWERS_WITHIN_S) == 1
        deployments = service.deployments()
        service.write(two_models(tiny_sd, broken))
        assert service.run("ops.reload", str(service.config_path)).exit_code(ANSWERS_WITHIN_S) == 0
        service.wait(lambda: service.deployments() > deployments, service.launcher.said)
        watched = [watch.result(timeout=300) for watch in watches]
    service.wait(lambda: models_of(service) == ["shapes", "draft"], service.launcher.said)
    yield Reloaded(watched, broken, before, processes)
    service.deploy(served())


def two_models(second: Path, broken: Path) -> dict[str, Any]:
    """The config of two models, the second another one's weights that soon sleeps, beside the first as it was."""
    config = served(models={"draft": {"checkpoint": str(second)}, "broken": {"checkpoint": str(broken)}})
    documented = yaml.safe_load((ROOT / "ops" / "configs" / "two-models.yaml").read_text(encoding="utf-8"))
    draft, shown = application(config, "draft"), application(documented, "draft")
    draft["autoscaling_policy"] = shown["autoscaling_policy"]
    draft["deployments"] = shown["deployments"]
    for deployment in draft["deployments"]:
        deployment["ray_actor_options"] = {"num_cpus": 0.01}
        if deployment["name"] in STAGES:
            deployment["autoscaling_config"] |= {"max_replicas": 2, "downscale_delay_s": 2, "look_back_period_s": 11}
    return config


def models_of(service: Cluster) -> list[str]:
    status, body = service.get("/v1/models")
    return [card["id"] for card in body["data"]] if status == 200 else []


def watch_until_the_end(service: Cluster, job_id: str) -> list[dict[str, Any]]:
    """Every state that a watcher sees who comes back whenever the stream is cut."""
    states: list[dict[str, Any]] = []
    while not states or states[-1]["status"] in ("queued", "running"):
        url = f"{service.address}/v1/jobs/{job_id}/watch"
        with contextlib.suppress(OSError, HTTPException), urllib.request.urlopen(url, timeout=120) as stream:
            states += [json.loads(line[6:]) for line in stream if line.startswith(b"data: ")]
    return states


def test_a_reload_that_replaces_the_queue_loses_nothing_and_no_watcher_stays_behind(reloaded: Reloaded) -> None:
    for states in reloaded.watched:
        assert [state["version"] for state in states] == sorted(state["version"] for state in states)
        assert states[-1]["status"] == "succeeded"
        assert [image["index"] for image in states[-1]["images"]] == [0, 1]
    assert any(states[-1]["warnings"] for states in reloaded.watched), "nothing was under way when it was replaced"


def test_a_model_that_did_not_change_keeps_its_replicas(reloaded: Reloaded, service: Cluster) -> None:
    assert [process for stage in STAGES for process in service.replicas(stage, "shapes")] == reloaded.processes


def test_a_broken_model_says_why_while_the_others_serve(reloaded: Reloaded, service: Cluster) -> None:
    service.wait(lambda: service.state_of("broken")["status"] == "DEPLOY_FAILED")
    assert f"{reloaded.broken / 'unet' / 'config.json'}" in service.state_of("broken")["message"]
    status, body = service.post("/v1/jobs", {"prompt": PROMPT, "model": "broken"})
    assert (status, body["error"]["message"].split(".")[0]) == (503, "model: broken is not up")
    assert service.get("/v1/ready")[0] == 200
    assert np.abs(draw(service, model="shapes") - reloaded.before).max() <= 1


# -- asleep and awake


def running(service: Cluster) -> list[int]:
    parts = service.state_of("draft")["deployments"]
    return [parts[stage]["running"] for stage in STAGES if stage in parts]


def test_a_model_that_sleeps_wakes_for_a_job_as_it_was_told_gives_its_memory_back_and_wakes_to_more_for_more(
    reloaded: Reloaded, service: Cluster
) -> None:
    service.wait(lambda: running(service) == [0, 0, 0], lambda: service.get("/v1/ready"))
    job_id = service.submit({"prompt": PROMPT, "model": "draft", "num_inference_steps": 4})
    told = []
    while (job := service.state(job_id))["status"] in ("queued", "running"):
        if job["progress"]:
            told.append((job["progress"]["eta_s"], job["progress"]["eta_most_s"]))
        time.sleep(0.1)
    held = [process for stage in STAGES for process in service.replicas(stage, "draft")]
    assert sum(process.memory_info().rss for process in held) > 300 * 2**20
    assert job["status"] == "succeeded"
    took_s = job["timestamps"]["ended"] - job["timestamps"]["started"]
    assert max(eta_s for eta_s, _ in told) > 5
    assert max(most_s or 0 for _, most_s in told) > took_s
    assert pixels(fetched(service.address + job["images"][0]["url"])).shape != reloaded.before.shape

    service.wait(lambda: running(service) == [0, 0, 0], lambda: service.get("/v1/ready"))
    service.wait(lambda: not any(process.is_running() for process in held))
    long = {"prompt": PROMPT, "model": "draft", "num_inference_steps": 150, "num_images": 8}
    *jobs, last, newest = [service.submit(long) for _ in range(20)]  # more than one can do in half a minute
    service.wait(lambda: running(service)[1:] in ([2, 1], [2, 2]), lambda: service.state_of("draft"))
    for job_id in jobs:
        service.call(f"/v1/jobs/{job_id}/cancel", {})
    ends = [service.ended(job_id) for job_id in (last, newest)]
    assert [end["status"] for end in ends] == ["succeeded"] * 2
    assert all(image["attempts"] == 1 for end in ends for image in end["images"]), "a picture began again"
