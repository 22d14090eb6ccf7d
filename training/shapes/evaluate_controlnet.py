"""python -m training.shapes.evaluate_controlnet: composition by a sketch, and the rest by the caption? By pixels alone.

Held-out scenes of one object: the same captions and seeds with and without the sketch. No caption says how large the
object is or where it lies, so that only the sketch does.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

from training.shapes.captions import STYLE_WORDS
from training.shapes.controlnet import CONTROLNET, STEP, distance_to, sketched
from training.shapes.evaluate import DEFAULTS, contact_sheet, generate, held_out_scenes, load, marks, shares
from training.shapes.export import CHECKPOINT
from training.shapes.measures import look, silhouette
from training.shapes.scenes import Scene, draw

KEPT = ("colour", "shape", "style", "background")


def sketchable_scenes(count: int, seed: int = 2028) -> list[Scene]:
    """Return held-out scenes of one object."""
    return [scene for scene in held_out_scenes(4 * count, seed) if len(scene.things) == 1][:count]


def unplaced_caption(scene: Scene) -> str:
    """Name every attribute but size and place."""
    thing = scene.things[0]
    pattern = "" if scene.pattern == "plain" else scene.pattern + " "
    style = STYLE_WORDS[scene.style][0]
    return f"a {thing.colour} {thing.shape} on a {pattern}{scene.background} background, {style}"


def overlap(scene: Scene, picture: np.ndarray) -> float:
    """Return the intersection over union of the sketch's silhouette and the picture's."""
    asked, seen = distance_to(scene) < 0, silhouette(picture)
    return float((asked & seen).sum() / (asked | seen).sum())


def rates(scenes: list[Scene], pictures: np.ndarray) -> dict[str, float]:
    """Return the mean overlap, and the share of pictures that show each of `KEPT` rightly."""
    right = shares(marks(scene, look(picture)) for scene, picture in zip(scenes, pictures, strict=True))
    overlaps = [overlap(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]
    return {"overlap": float(np.mean(overlaps)), **{name: right[name] for name in KEPT}}


def main() -> None:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument(
        "--sheet", type=Path, help="also write a contact sheet: sketches, and pictures without and with"
    )
    args = parser.parse_args()
    scenes, rng = sketchable_scenes(args.count), np.random.default_rng(1)
    prompts = [unplaced_caption(scene) for scene in scenes]
    away = np.stack([distance_to(scene) for scene in scenes]) / STEP
    sketches = sketched(away.round().clip(-127, 127).astype(np.int8), rng).mul(255).byte().permute(0, 2, 3, 1).numpy()
    truth = np.stack([draw(scene, rng) for scene in scenes])
    pipeline = load(CHECKPOINT)
    plain = generate(pipeline, prompts, **DEFAULTS)
    net = ControlNetModel.from_pretrained(CONTROLNET)
    pipeline = StableDiffusionControlNetPipeline(**pipeline.components, controlnet=net, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    controlled = generate(pipeline, prompts, images=sketches, **DEFAULTS)
    figures = {
        name: rates(scenes, pictures)
        for name, pictures in (("drawn truth", truth), ("without", plain), ("with the sketch", controlled))
    }
    print(f"{args.count} held-out sketches\n{'':16}" + "".join(f"{name:>12}" for name in figures["without"]))
    for name, row in figures.items():
        print(f"{name:16}" + "".join(f"{share:>12.1%}" for share in row.values()))
    if args.sheet:
        contact_sheet(np.concatenate([rows[:10] for rows in (sketches, plain, controlled)])).save(args.sheet)
    print(json.dumps({"benchmark": "eval-demo controlnet", "count": args.count, **DEFAULTS, **figures}))


if __name__ == "__main__":
    main()
