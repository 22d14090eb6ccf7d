"""The training set: scenes drawn once, their pictures, captions and latents kept in `runs/`."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from training.shapes.captions import random_caption
from training.shapes.loop import DEVICE, RUNS, settings
from training.shapes.outlines import SIZE
from training.shapes.scenes import draw, random_training_scene

WORDINGS = 4  # captions drawn for each picture


def scenes() -> tuple[np.ndarray, list[list[str]]]:
    """Return pictures, uint8 [N, SIZE, SIZE, 3], and `WORDINGS` captions for each; drawn at the first call."""
    RUNS.mkdir(exist_ok=True)
    pixels_path, words_path = RUNS / "pixels.npy", RUNS / "captions.json"
    if not words_path.exists():
        _draw_all(pixels_path, words_path)
    return np.load(pixels_path, mmap_mode="r"), json.loads(words_path.read_text())


def _draw_all(pixels_path: Path, words_path: Path) -> None:
    count, seed = settings("data")["scenes"], settings("data")["seed"]
    rng = np.random.default_rng(seed)
    pixels = np.lib.format.open_memmap(pixels_path, "w+", np.uint8, (count, SIZE, SIZE, 3))
    captions = []
    for row in tqdm(range(count), desc="scenes", mininterval=5):
        scene = random_training_scene(rng)
        pixels[row] = draw(scene, rng)
        captions.append([random_caption(scene, rng) for _ in range(WORDINGS)])
    pixels.flush()
    words_path.write_text(json.dumps(captions))


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] in 0 … 255 -> float32 [N, 3, H, W] in −1 … 1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div(127.5).sub(1).to(DEVICE)


@torch.inference_mode()
def latents(autoencoder: AutoencoderKL) -> np.ndarray:
    """Return unscaled mean latents of every picture, float16 [N, C, SIZE / 8, SIZE / 8]; encoded at the first call."""
    path = RUNS / "latents.npy"
    if not path.exists():
        pixels, _ = scenes()
        parts = []
        for row in tqdm(range(0, len(pixels), 64), desc="latents", mininterval=5):
            with torch.autocast(DEVICE.type, torch.bfloat16):
                parts.append(
                    autoencoder.encode(to_tensor(pixels[row : row + 64])).latent_dist.mean.cpu().half().numpy()
                )
        np.save(path, np.concatenate(parts))
    return np.load(path)
