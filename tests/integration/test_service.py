"""The whole service on a real cluster, as its clients see it."""

import base64
import contextlib
import io
import json
import os
import signal
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import numpy as np
import psutil
import pytest
import torch
from diffusers import StableDiffusionPipeline
from openai import OpenAI
from PIL import Image

from models.card import read_card

PROMPT = "a red circle on a blue background"


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def draw(service, **fields) -> bytes:
    status, body = service.post("/v1/images/generations", {"prompt": PROMPT, **fields})
    assert status == 200, body
    return base64.b64decode(body["data"][0]["b64_json"])


def test_a_picture_over_http_is_the_diffusers_picture_of_the_same_seed(service, shapes):
    pipeline = StableDiffusionPipeline.from_pretrained(shapes)
    pipeline.set_progress_bar_config(disable=True)
    guidance = read_card(str(shapes)).defaults["guidance_scale"]

    def reference(steps: int) -> np.ndarray:
        generator = torch.Generator("cpu").manual_seed(7)
        output = pipeline(PROMPT, num_inference_steps=steps, guidance_scale=guidance, generator=generator)
        return np.asarray(output.images[0]).astype(int)

    ours = picture(draw(service, seed=7))
    assert ours.shape == (128, 128, 3)
    assert np.abs(ours - reference(20)).max() <= 1
    assert np.abs(ours - reference(21)).max() > 1


def test_the_same_call_twice_on_an_idle_service_gives_the_same_bytes(service):
    assert draw(service, seed=7) == draw(service, seed=7)
    assert draw(service, seed=7) != draw(service, seed=8)


def test_rows_of_a_forward_change_while_pictures_are_drawn_and_nothing_is_restarted(service):
    before = [picture(draw(service, seed=seed, num_inference_steps=60)) for seed in range(4)]
    [pid] = service.pids("shapes", "Denoiser")
    with ThreadPoolExecutor(4) as callers:
        drawn = [callers.submit(draw, service, seed=seed, num_inference_steps=60) for seed in range(4)]
        service.deploy(Denoiser={"user_config": {"max_rows": 2, "preview_interval_s": 0.1}})
        during = [picture(one.result()) for one in drawn]
    assert service.pids("shapes", "Denoiser") == [pid]
    for one, other in zip(before, during, strict=True):
        assert np.abs(one - other).max() <= 1
    service.deploy()


def test_the_official_openai_client_gets_pictures_and_a_stream(service):
    client = OpenAI(base_url=f"{service.address}/v1", api_key="unused", max_retries=0)
    answer = client.images.generate(prompt=PROMPT, n=2, size="128x128", extra_body={"seed": 7, "guidance_scale": 4})
    assert [item.model_extra["seed"] for item in answer.data] == [7, 8]
    events = list(
        client.images.generate(
            prompt=PROMPT, stream=True, partial_images=2, extra_body={"seed": 7, "num_inference_steps": 60}
        )
    )
    assert {event.type for event in events[:-1]} == {"image_generation.partial_image"}
    assert events[-1].type == "image_generation.completed"
    assert picture(base64.b64decode(events[-1].b64_json)).shape == (128, 128, 3)


def test_a_prompt_that_is_too_long_is_drawn_with_a_warning_that_quotes_what_was_cut(service):
    words = " ".join(["red"] * 75)
    status, body = service.post("/v1/images/generations", {"prompt": f"{words} and a zebra", "num_inference_steps": 2})
    assert status == 200
    assert "and a zebra" in body["warnings"][0]


@pytest.mark.parametrize("prompt", ["日本の富士山", "مرحبا", "🙂🙃", "\"'`\\", "<b>&amp;</b>", "\u2028\u0001"])
def test_a_prompt_in_any_script_gives_a_picture(service, prompt):
    status, body = service.post("/v1/images/generations", {"prompt": prompt, "num_inference_steps": 2})
    assert status == 200, body


BAD = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": "x" * 100_000}, "prompt"),
    ({"prompt": "a\0b"}, "prompt"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 151}, "num_inference_steps"),
    ({"num_inference_steps": "ten"}, "num_inference_steps"),
    ({"guidance_scale": -1}, "guidance_scale"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"size": "100x128"}, "width"),
    ({"size": "0x0"}, "width"),
    ({"size": "128x1000000"}, "size"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**64}, "seed"),
    ({"sampler": "magic"}, "sampler"),
    ({"model": "magic"}, "model"),
    ({"colour": "red"}, "colour"),
    ({"n": 0}, "n"),
    ({"n": 11}, "n"),
]


