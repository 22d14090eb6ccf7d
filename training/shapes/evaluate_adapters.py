"""make eval-demo: does a style's adapter give its style, and leave the rest as it was? Measured by pixels alone.

Every adapter draws the same held-out captions from the same seeds as the base model; no caption has a word of a style.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline

from training.shapes.adapter_styles import ADAPTER_STYLES, draw_adapted
from training.shapes.adapters import ADAPTERS, file_name, flat_scene
from training.shapes.captions import styleless_caption
from training.shapes.evaluate import DEFAULTS, contact_sheet, generate, load, marks
from training.shapes.export import CHECKPOINT
from training.shapes.measures import Seen, adapter_style, look
from training.shapes.scenes import Scene

WEIGHTS = (0.5, 1.0)
KEPT = ("background", "colours", "shapes", "places")


def captioned_scenes(count: int, seed: int = 27) -> list[Scene]:
    """Return held-out scenes for captions without a style."""
    rng = np.random.default_rng(seed)
    return [flat_scene(rng, unseen=True) for _ in range(count)]


def kept(scene: Scene, seen: Seen) -> dict[str, bool]:
    """Return whether each of `KEPT` is right, for scenes of one thing and of two alike."""
    right = marks(scene, seen)
    same = {
        f"{trait}s": sorted(getattr(thing, trait) for thing in scene.things)
        == sorted(getattr(thing, trait) for thing in seen.things[: len(scene.things)])
        for trait in ("colour", "shape")
    }
    return {"background": right["background"], **same, "places": right.get("position", right.get("relation", False))}


def rates(pictures: np.ndarray, scenes: list[Scene], style: str) -> dict[str, float]:
    """Return the share of pictures that show the style, and the share that shows each of `KEPT` rightly."""
    right = [kept(scene, look(picture)) for picture, scene in zip(pictures, scenes, strict=True)]
    recognised = sum(adapter_style(picture) == style for picture in pictures) / len(pictures)
    return {"style": recognised, **{name: sum(mark[name] for mark in right) / len(right) for name in KEPT}}


def load_adapted(style: str) -> StableDiffusionPipeline:
    """Load the base model with a style's adapter, by diffusers alone."""
    pipeline = load(CHECKPOINT)
    pipeline.load_lora_weights(ADAPTERS, weight_name=f"{file_name(style)}.safetensors", adapter_name=file_name(style))
    return pipeline


def evaluate(style: str, scenes: list[Scene], base: np.ndarray) -> tuple[dict[str, dict[str, float]], np.ndarray]:
    """Return the rates of the drawn truth, the base model and each weight, and the pictures of weight 1."""
    rng = np.random.default_rng(1)
    truth = np.stack([draw_adapted(scene, style, rng) for scene in scenes])
    found = {"drawn truth": rates(truth, scenes, style), "base model": rates(base, scenes, style)}
    pipeline = load_adapted(style)
    pictures = base
    for weight in WEIGHTS:
        pipeline.set_adapters([file_name(style)], [weight])
        pictures = generate(pipeline, [styleless_caption(scene) for scene in scenes], **DEFAULTS)
        found[f"weight {weight:g}"] = rates(pictures, scenes, style)
    return found, pictures


def main() -> None:
    """Print a table for each style, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--styles", nargs="+", choices=ADAPTER_STYLES, default=list(ADAPTER_STYLES))
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet: ten of the base model and each style")
    args = parser.parse_args()
    scenes = captioned_scenes(args.count)
    base = generate(load(CHECKPOINT), [styleless_caption(scene) for scene in scenes], **DEFAULTS)
    sheet, figures = [base[:10]], {}
    for style in args.styles:
        figures[style], pictures = evaluate(style, scenes, base)
        sheet.append(pictures[:10])
        print(f"\n{style}: {args.count} held-out captions\n{'':12}" + "".join(f"{n:>12}" for n in ("style", *KEPT)))
        for name, row in figures[style].items():
            print(f"{name:12}" + "".join(f"{share:>12.1%}" for share in row.values()))
    if args.sheet:
        contact_sheet(np.concatenate(sheet)).save(args.sheet)
    print(json.dumps({"benchmark": "eval-demo adapters", "count": args.count, **DEFAULTS, "styles": figures}))


if __name__ == "__main__":
    main()
