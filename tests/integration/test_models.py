"""Models that are added, broken, scaled and replaced while the service runs."""

import base64
import io
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from models.card import read_card
from tests.service import Service

PROMPT = "a red circle on a blue background"
POLICY = "deployments.autoscaling:keep_step"
pytestmark = pytest.mark.full


@pytest.fixture
def deployed(service: Service):
    """The service, which the test may deploy anew; the next test finds it as it was."""
    yield service
    service.deploy()


def draw(service: Service, **fields: Any) -> np.ndarray:
    """A picture, as integers [H, W, 3]."""
    status, body = service.post("/v1/images/generations", {"prompt": PROMPT, "seed": 7, **fields})
    assert status == 200, body
    return pixels(base64.b64decode(body["data"][0]["b64_json"]))


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def state_of(service: Service, app: str) -> dict[str, Any]:
    """What Serve says of an application, as `/v1/ready` tells it."""
    return service.get("/v1/ready")[1]["applications"].get(app, {"status": "", "deployments": {}})


def test_a_second_model_draws_and_a_broken_third_says_why_while_the_others_serve(
    deployed: Service, tiny_sd: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_sd, tmp_path / "broken")
    (broken / "unet" / "config.json").unlink()
    before = draw(deployed)
    deployed.deploy(models={"tiny": {"checkpoint": str(tiny_sd)}, "broken": {"checkpoint": str(broken)}}, wait=False)
    deployed.wait(lambda: state_of(deployed, "broken")["status"] == "DEPLOY_FAILED")
    assert f"{broken / 'unet' / 'config.json'}" in state_of(deployed, "broken")["message"]
    deployed.wait(lambda: [card["id"] for card in deployed.get("/v1/models")[1]["data"]] == ["shapes", "tiny"])
    tiny = draw(deployed, model="tiny", num_inference_steps=2)
    assert tiny.shape != before.shape
    assert np.abs(draw(deployed, model="shapes") - before).max() <= 1
    status, body = deployed.post("/v1/jobs", {"prompt": PROMPT, "model": "broken"})
    assert (status, body["error"]["message"].split(".")[0]) == (503, "model: broken is not up")
    assert deployed.get("/v1/ready")[0] == 200


def other_weights(shapes: Path, folder: Path, factor: float) -> Path:
    """The shapes model with each weight of encoder, UNet and VAE changed a little: stages of two would not fit."""
    shutil.copytree(shapes, folder)
    for path in folder.rglob("*.safetensors"):
        save_file({name: weight * factor for name, weight in load_file(path).items()}, path, {"format": "pt"})
    return folder


def test_rolling_updates_lose_and_fail_nothing_and_no_picture_is_made_by_two_versions(
    deployed: Service, shapes: Path, tmp_path: Path
) -> None:
    """200 jobs across three updates of the model, with two replicas of each stage."""
    versions = [shapes, other_weights(shapes, tmp_path / "b", 1.02), other_weights(shapes, tmp_path / "c", 0.98)]
    twice = {name: {"num_replicas": 2} for name in ("TextEncoder", "Denoiser", "VaeDecoder")}
    fields = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 6}
    deployed.deploy(**twice)
    jobs = []
    for update in ({"checkpoint": str(versions[1])}, {"checkpoint": str(versions[2])}, {}):
        accepted = [deployed.post("/v1/jobs", fields) for _ in range(66)]
        assert {status for status, _ in accepted} == {202}
        jobs += [job["id"] for _, job in accepted]
        deployed.deploy(models={"shapes": update}, **twice)
    jobs += [deployed.post("/v1/jobs", fields)[1]["id"] for _ in range(2)]
    ends = [deployed.ended(job) for job in jobs]
    assert [end["status"] for end in ends] == ["succeeded"] * 200
    files = [(end["images"][0]["model_digest"], deployed.address + end["images"][0]["url"]) for end in ends]
    drawn: dict[str, list[np.ndarray]] = {}
    for digest, url in files:
        drawn.setdefault(digest, []).append(pixels(fetched(url)))
    assert set(drawn) == {read_card(str(version)).digest for version in versions}
    for some in drawn.values():  # one version, one picture: but for the last bits, which depend on the neighbours
        assert all(np.abs(one - some[0]).max() <= 1 for one in some)


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def stage_processes() -> dict[int, int]:
    """Process -> resident bytes, of the replicas of the three stages."""
    found = {}
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        name = " ".join(process.info["cmdline"] or ())
        if name.startswith("ray::ServeReplica:shapes:") and "Model" not in name:
            found[process.pid] = process.info["memory_info"].rss
    return found


def test_an_idle_models_stages_sleep_and_give_their_memory_back_and_wake_together(deployed: Service) -> None:
    quick = {"upscale_delay_s": 0, "downscale_delay_s": 2, "downscale_to_zero_delay_s": 2, "look_back_period_s": 11}
    scaling = {"num_replicas": None, "autoscaling_config": {"min_replicas": 0, "max_replicas": 2, **quick}}
    root = {"num_replicas": None, "autoscaling_config": {"min_replicas": 1, "max_replicas": 1}}
    stages = ("TextEncoder", "Denoiser", "VaeDecoder")
    deployed.deploy(policy=POLICY, Model=root, **dict.fromkeys(stages, scaling))
    draw(deployed, num_inference_steps=2)
    held = stage_processes()
    assert sum(held.values()) > 300 * 2**20

    def running() -> list[int]:
        parts = state_of(deployed, "shapes")["deployments"]
        return [parts[stage]["running"] for stage in stages if stage in parts]

    deployed.wait(lambda: running() == [0, 0, 0])
    deployed.wait(lambda: not any(map(psutil.pid_exists, held)))
    jobs = [deployed.post("/v1/jobs", {"prompt": PROMPT, "num_inference_steps": 150})[1]["id"] for _ in range(20)]
    deployed.wait(lambda: running()[1:] in ([2, 1], [2, 2]))  # more than one can do in half a minute
    ends = [deployed.ended(job) for job in jobs]
    assert [end["status"] for end in ends] == ["succeeded"] * 20
    assert all(end["images"][0]["attempts"] == 1 for end in ends), "a replica that left cut a picture"
    deployed.wait(lambda: running() == [0, 0, 0])