@pytest.mark.parametrize(("fields", "name"), BAD, ids=[f"{name}={str(f.get(name))[:12]}" for f, name in BAD])
def test_bad_input_is_refused_with_the_field_named_and_nothing_is_queued(service, fields, name):
    status, body = service.post("/v1/images/generations", {"prompt": PROMPT, **fields})
    assert status == (404 if name == "model" else 400)
    assert body["error"]["param"] == name
    assert name in body["error"]["message"]
    _, queue = service.get("/v1/queue")
    assert (queue["waiting"], queue["running"]) == (0, 0)


def test_a_wrong_content_type_and_broken_json_are_refused_in_words(service):
    status, body = service.post("/v1/images/generations", b"prompt=red", "application/x-www-form-urlencoded")
    assert (status, body["error"]["param"]) == (400, "Content-Type")
    status, body = service.post("/v1/images/generations", b'{"prompt": ')
    assert status == 400
    assert "JSON" in body["error"]["message"]


def test_a_job_is_submitted_watched_and_its_file_read(service):
    status, job = service.post("/v1/jobs", {"prompt": PROMPT, "seed": 1, "num_images": 2})
    assert status == 202
    with urllib.request.urlopen(f"{service.address}/v1/jobs/{job['id']}/watch") as stream:
        events = stream.read().decode()
    assert events.count("event: job") >= 2
    _, job = service.get(f"/v1/jobs/{job['id']}")
    assert job["status"] == "succeeded"
    assert [image["seed"] for image in job["images"]] == [1, 2]
    with urllib.request.urlopen(service.address + job["images"][0]["url"]) as file:
        assert file.headers["Content-Type"] == "image/png"
        assert picture(file.read()).shape == (128, 128, 3)


def test_cancelling_ends_a_running_job_and_frees_the_denoiser(service):
    _, job = service.post("/v1/jobs", {"prompt": PROMPT, "num_inference_steps": 150, "num_images": 4})
    status, cancelled = service.post(f"/v1/jobs/{job['id']}/cancel", {})
    assert (status, cancelled["status"]) == (200, "cancelled")
    assert service.post(f"/v1/jobs/{job['id']}/cancel", {})[0] == 409
    draw(service, num_inference_steps=2)
    _, queue = service.get("/v1/queue")
    assert queue["running"] == 0


def test_the_page_and_the_documentation_answer(service):
    status, page = service.get("/")
    assert status == 200
    assert "gradio" in page
    assert service.get("/v1/docs")[0] == 200
    assert "/images/generations" in str(service.get("/v1/openapi.json")[1]["paths"].keys())


@pytest.mark.full
def test_a_stage_scaled_to_zero_wakes_on_the_first_job_and_its_wait_is_in_the_estimate(service):
    scaling = {"min_replicas": 0, "max_replicas": 1, "upscale_delay_s": 0.5, "downscale_delay_s": 1}
    service.deploy(
        Denoiser={
            "num_replicas": None,
            "autoscaling_config": scaling | {"metrics_interval_s": 1, "look_back_period_s": 2},
        }
    )

    def denoisers() -> int:
        status, ready = service.get("/v1/ready")
        assert status == 200, ready["applications"]["shapes"]["deployments"]["Denoiser"]
        return ready["applications"]["shapes"]["deployments"]["Denoiser"]["running"]

    service.wait(lambda: denoisers() == 0)
    _, job = service.post("/v1/jobs", {"prompt": PROMPT, "num_inference_steps": 4})
    told = []
    while (job := service.get(f"/v1/jobs/{job['id']}")[1])["status"] == "running":
        told.append((job["progress"]["eta_s"], job["progress"]["eta_most_s"]))
        time.sleep(0.2)
    assert job["status"] == "succeeded"
    took_s = job["timestamps"]["ended"] - job["timestamps"]["started"]
    assert max(eta_s for eta_s, _ in told) > 5
    assert max(most_s or 0 for _, most_s in told) > took_s
    assert denoisers() == 1
    service.deploy()


