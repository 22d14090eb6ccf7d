"""What the service adds to a picture: HTTP through three deployments against the diffusers pipeline in this process.

Both draw the same 20-step guided picture from the same weights with the same number of threads, in turns, from prompt
to PNG. Then the receipts say where the difference goes.
"""

import base64
import io
import statistics
import time

import torch
import yaml
from diffusers import StableDiffusionPipeline

from benchmarks.harness import ROOT, Service, finish, milliseconds, running_service
from ops.config import application

PROMPT = "a red circle on a blue background"
ROUNDS = 40
WARM_UP = 5


def in_process(pipeline: StableDiffusionPipeline, seed: int) -> bytes:
    """One picture as a Spaces demo draws it."""
    generator = torch.Generator("cpu").manual_seed(seed)
    image = pipeline(PROMPT, num_inference_steps=20, guidance_scale=4.0, generator=generator).images[0]
    target = io.BytesIO()
    image.save(target, "png")
    return target.getvalue()


def over_http(service: Service, seed: int) -> bytes:
    """The same picture from the service."""
    body = {"prompt": PROMPT, "num_inference_steps": 20, "guidance_scale": 4.0, "seed": seed}
    return base64.b64decode(service.call("/v1/images/generations", body)["data"][0]["b64_json"])


def timed(function, *args: object) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    threads = application(config, "shapes")["args"]["denoiser"]["threads"]
    torch.set_num_threads(threads)
    pipeline = StableDiffusionPipeline.from_pretrained(ROOT / "models" / "checkpoints" / "shapes")
    pipeline.set_progress_bar_config(disable=True)
    with running_service() as service:
        local, http = [], []
        for seed in range(WARM_UP + ROUNDS):
            local.append(timed(in_process, pipeline, seed))
            http.append(timed(over_http, service, seed))
        receipts = [job["images"][0] for job in service.call("/v1/jobs?limit=100")["data"]][:ROUNDS]
    local, http = local[WARM_UP:], http[WARM_UP:]
    stages = {name: [receipt[name] for receipt in receipts] for name in ("encode_s", "denoise_s", "decode_s")}
    medians = {name: statistics.median(values) for name, values in stages.items()}
    rest = statistics.median(http) - sum(medians.values())
    added = statistics.median(http) - statistics.median(local)
    print(f"one 20-step guided picture, {threads} threads, {ROUNDS} rounds in turns (ms)\n")
    print(f"{'':32}{'p50':>8} {'p95':>8}")
    print(f"{'diffusers in process':32}{milliseconds(local)}")
    print(f"{'HTTP, three deployments':32}{milliseconds(http)}")
    for name, values in stages.items():
        print(f"{'  ' + name.removesuffix('_s') + ' (receipt)':32}{milliseconds(values)}")
    print(f"{'  calls, queue, HTTP':32}{rest * 1000:8.1f}")
    print(f"{'added':32}{added * 1000:8.1f}\n")
    finish(
        "overhead",
        {
            "threads": threads,
            "local_p50_ms": round(statistics.median(local) * 1000, 1),
            "http_p50_ms": round(statistics.median(http) * 1000, 1),
            "added_p50_ms": round(added * 1000, 1),
            **{f"{name.removesuffix('_s')}_p50_ms": round(value * 1000, 1) for name, value in medians.items()},
        },
    )


if __name__ == "__main__":
    main()
