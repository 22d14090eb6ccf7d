"""make eval-demo: does a prompt steer the picture? Held-out captions, measured by pixels alone."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from training.shapes.captions import full_caption
from training.shapes.export import CARD, CHECKPOINT
from training.shapes.measures import look
from training.shapes.scenes import Scene, draw, held_out, random_scene

MEASURES = ("colour", "background", "shape", "position", "size")
BATCH = 25


def held_out_scenes(count: int, seed: int = 2026) -> list[Scene]:
    """Return scenes whose shape, colour and background never occurred together in training."""
    rng = np.random.default_rng(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = random_scene(rng)
        if held_out(scene):
            found.append(scene)
    return found


def score(pictures: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """Return the share of pictures that show what the scene says, for each measure."""
    seen = [look(picture) for picture in pictures]
    return {
        name: sum(getattr(s, name) == getattr(scene, name) for s, scene in zip(seen, scenes, strict=True)) / len(scenes)
        for name in MEASURES
    }


def generate(folder: Path, scenes: list[Scene], steps: int, guidance: float) -> np.ndarray:
    """Draw the scenes' captions with the diffusers pipeline, uint8 [N, H, W, 3]; picture k has seed k."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for start in tqdm(range(0, len(scenes), BATCH), desc="pictures", mininterval=5):
        chunk = scenes[start : start + BATCH]
        output = pipeline(
            [full_caption(scene) for scene in chunk],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(start + k) for k in range(len(chunk))],
        )
        pictures += [np.asarray(image) for image in output.images]
    return np.stack(pictures)


def contact_sheet(pictures: np.ndarray, columns: int = 10) -> Image.Image:
    """Lay pictures out in rows."""
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures) // columns * columns, columns)]
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--steps", type=int, default=CARD["defaults"]["num_inference_steps"])
    parser.add_argument("--guidance", type=float, default=CARD["defaults"]["guidance_scale"])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of the first 40")
    args = parser.parse_args()
    scenes = held_out_scenes(args.count)
    rng = np.random.default_rng(1)
    truth = score(np.stack([draw(scene, rng) for scene in scenes]), scenes)
    pictures = generate(args.checkpoint, scenes, args.steps, args.guidance)
    drawn = score(pictures, scenes)
    print(f"{args.count} held-out captions, {args.steps} steps, guidance {args.guidance}\n")
    print(f"{'':12}{'model':>8}{'drawn truth':>14}")
    for name in MEASURES:
        print(f"{name:12}{drawn[name]:>8.1%}{truth[name]:>14.1%}")
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(pictures[:40]).save(args.sheet)
    print(json.dumps({"benchmark": "eval-demo", "count": args.count, "model": drawn, "truth": truth}))


if __name__ == "__main__":
    main()