@pytest.mark.full
def test_a_redeploy_under_load_loses_nothing_and_no_watcher_stays_behind(service):
    """Other arguments replace every replica, the Dispatcher's too, while jobs run and wait."""
    body = {"prompt": PROMPT, "num_inference_steps": 100, "num_images": 2}
    jobs = [service.post("/v1/jobs", body | {"seed": 10 * k})[1]["id"] for k in range(8)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        watches = [pool.submit(watch_until_the_end, service, job_id) for job_id in jobs]
        service.deploy(queue={"max_waiting": 255})
        for states in (watch.result(timeout=300) for watch in watches):
            assert [state["version"] for state in states] == sorted(state["version"] for state in states)
            assert states[-1]["status"] == "succeeded"
            assert [image["index"] for image in states[-1]["images"]] == [0, 1]
    restarted = [state for job_id in jobs for state in [service.get(f"/v1/jobs/{job_id}")[1]] if state["warnings"]]
    assert restarted, "nothing was under way when the Dispatcher was replaced"
    service.deploy()


@pytest.mark.full
def test_a_replica_that_hangs_is_ended_and_its_picture_begins_again(service):
    service.deploy(Denoiser={"health_check_period_s": 1, "health_check_timeout_s": 2})
    _, job = service.post("/v1/jobs", {"prompt": PROMPT, "num_inference_steps": 150})
    service.wait(lambda: (service.get(f"/v1/jobs/{job['id']}")[1]["progress"] or {}).get("step", 0) > 0)
    [denoiser] = service.pids("shapes", "Denoiser")
    os.kill(denoiser, signal.SIGSTOP)
    service.wait(lambda: not psutil.pid_exists(denoiser))
    end = watch_until_the_end(service, job["id"])[-1]
    assert end["status"] == "succeeded"
    assert end["warnings"]
    service.deploy()


@pytest.mark.full
def test_an_ingress_whose_event_loop_hangs_is_replaced_within_a_minute(service):
    """As the configuration says, nothing hurried: half a minute of silence, and the start of another replica."""
    ingresses = {("generation", "ApiIngress"): "/v1/health", ("ui", "GradioIngress"): "/"}
    hung = {one: service.pids(*one) for one in ingresses}
    for one in ingresses:
        service.hang(*one)
    since = time.monotonic()
    for path in ingresses.values():
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(service.address + path, timeout=5)
    service.wait(lambda: all(not set(service.pids(*one)) & set(pids) for one, pids in hung.items()))
    service.wait(lambda: [service.get(path)[0] for path in ingresses.values()] == [200, 200])
    assert time.monotonic() - since < 60
    assert not any(psutil.pid_exists(pid) for pids in hung.values() for pid in pids)


def watch_until_the_end(service, job_id: str) -> list[dict]:
    """Every state that a watcher sees who comes back whenever the stream is cut."""
    states = []
    while not states or states[-1]["status"] in ("queued", "running"):
        url = f"{service.address}/v1/jobs/{job_id}/watch"
        with contextlib.suppress(OSError, HTTPException), urllib.request.urlopen(url, timeout=120) as stream:
            states += [json.loads(line[6:]) for line in stream if line.startswith(b"data: ")]
    return states


@pytest.mark.parametrize(
    "stage",
    [
        "Denoiser",
        pytest.param("TextEncoder", marks=pytest.mark.full),
        pytest.param("VaeDecoder", marks=pytest.mark.full),
    ],
)
def test_each_stage_scales_on_its_own_and_its_replicas_share_batched_work(service, stage):
    from ray import serve

    service.deploy(**{stage: {"num_replicas": 2}})
    handle = serve.get_deployment_handle(stage, "shapes")
    before = sum(work.pictures for work in handle.broadcast("work").results())
    with ThreadPoolExecutor(24) as pool:
        prompts = [f"a red circle on a blue background {k} {stage}" for k in range(24)]
        list(pool.map(lambda prompt: draw(service, prompt=prompt, num_inference_steps=6), prompts))
    works = handle.broadcast("work").results()
    assert len(works) == 2
    assert all(work.pictures > 0 for work in works)
    assert sum(work.pictures for work in works) - before >= 24
    assert max(work.largest for work in works) > 1
    service.deploy(**{stage: {"num_replicas": 1}})
