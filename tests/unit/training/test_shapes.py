"""The shapes model: its scenes, its measures, and whether the committed weights follow a prompt."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from models.samplers import new_scheduler
from training.shapes.captions import full_caption, random_caption
from training.shapes.denoiser import VelocityLoss, likelihoods, overshot
from training.shapes.denoiser import new_scheduler as noise_schedule
from training.shapes.evaluate import generate, held_out_scenes, load, reconstruction, red_share, score
from training.shapes.export import CARD
from training.shapes.measures import look
from training.shapes.scenes import (
    ATTRIBUTES,
    NONE,
    Scene,
    Thing,
    attributes,
    draw,
    held_out,
    random_scene,
    random_training_scene,
)
from training.shapes.tokenizer import MAX_TOKENS, new_tokenizer

FLOORS = {"background": 0.9, "position": 0.9, "both things": 0.6, "relation": 0.7}  # the last two of 38 pictures
DEFAULTS = {name: CARD["defaults"][name] for name in ("num_inference_steps", "guidance_scale")}


def counts(few: int, many: int) -> pytest.MarkDecorator:
    """So few scenes every time, and many at night."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.nightly)])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture(scope="module")
def pipeline(shapes) -> StableDiffusionPipeline:
    return load(shapes)


@counts(100, 200)
def test_the_measures_read_what_was_drawn(rng, count):
    scenes = [random_scene(rng) for _ in range(count)]
    read = score(np.stack([draw(scene, rng) for scene in scenes]), scenes)
    assert all(share >= 0.98 for share in read.values()), read


@counts(30, 100)
def test_the_measures_tell_a_picture_from_another_scenes(rng, count):
    scenes = [random_scene(rng) for _ in range(count)]
    pictures = np.stack([draw(scene, rng) for scene in scenes])
    mistaken = score(np.roll(pictures, 1, 0), scenes)
    assert all(share < 0.55 for share in mistaken.values()), mistaken


def test_every_attribute_of_a_scene_is_a_known_one(rng):
    for scene in (random_scene(rng) for _ in range(200)):
        assert all(value in ATTRIBUTES[name] for name, value in attributes(scene).items())


def test_things_lie_inside_the_picture_and_apart(rng):
    for scene in (random_scene(rng) for _ in range(300)):
        covered = [thing.outline() < 0 for thing in scene.things]
        assert all(c.any() and not (c[0].any() or c[-1].any() or c[:, 0].any() or c[:, -1].any()) for c in covered)
        assert np.sum(covered, 0).max() == 1


def test_training_never_sees_a_held_out_combination(rng):
    def combinations(scenes):
        return {(thing.shape, thing.colour, s.background, s.style) for s in scenes for thing in s.things}

    taught = [random_training_scene(rng) for _ in range(5000)]
    asked = held_out_scenes(300)
    unseen = combinations(asked) - combinations(taught)
    assert all(held_out(scene) for scene in asked)
    assert not any(held_out(scene) for scene in taught)
    assert all(unseen & combinations([scene]) for scene in asked)


def test_an_attribute_says_what_lies_where():
    first, second = (
        Thing(shape=s, colour=c, size="small", x=0, y=0, radius=9) for s, c in (("moon", "red"), ("tree", "blue"))
    )
    scene = Scene(things=(first, second), place="below", background="white", pattern="plain", style="flat")
    named = attributes(scene)
    assert (named["first shape"], named["bottom shape"], named["top colour"]) == ("moon", "moon", "blue")
    assert named["left shape"] == named["center size"] == NONE


def test_a_caption_fits_the_text_encoder_word_by_word(rng):
    tokenizer = new_tokenizer()
    for scene in held_out_scenes(50):
        tokens = tokenizer.tokenize(caption := full_caption(scene))
        assert len(tokens) == len(caption.replace(",", " ,").split()), tokens
        assert len(tokenizer.tokenize(random_caption(scene, rng))) <= MAX_TOKENS - 2


def test_two_tokenizers_are_the_same():
    assert new_tokenizer().get_vocab() == new_tokenizer().get_vocab()


def test_without_an_overshoot_the_noise_and_the_velocity_are_the_schedulers():
    scheduler, timesteps = noise_schedule(), torch.tensor([0, 400, 999])
    clean, draws = torch.randn(2, 3, 8, 4, 4, generator=torch.manual_seed(1))
    noisy, velocity = overshot(clean, draws, *factors(scheduler, timesteps), torch.zeros(3, 1, 1, 1))
    assert torch.allclose(noisy, scheduler.add_noise(clean, draws, timesteps), atol=1e-5)
    assert torch.allclose(velocity, scheduler.get_velocity(clean, draws, timesteps), atol=1e-3)


def test_the_velocity_leads_from_an_overshot_picture_back_to_the_picture():
    scheduler, timesteps = noise_schedule(), torch.tensor([20, 400, 900])
    clean, draws = torch.randn(2, 3, 8, 4, 4, generator=torch.manual_seed(1))
    signal, noise = factors(scheduler, timesteps)
    noisy, velocity = overshot(clean, draws, signal, noise, torch.full((3, 1, 1, 1), 0.3))
    assert not torch.allclose(noisy, signal * clean + noise * draws, atol=1e-2)
    assert torch.allclose(signal * noisy - noise * velocity, clean, atol=1e-4)


