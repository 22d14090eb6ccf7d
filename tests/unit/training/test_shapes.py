"""The shapes model: its scenes, its measures, and whether the committed weights follow a prompt."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from training.shapes.captions import full_caption, random_caption
from training.shapes.data import to_tensor
from training.shapes.evaluate import MEASURES, generate, held_out_scenes, score
from training.shapes.export import CARD
from training.shapes.scenes import ATTRIBUTES, draw, held_out, random_training_scene
from training.shapes.tokenizer import MAX_TOKENS, new_tokenizer


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_the_measures_read_what_was_drawn(rng):
    scenes = [random_training_scene(rng) for _ in range(200)]
    read = score(np.stack([draw(scene, rng) for scene in scenes]), scenes)
    assert all(read[name] >= 0.98 for name in MEASURES), read


def test_the_measures_tell_a_picture_from_another_scenes(rng):
    scenes = [random_training_scene(rng) for _ in range(200)]
    pictures = np.stack([draw(scene, rng) for scene in scenes])
    mistaken = score(np.roll(pictures, 1, 0), scenes)
    assert all(mistaken[name] < 1.6 / len(ATTRIBUTES[name]) for name in MEASURES), mistaken


def test_training_never_sees_a_held_out_combination(rng):
    taught = {(s.shape, s.colour, s.background) for s in (random_training_scene(rng) for _ in range(3000))}
    asked = held_out_scenes(300)
    assert all(held_out(scene) for scene in asked)
    assert not taught & {(s.shape, s.colour, s.background) for s in asked}


def test_a_caption_fits_the_text_encoder_word_by_word(rng):
    tokenizer = new_tokenizer()
    for scene in held_out_scenes(50):
        for caption in (full_caption(scene), random_caption(scene, rng)):
            tokens = tokenizer.tokenize(caption)
            assert len(tokens) <= MAX_TOKENS - 2
            assert len(tokens) == len(caption.replace(",", " ,").split()), tokens


def test_the_committed_autoencoder_keeps_what_was_drawn(shapes, rng):
    autoencoder = AutoencoderKL.from_pretrained(shapes / "vae")
    pixels = to_tensor(np.stack([draw(scene, rng) for scene in held_out_scenes(50)]))
    with torch.inference_mode():
        kept = autoencoder.decode(autoencoder.encode(pixels).latent_dist.mean).sample
    error = (kept - pixels).square().mean().item()
    assert 10 * np.log10(4 / error) > 30  # decibels


def test_the_committed_weights_draw_what_a_held_out_caption_says(shapes):
    scenes = held_out_scenes(24, seed=3)
    defaults = CARD["defaults"]
    seen = score(generate(shapes, scenes, 20, defaults["guidance_scale"]), scenes)
    bounds = {"colour": 0.8, "background": 0.9, "shape": 0.75, "position": 0.9, "size": 0.75}
    assert all(seen[name] >= bound for name, bound in bounds.items()), seen
