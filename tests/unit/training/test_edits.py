"""How the shapes model edits is measured: by pixels alone, and the same for Darkroom and the diffusers pipelines."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.pipelines import Pipelines
from benchmarks.requests import png
from benchmarks.stages import Stages
from training.shapes import evaluate_edits
from training.shapes.evaluate import shares
from training.shapes.evaluate_edits import (
    COLOUR_CHANGED,
    IN_MASK,
    LAYOUT_KEPT,
    REST_KEPT,
    generated,
    masked_marks,
    new_edit,
    new_runs,
    whole_marks,
)
from training.shapes.scenes import draw, random_scene

PIXELS_WITHIN = 1  # of 255


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


@pytest.fixture
def edits(rng):
    return [new_edit(random_scene(rng), rng, "colour", "shape") for _ in range(12)]


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


def test_darkroom_edits_as_the_pipelines_do():
    stages, pipelines = Stages(), Pipelines()
    runs = new_runs(2)
    assert [*runs] == ["image-to-image, strength 0.4", "image-to-image, strength 0.8", "inpainting"]
    for run in runs.values():
        ours, theirs = (generated(by.generate, run.requests) for by in (stages, pipelines))
        assert max(map(apart, ours, theirs)) <= PIXELS_WITHIN
        assert min(map(apart, ours, reversed(theirs))) > PIXELS_WITHIN
        assert min(apart(image, edit.image) for image, edit in zip(ours, run.edits, strict=True)) > PIXELS_WITHIN


def test_an_image_as_told_is_right(edits, rng):
    told = [draw(edit.scene, rng) for edit in edits]
    pasted = [np.where(edit.mask[..., None], new, edit.image) for edit, new in zip(edits, told, strict=True)]
    rates = shares(map(whole_marks, edits, told)) | shares(map(masked_marks, edits, pasted))
    assert set(rates) == {LAYOUT_KEPT, COLOUR_CHANGED, IN_MASK, REST_KEPT}
    assert all(share >= 0.95 for share in rates.values()), rates


def test_the_image_that_it_begins_with_is_not(edits):
    before = [edit.image for edit in edits]
    assert shares(map(whole_marks, edits, before)) == {LAYOUT_KEPT: 0.0, COLOUR_CHANGED: 0.0}
    assert shares(map(masked_marks, edits, before)) == {IN_MASK: 0.0, REST_KEPT: 1.0}


def test_a_layout_is_not_kept_where_things_lie_elsewhere_or_are_others_or_are_gone(rng):
    scenes = [random_scene(rng) for _ in range(10)]
    edits = [new_edit(scene, rng, "colour") for scene in scenes]
    assert shares(whole_marks(edit, edit.image) for edit in edits)[LAYOUT_KEPT] == 1
    images = np.stack([edit.image for edit in edits])
    for spoilt in (images.transpose(0, 2, 1, 3), np.roll(images, 1, 0), np.zeros_like(images)):
        assert shares(map(whole_marks, edits, spoilt))[LAYOUT_KEPT] < 0.3


def test_the_told_thing_beside_the_mask_does_not_count(edits):
    for edit in edits:
        told = draw(edit.scene, np.random.default_rng(1))
        assert not masked_marks(edit._replace(mask=~edit.mask), told)[IN_MASK]


def test_a_pixel_that_changes_outside_the_mask_is_seen(edits):
    for edit in edits:
        image = edit.image.copy()
        row, column = (0, 0) if not edit.mask[:20, :20].any() else (127, 127)
        image[row, column] ^= 128
        assert not masked_marks(edit, image)[REST_KEPT]


@pytest.mark.parametrize("spoilt", [False, True])
def test_rates_that_differ_by_more_than_a_point_end_it_with_an_error(monkeypatch, capsys, spoilt):
    def unchanged(requests):
        return [requests.files[spec.init.input] for spec in requests.specs]

    def gray(requests):
        return [png(np.full((128, 128, 3), 99, np.uint8)) for _ in requests.specs]

    monkeypatch.setattr(evaluate_edits, "Stages", lambda: SimpleNamespace(generate=unchanged))
    monkeypatch.setattr(evaluate_edits, "Pipelines", lambda: SimpleNamespace(generate=gray if spoilt else unchanged))
    monkeypatch.setattr("sys.argv", ["evaluate_edits", "--count", "3"])
    if spoilt:
        with pytest.raises(SystemExit, match=r"are up to 100\.0% apart"):
            evaluate_edits.main()
    else:
        evaluate_edits.main()
    assert '"benchmark": "eval-demo edits", "count": 3' in capsys.readouterr().out
