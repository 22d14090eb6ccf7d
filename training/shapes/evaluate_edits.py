"""make eval-demo, second part: do images that begin with another one come out as they are told to?

The same requests go through Darkroom's stages and through the diffusers pipelines, with the same seeds. Exits with
status 1 where a rate of the two differs by more than a point.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import hypot
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.pipelines import Pipelines
from benchmarks.requests import CARD, Requests, a_request, png, together
from benchmarks.stages import Stages
from models.spec import ImageSpec, InitImage
from training.shapes.captions import full_caption
from training.shapes.evaluate import BATCH, held_out_scenes, shares
from training.shapes.measures import Seen, SeenThing, look, position, relation
from training.shapes.outlines import SHAPES, SIZE
from training.shapes.scenes import COLOURS, Scene, Thing, draw

LAYOUT_KEPT, COLOUR_CHANGED = "layout kept", "colour as told"
IN_MASK, REST_KEPT = "colour and shape as told, in the mask", "the rest kept"
STRENGTHS = (0.4, 0.8)  # of image-to-image
MARGIN = 8  # pixels of a mask around its thing: a latent cell
SAME = 2  # of 255: what pasting back may change by rounding
APART = 0.01  # how far the rates of the two may differ

Generate = Callable[[Requests], list[bytes]]


class Edit(NamedTuple):
    """A scene that is told, an image of the same one whose first thing is another, and a mask around that."""

    scene: Scene
    image: np.ndarray  # uint8 [SIZE, SIZE, 3]
    mask: np.ndarray  # bool [SIZE, SIZE]


def new_edit(scene: Scene, rng: np.random.Generator, *traits: str) -> Edit:
    """Draw what `scene` is to be made from: its first thing has another colour or shape, whichever `traits` name."""
    first, *others = scene.things
    taken = {scene.background, *(thing.colour for thing in scene.things)}
    free = {"colour": [c for c in COLOURS if c not in taken], "shape": [s for s in SHAPES if s != first.shape]}
    before = replace(first, **{trait: str(rng.choice(free[trait])) for trait in traits})
    original = replace(scene, things=(before, *others))
    return Edit(scene, draw(original, rng), _box_around(first, before))


def _box_around(*things: Thing) -> np.ndarray:
    rows, columns = np.nonzero(np.min([thing.outline() for thing in things], 0) < MARGIN)
    box = np.zeros((SIZE, SIZE), bool)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return box


def requests_of(edits: Sequence[Edit], strength: float, *, masked: bool) -> Requests:
    """Return a request for each edit, with the card's defaults; image k has seed k."""
    steps, guidance = CARD.defaults["num_inference_steps"], CARD.defaults["guidance_scale"]
    asked = [a_request(seed, steps, guidance) for seed in range(len(edits))]
    return together(begun(spec, edit, strength, masked=masked) for spec, edit in zip(asked, edits, strict=True))


def begun(spec: ImageSpec, edit: Edit, strength: float, *, masked: bool) -> Requests:
    """Return a request as one that tells an edit's scene and begins with its image."""
    name, mask = f"{spec.seed}.png", f"{spec.seed} mask.png"
    files, init = {name: png(edit.image)}, InitImage(input=name, strength=strength)
    if masked:
        files[mask] = png(edit.mask)
        init = replace(init, mask=mask, mask_blur=0, paste_back=True)
    return Requests([CARD.check(replace(spec, prompt=full_caption(edit.scene), init=init))], files)


def generated(by: Generate, requests: Requests) -> list[np.ndarray]:
    """Generate the images of requests, `BATCH` at a time; return uint8 [H, W, 3] each."""
    parts = tqdm(requests.split(BATCH), desc="batches", mininterval=5)
    return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for part in parts for content in by(part)]


