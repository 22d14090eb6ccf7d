"""make eval-demo: does a prompt steer the picture? Held-out captions, measured by pixels alone."""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from training.shapes.captions import full_caption
from training.shapes.data import to_tensor
from training.shapes.export import CARD, CHECKPOINT
from training.shapes.measures import Seen, look, position, relation
from training.shapes.scenes import Scene, draw, held_out, random_scene

BATCH = 25
DEFAULTS = {name: CARD["defaults"][name] for name in ("num_inference_steps", "guidance_scale")}
ONE_THING = ("colour", "shape", "size")  # what is asked of the object of a scene of one


def held_out_scenes(count: int, seed: int = 2026) -> list[Scene]:
    """Return scenes that training never saw the like of: see `scenes.held_out`."""
    rng = np.random.default_rng(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = random_scene(rng)
        if held_out(scene):
            found.append(scene)
    return found


def marks(scene: Scene, seen: Seen) -> dict[str, bool]:
    """Return what a picture shows rightly: a thing's attributes for scenes of one thing, the pair for scenes of two."""
    right = {name: getattr(seen, name) == getattr(scene, name) for name in ("background", "pattern", "style")}
    if len(scene.things) == 1:
        asked, drawn = scene.things[0], seen.things[0] if seen.things else None
        right |= {name: drawn is not None and getattr(drawn, name) == getattr(asked, name) for name in ONE_THING}
        return right | {"position": drawn is not None and position(drawn.x, drawn.y) == scene.place}
    asked = {(thing.colour, thing.shape) for thing in scene.things}
    pair = [next((thing for thing in seen.things if thing.colour == asked.colour), None) for asked in scene.things]
    placed = None not in pair and relation(*pair) == scene.place
    return right | {"both things": asked == {(thing.colour, thing.shape) for thing in seen.things}, "relation": placed}


def shares(marks: Iterable[Mapping[str, bool]]) -> dict[str, float]:
    """Return, for each mark, its share of right pictures among those that it applies to."""
    found = defaultdict(list)
    for each in marks:
        for name, right in each.items():
            found[name].append(right)
    return {name: sum(right) / len(right) for name, right in found.items()}


def score(pictures: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """Return, for each measure, its share of right pictures among those that it applies to."""
    return shares(marks(scene, look(picture)) for picture, scene in zip(pictures, scenes, strict=True))


def generate(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    negative: str = "",
    images: np.ndarray | None = None,
    **settings,
) -> np.ndarray:
    """Draw the prompts, uint8 [N, H, W, 3]; picture k has seed k and, of those that take one, image k.

    `settings` are the pipeline's own.
    """
    pictures = []
    for start in tqdm(range(0, len(prompts), BATCH), desc="pictures", mininterval=5):
        chunk = prompts[start : start + BATCH]
        seeds = [torch.Generator("cpu").manual_seed(start + k) for k in range(len(chunk))]
        given = {} if images is None else {"image": [Image.fromarray(each) for each in images[start : start + BATCH]]}
        output = pipeline(chunk, negative_prompt=[negative] * len(chunk), generator=seeds, **given, **settings)
        pictures += [np.asarray(image) for image in output.images]
    return np.stack(pictures)


def load(folder: Path) -> StableDiffusionPipeline:
    """Load the diffusers pipeline, quiet."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def red_share(pipeline: StableDiffusionPipeline, negative: str, count: int, **settings) -> float:
    """Return how often "a circle on a blue background" shows a red thing, with `negative` as the negative prompt."""
    pictures = generate(pipeline, ["a circle on a blue background"] * count, negative=negative, **settings)
    return sum(bool(s.things) and s.things[0].colour == "red" for s in map(look, pictures)) / count


@torch.inference_mode()
def reconstruction(pipeline: StableDiffusionPipeline, pictures: np.ndarray) -> float:
    """Return how well pictures survive the autoencoder: the PSNR in dB of all their pixels together."""
    error = 0.0
    for picture in pictures:
        pixels = to_tensor(picture[None])
        again = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        error += float(((again - pixels) / 2).square().mean()) / len(pictures)
    return -10 * math.log10(error)


def contact_sheet(pictures: np.ndarray, columns: int = 10) -> Image.Image:
    """Lay pictures out in rows."""
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures) // columns * columns, columns)]
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=CARD["defaults"]["num_inference_steps"])
    parser.add_argument("--guidance", type=float, default=4.0, help="what we compare at; users get the card's")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of the first 40")
    args = parser.parse_args()
    scenes = held_out_scenes(args.count)
    rng = np.random.default_rng(1)
    originals = np.stack([draw(scene, rng) for scene in scenes])
    truth = score(originals, scenes)
    pipeline = load(args.checkpoint)
    prompts = [full_caption(scene) for scene in scenes]
    chosen = {"num_inference_steps": args.steps, "guidance_scale": args.guidance}
    pictures = generate(pipeline, prompts, **chosen)
    drawn = score(pictures, scenes)
    print(f"{args.count} held-out captions, {args.steps} steps, guidance {args.guidance}\n")
    print(f"{'':12}{'model':>8}{'drawn truth':>14}")
    for name in drawn:
        print(f"{name:12}{drawn[name]:>8.1%}{truth[name]:>14.1%}")
    psnr = reconstruction(pipeline, originals)
    print(f"\nthe drawn truth through the autoencoder: {psnr:.1f} dB")
    red = {negative: red_share(pipeline, negative, 100, **chosen) for negative in ("", "red")}
    print(f'a circle drawn red: {red[""]:.0%}, with "red" as the negative prompt {red["red"]:.0%}')
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(pictures[:40]).save(args.sheet)
    figures = {"count": args.count, **chosen, "model": drawn, "truth": truth, "psnr_db": psnr, "red": red}
    print(json.dumps({"benchmark": "eval-demo", **figures}))


if __name__ == "__main__":
    main()
