"""Models that are added, broken, put to sleep and woken, scaled and replaced while the service runs.

The last test leaves the model of the drills deployed: `test_drills` comes next.
"""

import base64
import contextlib
import io
import json
import shutil
import time
import urllib.request
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
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from models.checkpoint.card import read_card
from models.hires import Hires
from ops.config import ROOT, application
from tests.chaos.cluster import for_drills, scaled_checkpoint
from tests.cluster import Cluster
from tests.served.conftest import served

PROMPT = "a red circle on a blue background"
STAGES = ("TextEncoder", "Denoiser", "Vae")
TWICE = {stage: {"num_replicas": 2} for stage in STAGES}
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


# -- added while jobs run, and broken


@dataclass(frozen=True)
class Reloaded:
    """What was seen of jobs that ran while `make reload` added a second model, and a third that is broken."""

    config: dict[str, Any]
    watched: list[list[dict[str, Any]]]  # each state of each job
    broken: Path
    before: np.ndarray
    processes: list[psutil.Process]  # of the first model's stages, before


@pytest.fixture(scope="module")
def reloaded(service: Cluster, tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Reloaded:
    broken = shutil.copytree(tiny_sd, tmp_path_factory.mktemp("broken") / "tiny-sd")
    (broken / "unet" / "config.json").unlink()
    before, processes = draw(service), [process for stage in STAGES for process in service.replicas(stage)]
    service.config_path.write_text("applications: []")
    assert service.run("ops.reload", str(service.config_path)).exit_code(ANSWERS_WITHIN_S) == 1
    service.write(two_models(tiny_sd, broken))
    deployments = service.deployments()
    body = {"prompt": PROMPT, "num_inference_steps": 80, "num_images": 2}
    jobs = [service.submit(body | {"seed": 10 * k}) for k in range(8)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        watches = [pool.submit(watch_until_the_end, service, job_id) for job_id in jobs]
        assert service.run("ops.reload", str(service.config_path)).exit_code(ANSWERS_WITHIN_S) == 0
        service.wait(lambda: service.deployments() > deployments, service.launcher.said)
        watched = [watch.result(timeout=300) for watch in watches]
    service.wait(lambda: models_of(service) == ["shapes", "draft"], service.launcher.said)
    return Reloaded(service.config, watched, broken, before, processes)


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


@dataclass(frozen=True)
class Awake:
    """How the second model woke for a job, and what it took then."""

    job: dict[str, Any]
    told: list[tuple[float, float | None]]  # while the job waited: seconds left, and at most
    processes: list[psutil.Process]  # of its stages
    resident_bytes: int


@pytest.fixture(scope="module")
def awake(reloaded: Reloaded, service: Cluster) -> Awake:
    service.wait(lambda: running(service) == [0, 0, 0], lambda: service.get("/v1/ready"))
    job_id = service.submit({"prompt": PROMPT, "model": "draft", "num_inference_steps": 4})
    told = []
    while (job := service.state(job_id))["status"] in ("queued", "running"):
        if job["progress"]:
            told.append((job["progress"]["eta_s"], job["progress"]["eta_most_s"]))
        time.sleep(0.1)
    processes = [process for stage in STAGES for process in service.replicas(stage, "draft")]
    return Awake(job, told, processes, sum(process.memory_info().rss for process in processes))


def test_a_model_that_sleeps_wakes_for_a_job_and_its_wait_is_in_the_estimate(awake: Awake) -> None:
    assert awake.job["status"] == "succeeded"
    took_s = awake.job["timestamps"]["ended"] - awake.job["timestamps"]["started"]
    assert max(eta_s for eta_s, _ in awake.told) > 5
    assert max(most_s or 0 for _, most_s in awake.told) > took_s


def test_a_second_model_draws_its_own_pictures(awake: Awake, reloaded: Reloaded, service: Cluster) -> None:
    assert pixels(fetched(service.address + awake.job["images"][0]["url"])).shape != reloaded.before.shape


@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
def test_an_image_of_two_passes_is_one_job_with_one_progress_and_the_image_of_its_stages_in_a_row(
    awake: Awake, service: Cluster, tiny_sd: Path, upscaler: str
) -> None:
    from tests.stages import Stages

    hires = {"scale": 2.0, "strength": 0.6, "steps": 60, "upscaler": upscaler}
    body = {"prompt": PROMPT, "model": "draft", "num_inference_steps": 60, "seed": 7, "hires": hires}
    job = watch_until_the_end(service, service.submit(body))
    assert job[-1]["status"] == "succeeded", job[-1]
    progress = [state["progress"] for state in job if state["progress"]]
    assert {each["steps"] for each in progress} == {60 + 36}
    assert [each["step"] for each in progress] == sorted(each["step"] for each in progress)
    [image] = job[-1]["images"]
    assert image["attempts"] == 1
    assert image["spec"]["hires"] == hires | {"width": 64, "height": 64}
    stages = Stages(tiny_sd)
    spec = stages.spec(PROMPT, model="draft", num_inference_steps=60, hires=Hires(**hires))
    alone = stages.picture(spec).astype(int)
    assert np.abs(pixels(fetched(service.address + image["url"])) - alone).max() <= 1


# -- scaled


@pytest.fixture(scope="module")
def doubled(reloaded: Reloaded, service: Cluster) -> Cluster:
    """The service with two replicas of each stage of its first model; the second goes on as it was."""
    for deployment in application(reloaded.config, "shapes")["deployments"]:
        deployment |= TWICE.get(deployment["name"], {})
    service.deploy(reloaded.config, wait=False)  # all of it never runs: one model is broken
    service.wait(lambda: all(len(service.replicas(stage, "shapes")) == 2 for stage in STAGES))
    service.wait(lambda: service.state_of("shapes")["status"] == "RUNNING")
    return service


def test_each_stage_scales_and_its_replicas_share_batched_work(doubled: Cluster) -> None:
    prompts = [f"{PROMPT} {k}" for k in range(24)]
    with ThreadPoolExecutor(len(prompts)) as callers:
        list(callers.map(lambda prompt: draw(doubled, prompt=prompt, num_inference_steps=6), prompts))

    def at_work() -> dict[str, set[str]]:
        """Stage -> its replicas that have worked, as Prometheus sees them."""
        found = samples(doubled, "ray_darkroom_stage_seconds_count")
        return {stage: {each.labels["replica"] for each in found if of(stage, each) and each.value} for stage in STAGES}

    doubled.wait(lambda: all(len(replicas) >= 2 for replicas in at_work().values()), at_work)
    for stage, sizes, alone in (
        ("TextEncoder", "ray_serve_actual_batch_size", 1),
        ("Denoiser", "ray_darkroom_batch_rows", 2),
        ("Vae", "ray_serve_actual_batch_size", 1),
    ):
        every = sum(each.value for each in samples(doubled, f"{sizes}_count") if of(stage, each))
        buckets = [each for each in samples(doubled, f"{sizes}_bucket") if of(stage, each)]
        assert every > sum(each.value for each in buckets if float(each.labels["le"]) == alone), f"{stage}: no batch"


def samples(service: Cluster, name: str) -> list[Sample]:
    families = text_string_to_metric_families(service.metrics())
    return [each for family in families for each in family.samples if each.name == name]


def of(stage: str, sample: Sample) -> bool:
    return sample.labels.get("deployment") == stage


def test_an_idle_models_stages_give_their_memory_back_and_wake_together_to_more_where_more_is_asked_for(
    awake: Awake, doubled: Cluster
) -> None:
    assert len(awake.processes) == len(STAGES)
    assert awake.resident_bytes > 300 * 2**20
    doubled.wait(lambda: running(doubled) == [0, 0, 0], lambda: doubled.get("/v1/ready"))
    doubled.wait(lambda: not any(process.is_running() for process in awake.processes))
    long = {"prompt": PROMPT, "model": "draft", "num_inference_steps": 150}
    many = [doubled.submit(long | {"num_images": 8}) for _ in range(20)]  # more than one can do in half a minute
    few = [doubled.submit(long) for _ in range(4)]
    doubled.wait(lambda: running(doubled)[1:] in ([2, 1], [2, 2]), lambda: doubled.state_of("draft"))
    for job_id in many:
        doubled.call(f"/v1/jobs/{job_id}/cancel", {})
    ends = [doubled.ended(job_id) for job_id in few]
    assert [(end["status"], end["images"][0]["attempts"]) for end in ends] == [("succeeded", 1)] * 4


# -- replaced


def draw_across(service: Cluster, updates: list[dict[str, Any]], jobs: int) -> list[dict[str, Any]]:
    """Have so many jobs drawn across each update, and one after the last; return how they ended."""
    fields = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 6}
    ids = []
    for update in updates:
        ids += [service.submit(fields) for _ in range(jobs)]
        service.deploy(update)
    ids.append(service.submit(fields))
    ends = [service.ended(job_id) for job_id in ids]
    assert [end["status"] for end in ends] == ["succeeded"] * (len(updates) * jobs + 1)
    return ends


def check_versions(service: Cluster, ends: list[dict[str, Any]], versions: list[Path]) -> None:
    """Each picture is of one version, but for its last bits, which depend on the neighbours."""
    drawn: dict[str, list[np.ndarray]] = {}
    for end in ends:
        image = end["images"][0]
        drawn.setdefault(image["model_digest"], []).append(pixels(fetched(service.address + image["url"])))
    assert set(drawn) == {read_card(str(version)).digest for version in versions}
    for some in drawn.values():
        assert all(np.abs(one - some[0]).max() <= 1 for one in some)


@pytest.mark.nightly
def test_200_jobs_across_three_updates_are_drawn_and_no_picture_is_made_by_two_versions(
    doubled: Cluster, shapes: Path, tmp_path: Path
) -> None:
    doubled.deploy(served(**TWICE))
    others = [scaled_checkpoint(shapes, tmp_path / str(factor), factor) for factor in (1.02, 0.98)]
    updates = [served(models={"shapes": {"checkpoint": str(version)}}, **TWICE) for version in (*others, shapes)]
    check_versions(doubled, draw_across(doubled, updates, jobs=66), [shapes, *others])


def test_an_update_loses_and_fails_nothing_and_no_picture_is_made_by_two_versions(
    doubled: Cluster, shapes: Path, poisoned: Path
) -> None:
    """Two replicas of each stage become one, of other weights: those of the drills, which come next."""
    doubled.deploy(served(**TWICE))
    ends = draw_across(doubled, [for_drills(served(), poisoned)], jobs=40)
    check_versions(doubled, ends, [shapes, poisoned])