def whole_marks(edit: Edit, image: np.ndarray) -> dict[str, bool]:
    """Return what image-to-image did: the thing of another colour has the told one, all lie where they lay."""
    seen = look(image)
    return {LAYOUT_KEPT: _layout_kept(edit.scene, seen), COLOUR_CHANGED: _colour_changed(edit.scene, seen)}


def masked_marks(edit: Edit, image: np.ndarray) -> dict[str, bool]:
    """Return what inpainting did: the told thing is in the mask, the rest is as it was."""
    told = edit.scene.things[0]
    found = [thing for thing in look(image).things if (thing.colour, thing.shape) == (told.colour, told.shape)]
    away = np.abs(image.astype(int) - edit.image)[~edit.mask]
    in_mask = any(edit.mask[int(thing.y + SIZE / 2), int(thing.x + SIZE / 2)] for thing in found)
    return {IN_MASK: in_mask, REST_KEPT: bool(away.max(initial=0) <= SAME)}


def _layout_kept(scene: Scene, seen: Seen) -> bool:
    """Whether each thing of a scene has one of its shape near it, and they lie as it says."""
    found = [near for thing in scene.things if (near := _nearest(thing, seen))]
    if not len({*found}) == len(scene.things) == len(seen.things):
        return False
    place = position(found[0].x, found[0].y) if len(found) == 1 else relation(*found)
    return place == scene.place and [thing.shape for thing in found] == [thing.shape for thing in scene.things]


def _colour_changed(scene: Scene, seen: Seen) -> bool:
    nearest = _nearest(scene.things[0], seen)
    return nearest is not None and nearest.colour == scene.things[0].colour


def _nearest(thing: Thing, seen: Seen) -> SeenThing | None:
    return min(seen.things, key=lambda other: hypot(other.x - thing.x, other.y - thing.y), default=None)


class Run(NamedTuple):
    """A way of editing: what each image is made from, what is asked, what is looked for."""

    edits: Sequence[Edit]
    requests: Requests
    marks: Callable[[Edit, np.ndarray], dict[str, bool]]

    def rates(self, images: Sequence[np.ndarray]) -> dict[str, float]:
        """Return how many of the images are right, for each mark."""
        return shares(map(self.marks, self.edits, images))


def new_runs(count: int, seed: int = 2027) -> dict[str, Run]:
    """Return a run of `count` held-out scenes for each strength of image-to-image, and one of inpainting."""
    rng = np.random.default_rng(seed)
    scenes = held_out_scenes(count, seed)
    recoloured = [new_edit(scene, rng, "colour") for scene in scenes]
    replaced = [new_edit(scene, rng, "colour", "shape") for scene in scenes]
    runs = {
        f"image-to-image, strength {strength}": Run(
            recoloured, requests_of(recoloured, strength, masked=False), whole_marks
        )
        for strength in STRENGTHS
    }
    return runs | {"inpainting": Run(replaced, requests_of(replaced, 1.0, masked=True), masked_marks)}


def main() -> None:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    count = parser.parse_args().count
    ways: dict[str, Generate] = {"darkroom": Stages().generate, "diffusers": Pipelines().generate}
    figures: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{count} requests each, with the model's defaults\n")
    print(f"{'':40}{'darkroom':>10}{'diffusers':>10}{'before':>10}")
    for title, run in new_runs(count).items():
        found = {name: run.rates(generated(by, run.requests)) for name, by in ways.items()}
        figures[title] = found | {"before": run.rates([edit.image for edit in run.edits])}
        print(title)
        for mark in found["darkroom"]:
            print(f"  {mark:38}" + "".join(f"{rates[mark]:10.1%}" for rates in figures[title].values()), flush=True)
    print(json.dumps({"benchmark": "eval-demo edits", "count": count, **figures}))
    apart = max(abs(f["darkroom"][mark] - f["diffusers"][mark]) for f in figures.values() for mark in f["darkroom"])
    if apart > APART:
        sys.exit(f"Darkroom's rates and those of the pipelines are up to {apart:.1%} apart.")


if __name__ == "__main__":
    main()
