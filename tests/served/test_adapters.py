"""LoRAs on a real cluster: any mix of them shares the queue and the forwards."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from models.checkpoint.card import read_card
from tests.adapters import sum_of
from tests.cluster import Cluster

ADAPTERS = Path("models/checkpoints/shapes-adapters")
PROMPT = "a red circle on a blue background"
Chosen = Sequence[tuple[str, float]]
MIX: tuple[Chosen, ...] = ((), (("chalk", 1.0),), (("stained-glass", 0.75), ("embroidery", -0.5)))


def as_request(chosen: Chosen) -> list[dict[str, object]]:
    return [{"name": name, "weight": weight} for name, weight in chosen]


def generated(service: Cluster, chosen: Chosen) -> np.ndarray:
    status, body = service.post("/v1/images/generations", {"prompt": PROMPT, "seed": 7, "loras": as_request(chosen)})
    assert status == 200, body
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"])))).astype(int)


def test_images_of_other_loras_that_share_forwards_are_each_the_diffusers_image(service, shapes):
    pipeline = StableDiffusionPipeline.from_pretrained(shapes)
    guidance = read_card(str(shapes)).defaults["guidance_scale"]
    for name in ("chalk", "stained-glass", "embroidery"):
        pipeline.load_lora_weights(ADAPTERS, weight_name=f"{name}.safetensors", adapter_name=name)

    def reference(chosen: Chosen) -> np.ndarray:
        pipeline.enable_lora() if chosen else pipeline.disable_lora()
        if chosen:
            pipeline.set_adapters([name for name, _ in chosen], [weight for _, weight in chosen])
        generator = torch.Generator("cpu").manual_seed(7)
        output = pipeline(PROMPT, num_inference_steps=20, guidance_scale=guidance, generator=generator)
        return np.asarray(output.images[0]).astype(int)

    with ThreadPoolExecutor(len(MIX)) as callers:
        ours = list(callers.map(lambda chosen: generated(service, chosen), MIX))
    theirs = [reference(chosen) for chosen in MIX]
    for image, expected in zip(ours, theirs, strict=True):
        assert np.abs(image - expected).max() <= 1
    assert np.abs(theirs[0] - theirs[1]).max() > 1


def test_a_job_lists_the_digests_of_its_loras_and_a_weighted_prompt_names_them(service):
    request = {"prompt": f"{PROMPT} <lora:chalk:0.5>", "prompt_syntax": "weighted", "num_inference_steps": 1}
    status, job = service.post("/v1/jobs", request)
    assert status == 202, job
    [spec] = job["specs"]
    digest = sum_of(ADAPTERS / "chalk.safetensors")
    assert [(lora["name"], lora["weight"], lora["sha256"]) for lora in spec["loras"]] == [("chalk", 0.5, digest)]


def test_a_name_that_is_not_served_is_refused_with_the_nearest(service):
    status, body = service.post("/v1/jobs", {"prompt": PROMPT, "loras": [{"name": "chalc"}]})
    assert (status, body["error"]["param"]) == (400, "loras[0].name")
    assert "Near are chalk" in body["error"]["message"]
