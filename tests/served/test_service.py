"""The whole service on a real cluster, as its clients see it."""

import base64
import io
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from openai import OpenAI
from PIL import Image

from models.checkpoint.card import read_card
from tests.cluster import Cluster
from tests.served.conftest import served

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
    service.rest()  # images of another test would share forwards
    assert draw(service, seed=7) == draw(service, seed=7)
    assert draw(service, seed=7) != draw(service, seed=8)


def test_rows_of_a_forward_change_while_pictures_are_drawn_and_nothing_is_restarted(service):
    before = [picture(draw(service, seed=seed, num_inference_steps=60)) for seed in range(3)]
    replicas = service.replicas("Denoiser")
    with ThreadPoolExecutor(3) as callers:
        drawn = [callers.submit(draw, service, seed=seed, num_inference_steps=60) for seed in range(3)]
        service.deploy(served(Denoiser={"user_config": {"max_rows": 2, "preview_interval_s": 0.1}}))
        during = [picture(one.result()) for one in drawn]
    assert service.replicas("Denoiser") == replicas
    for one, other in zip(before, during, strict=True):
        assert np.abs(one - other).max() <= 1
    service.deploy(served())


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
    ({"size": "100x128"}, "size"),
    ({"size": "0x0"}, "size"),
    ({"size": "128x1000000"}, "size"),
    ({"seed": -2}, "seed"),
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


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/videos", "does not generate videos"),
        ("/images/generations", "did you mean /v1/images/generations?"),
        ("/chat/completions", "generates images, and no text"),
        ("/nothing/here", "There is no such path"),
        ("/v1/nothing/here", "There is no such path"),
    ],
)
def test_a_path_that_there_is_not_is_a_404_in_our_shape_with_the_reason(service, path, words):
    status, body = service.post(path, {"prompt": PROMPT})
    assert (status, words in body["error"]["message"]) == (404, True)


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


def test_an_input_as_large_as_may_be_comes_through_serves_proxy_and_a_larger_one_is_refused(service):
    noise = io.BytesIO()
    pixels = np.random.default_rng(7).integers(0, 256, (2600, 2600, 3), np.uint8)
    Image.fromarray(pixels).save(noise, "png", compress_level=0)
    content = noise.getvalue()
    assert 19 * 2**20 < len(content) < 20 * 2**20
    with httpx.Client(base_url=f"{service.address}/v1", timeout=60) as client:
        sent = client.post("/inputs", files={"file": ("noise.png", content)})
        again = client.post("/inputs", content=content, headers={"Content-Type": "image/png"})
        assert (sent.status_code, again.status_code, sent.json()["width"]) == (201, 200, 2600)
        path = f"/inputs/{sent.json()['id']}"
        assert client.get(f"{path}/content").content == content
        larger = client.post("/inputs", content=content + b"x" * 2**20, headers={"Content-Type": "image/png"})
        assert (larger.status_code, larger.json()["error"]["code"]) == (413, "body_too_large")
        assert client.delete(path).status_code == 204
        assert client.get(path).status_code == 404


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


def test_an_ingress_whose_event_loop_hangs_is_replaced(service: Cluster) -> None:
    ingresses = {("generation", "ApiIngress"): "/v1/health", ("ui", "GradioIngress"): "/"}
    hung = {(app, name): service.replicas(name, app) for app, name in ingresses}
    for one in ingresses:
        service.hang(*one)
    for path in ingresses.values():
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(service.address + path, timeout=5)
    service.wait(lambda: not any(process.is_running() for processes in hung.values() for process in processes))
    service.wait(lambda: [service.get(path)[0] for path in ingresses.values()] == [200, 200])
