"""What the default configuration holds in memory, process by process, and whose weights each stage has.

PSS counts a page that n processes share as 1/n of a page, so that the column adds up. Linux only.
"""

import math

import psutil
import ray
from ray import serve
from safetensors import safe_open

from benchmarks.harness import ROOT, finish, running_service
from deployments.stages import DENOISER, TEXT_ENCODER, VAE

MIB = 2**20
STAGES = {"text_encoder": TEXT_ENCODER.deployment, "unet": DENOISER.deployment, "vae": VAE.deployment}


def processes(pid: int) -> dict[str, float]:
    """PSS in MiB of every process below the launcher, itself included, by name."""
    found: dict[str, float] = {}
    launcher = psutil.Process(pid)
    for process in [launcher, *launcher.children(recursive=True)]:
        title = " ".join(process.cmdline()[:1]) or process.name()
        name = title.split("/")[-1] if not title.startswith("ray::") else title.split(" ")[0]
        name = "launcher" if process.pid == pid else name
        found[name] = found.get(name, 0.0) + process.memory_full_info().pss / MIB
    return found


def stored_bytes(stage: str) -> int:
    """Parameters of a stage as the checkpoint has them, counted as fp32, which is how replicas hold them."""
    total = 0
    for path in (ROOT / "models" / "checkpoints" / "shapes" / stage).glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            total += sum(4 * math.prod(file.get_slice(name).get_shape()) for name in list(file.keys()))
    return total


def held_bytes() -> dict[str, int]:
    """What the weights in each stage's replica take, asked of the replicas of the service that runs here."""
    ray.init(address="auto", namespace="serve", logging_level="ERROR", log_to_driver=False)
    held = {
        stage: serve.get_deployment_handle(name, "shapes").broadcast("stats").results()[0].parameter_bytes
        for stage, name in STAGES.items()
    }
    ray.shutdown()
    return held


def main() -> None:
    """Print the tables."""
    with running_service() as service:
        for seed in range(3):
            service.call("/v1/images/generations", {"prompt": "a red circle on a blue background", "seed": seed})
        found = processes(service.pid)
        held = held_bytes()
    print(f"{'process':50}{'PSS MiB':>10}")
    for name, size in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{name:50}{size:10.0f}")
    print(f"{'all':50}{sum(found.values()):10.0f}\n")
    print(f"{'weights (MiB, fp32)':30}{'in the replica':>16}{'in the checkpoint':>20}")
    for stage, name in STAGES.items():
        print(f"{name + ' (' + stage + ')':30}{held[stage] / MIB:16.1f}{stored_bytes(stage) / MIB:20.1f}")
    weights = {name: round(held[stage] / MIB, 1) for stage, name in STAGES.items()}
    processes_mib = {name: round(size) for name, size in found.items()}
    finish("memory", {"total_mib": sum(processes_mib.values()), "processes_mib": processes_mib, "weights_mib": weights})


if __name__ == "__main__":
    main()