class Answers(torch.nn.Module):
    """In a UNet's place: one output for a caption, another for the empty one, told apart by their embeddings."""

    def __init__(self, captioned: torch.Tensor, empty: torch.Tensor) -> None:
        super().__init__()
        self.captioned, self.empty = captioned, empty

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=torch.where(embeds[:, :1, :1, None] > 0, self.captioned, self.empty))


def test_with_no_loss_left_guidance_of_the_taught_scale_gives_the_true_velocity():
    captioned, empty = torch.randn(2, 3, 8, 4, 4, generator=torch.manual_seed(1))
    truth = empty + 1.6 * (captioned - empty)
    rows = torch.zeros(3, 8, 4, 4), torch.zeros(3), torch.ones(3, 2, 2), torch.zeros(2, 2), torch.zeros(3).bool()
    loss = VelocityLoss(Answers(captioned, empty), guidance=1.6)
    assert loss(*rows, truth).item() < 1e-6
    assert loss(*rows, captioned).item() > 0.1


def test_without_a_caption_the_velocity_itself_is_taught():
    captioned, empty = torch.randn(2, 3, 8, 4, 4, generator=torch.manual_seed(1))
    rows = torch.zeros(3, 8, 4, 4), torch.zeros(3), torch.zeros(3, 2, 2), torch.zeros(2, 2), torch.ones(3).bool()
    assert VelocityLoss(Answers(captioned, empty), guidance=1.6)(*rows, empty).item() < 1e-6


def test_pictures_of_the_harder_styles_are_so_much_likelier():
    captions = [["a circle", "NEON, a red circle"], ["a circle"], ["a line drawing"]]
    assert likelihoods(captions, {"neon": 2.5, "line": 1.5}) == pytest.approx(np.array([2.5, 1, 1.5]) / 5)


def factors(scheduler: DDIMScheduler, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    kept = scheduler.alphas_cumprod[timesteps][:, None, None, None]
    return kept.sqrt(), (1 - kept).sqrt()


def test_edges_survive_the_autoencoder(pipeline, rng):
    pictures = np.stack([draw(scene, rng) for scene in held_out_scenes(50)])
    assert reconstruction(pipeline, pictures) >= 30


def drawn(pipeline: StableDiffusionPipeline, scenes: list[Scene], **settings) -> dict[str, float]:
    return score(generate(pipeline, [full_caption(scene) for scene in scenes], **settings), scenes)


@counts(20, 50)
def test_the_committed_weights_draw_what_a_held_out_caption_says(pipeline, count):
    seen = drawn(pipeline, held_out_scenes(count, seed=3), **DEFAULTS)
    assert all(share >= FLOORS.get(name, 0.8) for name, share in seen.items()), seen


@pytest.mark.nightly
def test_eight_steps_of_dpm_solver_draw_it_too(pipeline):
    quick = StableDiffusionPipeline(
        **pipeline.components | {"scheduler": new_scheduler(pipeline.scheduler.config, "dpmpp_2m")}
    )
    quick.set_progress_bar_config(disable=True)
    seen = drawn(quick, held_out_scenes(50, seed=3), **DEFAULTS | {"num_inference_steps": 8})
    assert all(share >= FLOORS.get(name, 0.8) for name, share in seen.items()), seen


@pytest.mark.nightly
def test_guidance_brings_a_picture_closer_to_its_caption(pipeline):
    scenes = held_out_scenes(50, seed=3)
    without = drawn(pipeline, scenes, **DEFAULTS | {"guidance_scale": 1.0})
    assert sum(drawn(pipeline, scenes, **DEFAULTS).values()) > sum(without.values())


def test_words_it_does_not_know_still_give_a_clean_scene(pipeline):
    pictures = generate(pipeline, ["a photo of a cat", "qwerty", "zürich ✨"] * 4, **DEFAULTS)
    with torch.inference_mode():
        noise = torch.randn(4, 8, 16, 16, generator=torch.manual_seed(1)) / pipeline.vae.config.scaling_factor
        noise = pipeline.vae.decode(noise).sample.add(1).mul(127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    assert max(map(roughness, pictures)) < min(map(roughness, noise)) / 2
    assert sum(bool(look(picture).things) for picture in pictures) >= 10


def roughness(picture: np.ndarray) -> float:
    """How far neighbouring pixels lie apart in most of the picture, along the smoother axis: stripes have one."""
    apart = (np.abs(np.diff(picture.astype(int), axis=axis)).sum(-1) for axis in (0, 1))
    return min(float(np.quantile(distances, 0.6)) for distances in apart)


@pytest.mark.nightly
def test_a_negative_prompt_makes_its_colour_rare(pipeline):
    shares = {
        negative: red_share(pipeline, negative, 50, num_inference_steps=20, guidance_scale=4.0)
        for negative in ("", "red")
    }
    assert shares["red"] <= shares[""] / 2, shares
