"""Images and masks get a model's size as diffusers' processors give it, and results go back where the mask is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from models.image_input import ResizeMode, latent_mask, paste_weights, pasted_back, resized, resized_mask
from tests.image_files import photo

BY_DIFFUSERS: dict[ResizeMode, str] = {"stretch": "default", "crop": "crop", "fit": "fill"}
MODES = list(BY_DIFFUSERS)
FROM = [(40, 24), (24, 40), (64, 64), (640, 360), (333, 517), (16, 16), (1, 1), (200, 50)]
TO = [(64, 64), (96, 64), (64, 96), (128, 40)]
SIZES = [(given, wanted) for given in FROM for wanted in TO]


def size_id(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@pytest.fixture(scope="module")
def mask_processor(tiny_sd: Path) -> VaeImageProcessor:
    """The one that the inpainting pipeline makes for itself."""
    return StableDiffusionInpaintPipeline.from_pretrained(tiny_sd, safety_checker=None).mask_processor


def drawn_mask(width: int, height: int, seed: int = 3) -> Image.Image:
    """A mask with every gray, in colour, as somebody paints it with a soft brush."""
    return photo(width, height, "RGB", seed)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("given", "wanted"), SIZES, ids=lambda size: size_id(size))
def test_an_image_is_resized_as_by_diffusers(given: tuple, wanted: tuple, mode: ResizeMode) -> None:
    image, (width, height) = photo(*given), wanted
    expected = VaeImageProcessor().resize(image, height, width, BY_DIFFUSERS[mode])
    pixels = resized(image, width, height, mode)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(expected))


def test_the_modes_differ_wherever_the_shapes_do() -> None:
    results = [resized(photo(40, 24), 64, 64, mode) for mode in MODES]
    assert not any(np.array_equal(results[a], results[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_crop_fills_fit_extends_its_edges_and_stretch_keeps_all() -> None:
    stripes = Image.fromarray(np.repeat(np.uint8([[[255, 0, 0]], [[0, 255, 0]], [[0, 0, 255]]]), 10, 0).repeat(30, 1))
    left_to_right = stripes.transpose(
        Image.Transpose.ROTATE_90
    )  # red, green, blue from bottom to top: now left to right
    tall = [resized(left_to_right.resize((30, 30)), 30, 90, mode) for mode in ("crop", "fit", "stretch")]
    assert [image.shape for image in tall] == [(90, 30, 3)] * 3
    assert np.ptp(tall[0][:, 15], 0).max() == 0
    assert len({tuple(pixel) for pixel in tall[1][45, ::10]}) == 3
    assert len({tuple(pixel) for pixel in tall[2][45, ::10]}) == 3


def test_transparency_is_white_in_an_image_and_black_in_a_mask() -> None:
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    assert (resized(clear, 8, 8, "crop") == 255).all()
    assert not resized_mask(clear, 8, 8, "crop").any()
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert (resized(half, 8, 8, "crop") == 127).all()
    assert resized_mask(Image.new("RGBA", (8, 8), (255, 255, 255, 128)), 8, 8, "crop").all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("given", [(32_000, 1), (1, 32_000), (65_535, 488), (5000, 3)], ids=size_id)
def test_an_image_of_any_shape_is_resized_in_the_memory_of_its_result(given: tuple, mode: ResizeMode) -> None:
    image = Image.new("RGB", given, (1, 2, 3))
    assert (resized(image, 512, 512, mode) == (1, 2, 3)).all()


def test_the_crop_of_a_very_long_image_is_its_middle() -> None:
    long = np.zeros((10, 1000, 3), np.uint8)
    long[:, 499:501] = 255
    columns = resized(Image.fromarray(long), 40, 40, "crop").mean((0, 2))
    assert set(columns.argsort()[-8:]) == set(range(16, 24))
    assert np.array_equal(columns, columns[::-1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("given", "wanted"), SIZES, ids=lambda size: size_id(size))
@pytest.mark.parametrize("colors", ["L", "RGB"])
def test_a_mask_is_resized_and_halved_as_by_diffusers(
    mask_processor: VaeImageProcessor, given: tuple, wanted: tuple, mode: ResizeMode, colors: str
) -> None:
    image, (width, height) = drawn_mask(*given).convert(colors), wanted
    expected = mask_processor.preprocess(image, height, width, resize_mode=BY_DIFFUSERS[mode])
    assert np.array_equal(resized_mask(image, width, height, mode), expected[0, 0].numpy() == 1)


@pytest.mark.parametrize(("level", "changes"), [(0, False), (127, False), (128, True), (255, True)])
def test_a_mask_changes_an_image_from_half_of_white_on(level: int, changes: bool) -> None:
    assert (resized_mask(Image.new("L", (8, 8), level), 8, 8, "stretch") == changes).all()


@pytest.mark.parametrize("scale", [1, 4, 8, 16])
@pytest.mark.parametrize("size", [(64, 64), (512, 768), (1024, 16)], ids=size_id)
def test_the_mask_of_latents_is_as_by_torch(scale: int, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size) < 0.5
    cells = (size[0] // scale, size[1] // scale)
    expected = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), size=cells)
    assert np.array_equal(latent_mask(mask, scale), expected[0, 0].numpy() == 1)


def pasted(blur: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A generated image, its original, a mask of some shapes, and the result."""
    generated, original = (np.asarray(photo(96, 80, seed=seed + part)) for part in (1, 2))
    mask = np.zeros((80, 96), bool)
    mask[20:50, 30:70] = mask[60:62, 5:7] = mask[:, 95] = True
    return generated, original, mask, pasted_back(generated, original, mask, blur)


