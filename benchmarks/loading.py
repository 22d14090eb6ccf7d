"""What loading a UNet of Stable Diffusion 1.5's shape takes: seconds, and memory of its own. Linux only.

Its weights, at random and written to a temporary folder in each dtype, are checked and loaded by a process each.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from hashlib import file_digest
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from benchmarks.gpu import SD_15
from benchmarks.harness import ROOT, finish
from models.checkpoint.loading import load_component, parameter_bytes
from models.families.registry import FAMILIES

MIB = 2**20
SAMPLED_EVERY_S = 0.01


def write(folder: Path) -> None:
    """Write the weights as float32 and as float16."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD_15)
    unet = unet.to_empty(device="cpu")
    for parameter in unet.parameters():
        torch.nn.init.zeros_(parameter)
    unet.save_pretrained(folder / "float32" / "unet")
    unet.half().save_pretrained(folder / "float16" / "unet")


def own_bytes() -> int:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(folder: Path, dtype: str) -> dict[str, float]:
    """Check and load the weights of a folder; return the figures."""
    done, before = threading.Event(), own_bytes()
    peaks = [before]

    def sample() -> None:
        while not done.wait(SAMPLED_EVERY_S):
            peaks.append(own_bytes())

    threading.Thread(target=sample, daemon=True).start()
    start = time.perf_counter()
    for path in (folder / "unet").glob("*.safetensors"):
        with path.open("rb") as file:
            file_digest(file, "sha256")
    checked = time.perf_counter()
    unet = load_component(folder, FAMILIES["sd"], "unet", torch.device("cpu"), getattr(torch, dtype))
    loaded = time.perf_counter()
    done.set()
    return {
        "weights_mib": round(parameter_bytes(unet) / MIB),
        "check_s": round(checked - start, 1),
        "load_s": round(loaded - checked, 1),
        "own_peak_mib": round((max(*peaks, own_bytes()) - before) / MIB),
    }


def main() -> None:
    """Print the table; with a folder and a dtype, as each of its rows is measured, the figures of that one."""
    if len(sys.argv) == 3:
        print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
        return
    print(f"{'file':10}{'computed in':14}{'weights':>9}{'sha256':>9}{'load':>8}{'own memory, at most':>22}")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for stored in ("float32", "float16"):
            for dtype in ("float32", "bfloat16"):
                command = [sys.executable, "-m", "benchmarks.loading", f"{folder}/{stored}", dtype]
                said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
                row = rows[f"{stored} as {dtype}"] = json.loads(said.splitlines()[-1])
                print(
                    f"{stored:10}{dtype:14}{row['weights_mib']:5} MiB{row['check_s']:7} s{row['load_s']:6} s"
                    f"{row['own_peak_mib']:18} MiB"
                )
    finish("loading", {"unet": rows})


if __name__ == "__main__":
    main()
