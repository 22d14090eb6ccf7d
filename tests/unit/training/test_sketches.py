"""The sketches of the shapes model's ControlNet, and how a picture is compared with one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.shapes.captions import vocabulary
from training.shapes.controlnet import STEP, Controlled, distance_to, sketched
from training.shapes.evaluate import load
from training.shapes.evaluate_controlnet import overlap, sketchable_scenes, unplaced_caption
from training.shapes.outlines import SIZE
from training.shapes.scenes import POSITIONS, SIZES, STYLES, draw, held_out


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_sketches_are_held_out_scenes_of_one_object_whose_captions_say_not_where_it_is():
    scenes = sketchable_scenes(20)
    assert all(held_out(scene) and len(scene.things) == 1 for scene in scenes)
    words = {word for scene in scenes for word in unplaced_caption(scene).replace(",", "").split()}
    assert words <= set(vocabulary())
    assert not words & {*POSITIONS, *SIZES, "middle"}


def test_a_sketch_is_a_filled_silhouette_or_its_outline(rng):
    away = distance_to(sketchable_scenes(1)[0])
    kept = (away / STEP).round().clip(-127, 127).astype(np.int8)
    sketches = sketched(np.stack([kept] * 40), rng)
    assert sketches.shape == (40, 3, SIZE, SIZE)
    middle = np.unravel_index(away.argmin(), away.shape)
    filled = sketches[:, 0, *middle] == 1
    assert 5 < filled.sum() < 30
    assert torch.all((sketches[filled, 0] > 0.5) == torch.from_numpy(kept < 0))
    lines = (sketches[~filled, 0] > 0.5).numpy()
    assert all(np.abs(away[line]).max() < 2.5 for line in lines)
    assert lines.sum((1, 2)).min() < 0.7 * lines.sum((1, 2)).max(), "lines have several widths"


@pytest.mark.parametrize("style", STYLES)
def test_a_drawn_scene_overlaps_its_own_sketch_and_no_others(style, rng):
    scenes = [replace(scene, style=style) for scene in sketchable_scenes(12)]
    pictures = [draw(scene, rng) for scene in scenes]
    own = np.mean([overlap(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)])
    others = np.mean([overlap(scene, picture) for scene, picture in zip(scenes, np.roll(pictures, 1, 0), strict=True)])
    assert own >= 0.88
    assert others <= 0.35


def test_a_new_controlnet_changes_nothing_and_is_all_that_learns(shapes):
    unet = load(shapes).unet
    rows = torch.randn(2, 8, 16, 16), torch.tensor([500, 20]), torch.randn(2, 77, 128)
    controlled = Controlled(unet)
    with torch.inference_mode():
        assert torch.equal(controlled(*rows, torch.rand(2, 3, SIZE, SIZE)).sample, unet(*rows).sample)
    learns = [name for name, weight in controlled.named_parameters() if weight.requires_grad]
    assert learns
    assert all(name.startswith("controlnet.") for name in learns)