def reaches(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Where a mask is within so many pixels, to a side or diagonally."""
    padded = np.pad(mask, pixels)
    return np.lib.stride_tricks.sliding_window_view(padded, (2 * pixels + 1, 2 * pixels + 1)).any((2, 3))


@pytest.mark.parametrize("blur", [0, 1, 2, 3, 4, 7])
def test_in_the_mask_are_the_generated_pixels_and_outside_mask_and_blur_the_originals(blur: int) -> None:
    generated, original, mask, result = pasted(blur)
    outside = ~reaches(mask, 3 * blur)
    assert outside.any()
    assert np.array_equal(result[outside], original[outside])
    assert np.array_equal(result[mask], generated[mask])


@pytest.mark.parametrize("side", [1, 2, 8, 64])
@pytest.mark.parametrize("blur", [4, 16, 64])
def test_a_mask_of_any_size_is_replaced_whole(side: int, blur: int) -> None:
    mask = np.zeros((96, 96), bool)
    mask[16 : 16 + side, 16 : 16 + side] = True
    black, white = np.zeros((96, 96, 3), np.uint8), np.full((96, 96, 3), 255, np.uint8)
    assert (pasted_back(white, black, mask, blur)[mask] == 255).all()


@pytest.mark.parametrize("blur", [2, 4, 16])
def test_the_new_image_fades_into_the_old_one_within_twice_the_blur(blur: int) -> None:
    mask = np.zeros((16, 256), bool)
    mask[:, :100] = True
    weights = paste_weights(mask, blur)[8] / 255
    assert (np.diff(weights) <= 0).all()
    assert 0.3 < weights[100] < 0.6
    assert 0 < weights[100 + blur] < 0.2
    assert weights[100 + 2 * blur :].max() < 0.03
    assert weights[100 + 3 * blur :].max() == 0


def test_without_blur_nothing_is_mixed() -> None:
    generated, original, mask, result = pasted(0)
    assert np.array_equal(result, np.where(mask[..., None], generated, original))


def test_around_the_mask_the_images_are_mixed_by_the_weights() -> None:
    generated, original, mask, result = pasted(4)
    weight = paste_weights(mask, 4)[..., None] / 255
    assert np.abs(result - (generated * weight + original * (1 - weight))).max() <= 0.51
    assert ((weight > 0) & (weight < 1)).any()


@pytest.mark.parametrize("blur", [0, 1, 4, 7])
def test_outside_the_mask_a_result_is_pasted_back_as_by_diffusers(blur: int) -> None:
    generated, original, mask, result = pasted(blur)
    processor = VaeImageProcessor()
    weights = processor.blur(Image.fromarray(mask.astype(np.uint8) * 255), blur)
    assert np.array_equal(paste_weights(mask, blur)[~mask], np.asarray(weights)[~mask])
    overlaid = np.asarray(processor.apply_overlay(weights, Image.fromarray(original), Image.fromarray(generated)))
    compared = np.ones_like(mask) if blur == 0 else ~mask
    assert np.abs(result.astype(int) - overlaid)[compared].max() <= 2
