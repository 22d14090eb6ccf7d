"""What loading weights takes: seconds, and memory. Linux only.

A UNet of Stable Diffusion 1.5's shape, by the dtypes of file and computation; and all of Stable Diffusion XL in float16
(from a diffusers folder and from a single file, 7 GB each, in `--scratch`). Weights are random; a process of
its own checks and loads those of each row.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.gpu import SD_15, SDXL, VAE
from benchmarks.harness import ROOT, finish
from models.checkpoint.loading import load_component, parameter_bytes
from models.checkpoint.location import resolve_checkpoint
from models.families.registry import FAMILIES
from tests.original_layout import open_clip, original_vae, unet_name

MIB = 2**20
SAMPLED_EVERY_S = 0.01
XL_TEXT = {"max_position_embeddings": 77, "vocab_size": 49408, "layer_norm_eps": 1e-5}
XL_TEXTS = {  # hidden_size, layers, heads
    "text_encoder": (CLIPTextModel, 768, 12, "quick_gelu"),
    "text_encoder_2": (CLIPTextModelWithProjection, 1280, 32, "gelu"),
}
XL_COMPONENTS = ("text_encoder", "text_encoder_2", "unet", "vae")
RUNS = 3  # of XL, for each layout


def write(folder: Path) -> None:
    """Write the weights of Stable Diffusion 1.5's UNet as float32 and as float16."""
    unet = filled(UNet2DConditionModel, torch.float32, **SD_15)
    unet.save_pretrained(folder / "float32" / "unet")
    unet.half().save_pretrained(folder / "float16" / "unet")


def filled(kind: Any, dtype: torch.dtype, *config: Any, **options: Any) -> Any:
    """Return a model whose weights are one block of random numbers again and again."""
    with torch.device("meta"):
        model = kind(*config, **options)
    model = model.to(dtype).to_empty(device="cpu")
    block = (torch.randn(2**20) / 50).to(dtype)
    for parameter in model.parameters():
        parameter.data = block.repeat(-(-parameter.numel() // len(block)))[: parameter.numel()].view(parameter.shape)
    return model


def write_xl(folder: Path) -> None:
    """Write the weights of XL as a diffusers folder and as a single file, in float16."""
    tensors = dict[str, torch.Tensor]()
    for name, (kind, width, layers, activation) in XL_TEXTS.items():
        config = CLIPTextConfig(
            **XL_TEXT,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            projection_dim=width,
            hidden_act=activation,
        )
        filled(kind, torch.float16, config).save_pretrained(folder / "folder" / name)
    filled(UNet2DConditionModel, torch.float16, **SDXL).save_pretrained(folder / "folder" / "unet")
    filled(AutoencoderKL, torch.float16, **VAE).save_pretrained(folder / "folder" / "vae")
    for file in (folder / "folder").glob("*/*.safetensors"):
        tensors |= dict(_original(file.parent.name, load_file(file)))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "single.safetensors")


def _original(component: str, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a component's tensors under their original names."""
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    match component:
        case "unet":
            yield from (("model.diffusion_model." + unet_name(name, True, 2), each) for name, each in tensors.items())
        case "vae":
            yield from (("first_stage_model." + name, each) for name, each in original_vae(tensors, True).items())
        case "text_encoder":
            yield from (
                ("conditioner.embedders.0.transformer.text_model." + name, each) for name, each in plain.items()
            )
        case "text_encoder_2":
            yield from open_clip("conditioner.embedders.1.model.", plain).items()


def memory_of(*kinds: str) -> int:
    """Return this process's memory of some kinds: RssAnon is its own, RssFile that of mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kinds))


def measure(path: Path, family: str, dtype: str) -> dict[str, float]:
    """Check and load the weights of a checkpoint; return the figures."""
    done, before, before_all = threading.Event(), memory_of("RssAnon"), memory_of("RssAnon", "RssFile")
    own, whole = [before], [before_all]

    def sample() -> None:
        while not done.wait(SAMPLED_EVERY_S):
            own.append(memory_of("RssAnon"))
            whole.append(memory_of("RssAnon", "RssFile"))

    threading.Thread(target=sample, daemon=True).start()
    start = time.perf_counter()
    for file in sorted(path.glob("*/*.safetensors")) if path.is_dir() else [path]:
        with file.open("rb") as opened:
            file_digest(opened, "sha256")
    checked = time.perf_counter()
    folder = resolve_checkpoint(str(path)) if path.is_file() else path
    components = XL_COMPONENTS if family == "sdxl" else ("unet",)
    models = [
        load_component(folder, FAMILIES[family], name, torch.device("cpu"), getattr(torch, dtype))
        for name in components
    ]
    loaded = time.perf_counter()
    for parameter in (each for model in models for each in model.parameters()):
        parameter.sum()  # weights that stay in their files are read when they are used
    used = time.perf_counter()
    done.set()
    return {
        "weights_mib": round(parameter_bytes(*models) / MIB),
        "check_s": round(checked - start, 1),
        "load_s": round(loaded - checked, 1),
        "read_s": round(used - loaded, 1),
        "own_peak_mib": round((max(own) - before) / MIB),
        "peak_mib": round((max(whole) - before_all) / MIB),
    }


def measured(path: Path, family: str, dtype: str) -> dict[str, Any]:
    """Return the figures of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", str(path), family, dtype]
    cache = os.environ | {"XDG_CACHE_HOME": str(path.parent / "cache")}
    said = subprocess.run(command, cwd=ROOT, env=cache, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])


def show(name: str, dtype: str, row: dict[str, Any]) -> None:
    print(
        f"{name:10}{dtype:14}{row['weights_mib']:5} MiB{row['check_s']:7} s{row['load_s']:6} s{row['read_s']:6} s"
        f"{row['own_peak_mib']:13} MiB{row['peak_mib']:9} MiB",
        flush=True,
    )


def main() -> None:
    """Print the table; with a path, a family and a dtype, as each of its rows is measured, the figures of that one."""
    if len(sys.argv) == 4 and not sys.argv[1].startswith("-"):
        print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], sys.argv[3])))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument(
        "--scratch", type=Path, help="where 15 GB are written for a while; default: the temporary folder"
    )
    scratch = parser.parse_args().scratch
    print(f"{'file':10}{'computed in':14}{'weights':>9}{'sha256':>9}{'load':>8}{'read':>8}{'own peak':>17}{'peak':>13}")
    rows, of_xl = {}, {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write(Path(folder))
        for stored in ("float32", "float16"):
            for dtype in ("float32", "bfloat16"):
                row = rows[f"{stored} as {dtype}"] = measured(Path(folder) / stored, "sd", dtype)
                show(stored, dtype, row)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write_xl(Path(folder))
        print("XL in float16, the least of", RUNS, "runs")
        paths = {"folder": Path(folder) / "folder", "file": Path(folder) / "single.safetensors"}
        for name, path in paths.items():
            runs = [measured(path, "sdxl", "float16") for _ in range(RUNS)]  # in a row: then the files are in memory
            of_xl[name] = {key: min(run[key] for run in runs) for key in runs[0]}
            show(name, "float16", of_xl[name])
    finish("loading", {"unet": rows, "xl": of_xl})


if __name__ == "__main__":
    main()
