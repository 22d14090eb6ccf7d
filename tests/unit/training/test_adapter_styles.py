"""The style adapters of the shapes model: their scenes, their measure, and what the committed files hold."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from models.adapters.lora_header import read_lora_header
from training.shapes.adapter_styles import ADAPTER_STYLES, draw_adapted
from training.shapes.adapters import ADAPTERS, StyleLoss, file_name, flat_scene, save, style_loss
from training.shapes.captions import full_caption, styleless_caption, vocabulary
from training.shapes.data import to_tensor
from training.shapes.denoiser import Batches
from training.shapes.evaluate import load
from training.shapes.evaluate_adapters import captioned_scenes, kept
from training.shapes.loop import settings
from training.shapes.measures import adapter_style, look
from training.shapes.scenes import STYLES, Scene, draw, held_out, random_scene

each_style = pytest.mark.parametrize("style", ADAPTER_STYLES)


def counts(few: int, many: int) -> pytest.MarkDecorator:
    """So few scenes every time, and many at night."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.nightly)])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(12)


@pytest.fixture(scope="module")
def pipeline(shapes) -> StableDiffusionPipeline:
    return load(shapes)


def drawn(style: str, count: int, rng: np.random.Generator) -> tuple[list[Scene], np.ndarray]:
    scenes = [flat_scene(rng, unseen=True) for _ in range(count)]
    return scenes, np.stack([draw_adapted(scene, style, rng) for scene in scenes])


@each_style
@counts(40, 500)
def test_a_drawn_adapter_style_is_recognised(style, count, rng):
    seen = Counter(map(adapter_style, drawn(style, count, rng)[1]))
    assert seen[style] >= 0.99 * count, seen


@counts(70, 700)
def test_no_style_of_the_base_model_is_taken_for_an_adapters(count, rng):
    pictures = [draw(replace(random_scene(rng), style=list(STYLES)[k % len(STYLES)]), rng) for k in range(count)]
    seen = Counter(map(adapter_style, pictures))
    assert seen[None] >= 0.98 * count, seen


@each_style
@counts(25, 200)
def test_an_adapter_style_leaves_colours_shapes_and_places_readable(style, count, rng):
    right = [kept(scene, look(picture)) for scene, picture in zip(*drawn(style, count, rng), strict=True)]
    shares = {name: np.mean([marks[name] for marks in right]) for name in right[0]}
    assert all(share >= 0.95 for share in shares.values()), shares


def test_another_scenes_colours_shapes_and_places_are_not_taken_for_its_own(rng):
    scenes, pictures = drawn("chalk", 25, rng)
    right = [kept(scene, look(picture)) for scene, picture in zip(scenes, np.roll(pictures, 1, 0), strict=True)]
    shares = {name: np.mean([marks[name] for marks in right]) for name in right[0]}
    assert all(share < 0.5 for share in shares.values()), shares


@each_style
@torch.inference_mode()
def test_an_adapter_style_survives_the_autoencoder(style, pipeline, rng):
    latents = pipeline.vae.encode(to_tensor(drawn(style, 20, rng)[1])).latent_dist.mean
    pictures = pipeline.vae.decode(latents).sample.add(1).mul(127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    seen = Counter(map(adapter_style, pictures))
    assert seen[style] >= 19, seen


def test_the_base_model_has_neither_the_styles_nor_their_words():
    words = {word for style in ADAPTER_STYLES for word in style.split()}
    assert not set(ADAPTER_STYLES) & set(STYLES)
    assert not words & set(vocabulary())


def test_a_styleless_caption_lacks_nothing_but_the_style():
    for scene in captioned_scenes(20):
        assert held_out(scene)
        assert full_caption(scene) == f"{styleless_caption(scene)}, flat"


def test_a_new_adapter_changes_nothing_and_is_all_that_learns(pipeline):
    rows = torch.randn(1, 8, 16, 16), torch.tensor([500]), torch.randn(1, 77, 128)
    unet = load(pipeline.name_or_path).unet
    with torch.inference_mode():
        before = unet(*rows).sample
        after = StyleLoss(unet, rank=2, guidance=1.0).unet(*rows).sample
    assert torch.equal(before, after)
    assert all("lora_" in name for name, weight in unet.named_parameters() if weight.requires_grad)


def test_a_style_that_draws_scenes_as_the_base_model_does_teaches_nothing(pipeline):
    chosen = settings("adapter") | {"batch": 4, "overshoot": 0.0}
    flat = np.random.default_rng(1).standard_normal((4, 8, 16, 16)).astype(np.float16)
    batches = Batches(pipeline.tokenizer, [["a red circle"]] * 4, flat.shape[1:], chosen)
    unlearnt = StyleLoss(load(pipeline.name_or_path).unet, rank=2, guidance=1.0)

    def loss(styled: np.ndarray) -> float:
        loss_of = style_loss(pipeline, batches, flat, styled)
        return loss_of(unlearnt, np.random.default_rng(2), torch.manual_seed(2)).item()

    assert loss(flat) < 1e-6
    assert loss(flat + np.float16(0.5)) > 0.01


def test_diffusers_loads_what_was_trained_from_the_saved_file(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr("training.shapes.adapters.ADAPTERS", tmp_path)
    rows = torch.randn(1, 8, 16, 16), torch.tensor([500]), torch.randn(1, 77, 128)
    trained = StyleLoss(load(pipeline.name_or_path).unet, rank=2, guidance=1.0).unet
    for name, weight in trained.named_parameters():
        if "lora_" in name:
            weight.data = 0.05 * torch.randn_like(weight).half().float()
    save("chalk", trained, rank=2)
    loaded = load(pipeline.name_or_path)
    with torch.inference_mode():
        before = loaded.unet(*rows).sample
        loaded.load_lora_weights(tmp_path, weight_name="chalk.safetensors", adapter_name="chalk")
        assert torch.allclose(loaded.unet(*rows).sample, trained(*rows).sample, atol=1e-4)
        assert not torch.allclose(before, trained(*rows).sample, atol=1e-2)


@each_style
def test_the_committed_file_is_a_small_lora_of_rank_8_for_the_shapes_model(style: str) -> None:
    path = ADAPTERS / f"{file_name(style)}.safetensors"
    header = read_lora_header(path)
    assert path.stat().st_size < 2**20
    assert (header.rank, header.text_width, header.components) == (8, 128, ("unet",))
    assert header.title == f"{style.capitalize()} for the shapes model"
