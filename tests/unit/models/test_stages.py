"""The two outer stages: what is read of a prompt, and what becomes of latents."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from deployments.schema import MAX_PROMPT
from models.denoiser.preview import Preview
from models.denoiser.step_curve import StepCurve
from models.errors import NonFinite
from models.families.clip import expand_embeddings
from models.families.registry import FAMILIES
from models.image_file import encode_image
from models.latent_rgb import fit_latent_rgb
from models.settings_text import settings_text
from models.spec import Lora
from models.text_encoder import EncodedPrompt, TextEncoder, load_text_encoder
from models.vae import Decoded, load_vae
from tests.real_checkpoints import change
from tests.stages import CPU, Stages

BLACK = Decoded(np.zeros((8, 8, 3), np.uint8), tiled=False)


@pytest.fixture(scope="module")
def stages(tiny_sd) -> Stages:
    return Stages(tiny_sd)


def hidden(encoded: EncodedPrompt) -> torch.Tensor:
    """Of the prompt, whose row is the last one."""
    return encoded.rows[-1]["encoder_hidden_states"]


def test_what_does_not_fit_is_quoted_and_the_rest_is_read(stages):
    words = ["red"] * 75
    fits, cut = " ".join(words), " ".join([*words, "and", "a", "zebra"])
    assert stages.text_encoder.tokens(fits).cut == ""
    assert stages.text_encoder.tokens(cut).cut.strip() == "and a zebra"
    whole, shortened = stages.text_encoder.encode([stages.spec(fits), stages.spec(cut)])
    assert shortened.cut["prompt"].strip() == "and a zebra"
    assert np.allclose(hidden(whole), hidden(shortened), atol=1e-6)


def test_the_end_of_a_negative_prompt_that_does_not_fit_is_quoted_where_it_is_read_at_all(stages):
    negative_prompt = " ".join([*["red"] * 75, "and", "a", "zebra"])
    guided, unguided = stages.text_encoder.encode(
        [stages.spec(negative_prompt=negative_prompt, guidance_scale=scale) for scale in (5.0, 1.0)]
    )
    assert {name: cut.strip() for name, cut in guided.cut.items()} == {"negative_prompt": "and a zebra"}
    assert unguided.cut == {}


@pytest.mark.parametrize(
    "text", ["日本の富士山", "مرحبا بالعالم", "🙂🙃🫠", '"quotes" and \\ backslashes', "é̀ ñ", "\x01\x7f"]
)
def test_any_script_is_read_without_the_unknown_token(stages, text):
    tokenizer = stages.text_encoder._components.loaded["tokenizer"]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids
    assert tokenizer.unk_token_id not in ids
    [encoded] = stages.text_encoder.encode([stages.spec(text)])
    assert hidden(encoded).isfinite().all()


def test_an_unguided_picture_costs_no_negative_prompt(stages):
    guided, unguided = stages.text_encoder.encode(
        [stages.spec(guidance_scale=5.0), stages.spec(guidance_scale=1.0, negative_prompt="never read")]
    )
    assert (len(guided.rows), len(unguided.rows)) == (2, 1)


def test_a_batch_of_prompts_gives_what_each_gives_alone(stages):
    prompts = ["a red circle", "a blue star, watercolor", "a ring"]
    together = stages.text_encoder.encode([stages.spec(prompt) for prompt in prompts])
    alone = TextEncoder(FAMILIES[stages.card.family], stages.text_encoder._components)
    for prompt, encoded in zip(prompts, together, strict=True):
        [single] = alone.encode([stages.spec(prompt)])
        assert np.allclose(hidden(single), hidden(encoded), atol=1e-5)


def test_an_embedding_of_several_vectors_counts_as_so_many_tokens(tiny_sd):
    encoder = load_text_encoder(tiny_sd, "sd", CPU)
    tokenizer = encoder._components.loaded["tokenizer"]
    bare = encoder.tokens("a circle").count
    tokenizer.add_tokens(["<style>", "<style>_1", "<style>_2"])
    assert encoder.tokens("a <style> circle").count == bare + 3
    many = encoder.tokens("<style> " * 30)
    assert many.count == 90
    assert many.cut.startswith("<style>"), "75 are read: 25 times three"


def test_embeddings_whose_names_contain_each_other_are_read_in_the_order_of_the_text(tiny_sd):
    """diffusers goes through a set of them, whose order another process has differently."""
    tokenizer = load_text_encoder(tiny_sd, "sd", CPU)._components.loaded["tokenizer"]
    tokenizer.add_tokens(["<a>", "<a>_1", "<a>b", "<a>b_1"])
    first = "<a>b <a>b_1".replace("<a>", "<a> <a>_1")
    assert expand_embeddings("red <a>b circle and <a> dog", tokenizer) == f"red {first} circle and <a> <a>_1 dog"


def test_latents_that_are_not_finite_fail_alone(stages):
    good = np.random.default_rng(0).standard_normal((4, 16, 16)).astype(np.float32)
    bad = good.copy()
    bad[0, 0, 0] = np.nan
    other_shape = good[:, :8]
    first, second, third = stages.vae.decode([good, bad, other_shape])
    assert isinstance(second, NonFinite)
    assert first.pixels.shape == (32, 32, 3)
    assert third.pixels.shape == (16, 32, 3)


def test_a_png_carries_its_settings_as_text_and_as_json(stages):
    spec = stages.spec("a “red” circle\nsecond line", negative_prompt="blue", seed=2**32 - 1, guidance_scale=4.0)
    spec = replace(spec, loras=(Lora(name="ink", weight=0.5, sha256="a" * 64, tensors_sha256="b" * 64),))
    content = encode_image(BLACK, spec, "digest")
    text = Image.open(io.BytesIO(content)).text
    assert text["parameters"] == settings_text(spec)
    assert text["parameters"].startswith("a “red” circle\nsecond line\nNegative prompt: blue\nSteps: 20, Sampler: DDIM")
    fields = json.loads(text["darkroom"])
    assert fields["seed"] == 2**32 - 1
    assert fields["model_digest"] == "digest"
    assert fields["tiled"] is False
    assert fields["loras"] == [{"name": "ink", "weight": 0.5, "sha256": "a" * 64}]


@pytest.mark.parametrize(("prompt", "chunk"), [("a café", b"tEXt"), ("a “red” circle", b"iTXt")])
def test_png_text_is_text_that_every_tool_reads_while_it_is_latin_1(stages, prompt, chunk):
    content = encode_image(BLACK, stages.spec(prompt), "digest")
    assert chunk + b"parameters\0" in content
    assert chunk + b"darkroom\0" in content


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
@pytest.mark.parametrize("quality", [0, 95, 100])
def test_other_formats_carry_their_settings_as_automatic1111_writes_them(stages, output_format, quality):
    longest = "🙂" * MAX_PROMPT  # a JPEG's EXIF has room for 64 KiB
    spec = stages.spec(longest, negative_prompt=longest, output_format=output_format, output_compression=quality)
    image = Image.open(io.BytesIO(encode_image(BLACK, spec, "digest")))
    assert image.format == output_format.upper()
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment == b"UNICODE\0" + settings_text(spec).encode("utf-16-be")


def colour_error(stages, **compression):
    """The greatest difference of a channel in an image whose neighbouring pixels have other colours."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2], pixels[:, 1::2] = (200, 40, 40), (40, 40, 200)
    spec = stages.spec(**compression)
    image = Image.open(io.BytesIO(encode_image(Decoded(pixels, tiled=False), spec, "digest")))
    return np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels).max()


def test_a_jpeg_keeps_the_colour_of_each_pixel_from_quality_90(stages):
    assert colour_error(stages, output_format="jpeg", output_compression=89) > 60
    assert colour_error(stages, output_format="jpeg", output_compression=90) < 20


def test_a_webp_of_quality_100_is_lossless(stages):
    assert colour_error(stages, output_format="webp", output_compression=99) > 60
    assert colour_error(stages, output_format="webp", output_compression=100) == 0


def test_a_preview_is_a_small_webp_and_comes_no_more_often_than_asked(stages):
    state = stages.state(stages.spec())
    state.index = 3
    state.previewed_at = 0.0
    preview = Preview(((0.1, 0.2, 0.3),) * 4 + ((0.0, 0.0, 0.0),), interval_s=3600.0)
    state.joined_at = -7200.0
    state.previewed_at = -7200.0
    image = Image.open(io.BytesIO(preview.due(state) or b""))
    assert image.format == "WEBP"
    assert preview.due(state) is None
    assert Preview((), interval_s=0.0).due(state) is None


def test_previews_of_finished_latents_have_the_colours_of_their_pictures(shapes):
    """Against a guess that knows the mean of all."""
    stages = Stages(shapes)
    specs = [
        stages.spec(f"a {one} circle on a {other} background", num_inference_steps=6, sampler="dpmpp_2m")
        for one, other in (("red", "blue"), ("green", "yellow"), ("white", "black"), ("brown", "pink"))
    ]
    latents = np.stack(stages.denoise(*(stages.state(spec) for spec in specs)))
    pictures = np.stack(stages.pixels(*latents)) / 127.5 - 1
    colours = pictures.reshape(len(specs), 16, 8, 16, 8, 3).mean((2, 4))
    weights = np.array(fit_latent_rgb(stages.vae))
    guess = (np.einsum("nchw,cd->nhwd", latents, weights[:-1]) + weights[-1]).clip(-1, 1)
    unexplained = ((guess - colours) ** 2).sum() / ((colours - colours.mean((0, 1, 2))) ** 2).sum()
    assert unexplained < 0.3


def test_with_batch_invariant_a_batch_gives_the_bits_that_each_gives_alone(tiny_sd):
    stages = Stages(tiny_sd)
    decoder = load_vae(tiny_sd, "sd", CPU, batch_invariant=True)
    latents = list(np.random.default_rng(0).standard_normal((5, 4, 16, 16)).astype(np.float32))
    together = decoder.decode(latents)
    for picture, item in zip(together, latents, strict=True):
        assert np.array_equal(picture.pixels, decoder.decode([item])[0].pixels)
    encoder = load_text_encoder(tiny_sd, "sd", CPU, batch_invariant=True)
    alone = load_text_encoder(tiny_sd, "sd", CPU, batch_invariant=True)
    specs = [stages.spec(prompt) for prompt in ("a red circle", "a blue star, watercolor", "a ring")]
    for spec, encoded in zip(specs, encoder.encode(specs), strict=True):
        assert torch.equal(hidden(encoded), hidden(*alone.encode([spec])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_vae_is_computed_in_float32_where_its_config_says_so(tiny_sd, tiny_sdxl, tmp_path, dtype):
    bare = [shutil.copytree(folder, tmp_path / folder.name) for folder in (tiny_sd, tiny_sdxl)]
    for folder in bare:
        change(folder / "vae/config.json", force_upcast=...)
    found = [
        load_vae(folder, family, CPU, dtype)._vae.dtype
        for folder, family in ((tiny_sd, "sd"), (tiny_sdxl, "sdxl"), (bare[0], "sd"), (bare[1], "sdxl"))
    ]
    assert found == [dtype, torch.float32, dtype, torch.float32]


def test_the_step_curve_reads_between_what_was_measured():
    curve = StepCurve()
    assert curve.step_s(2, 256) > 0
    curve.measure(2, 256, 0.02)
    curve.measure(8, 256, 0.05)
    assert curve.step_s(2, 256) == 0.02
    assert curve.step_s(5, 256) == pytest.approx(0.035)
    assert curve.step_s(16, 256) == pytest.approx(0.10)
    assert curve.step_s(2, 1024) == pytest.approx(0.08)
    curve.measure(2, 256, 0.04)
    assert 0.02 < curve.step_s(2, 256) < 0.04


def test_the_best_row_count_is_the_smallest_that_is_as_fast_as_any():
    curve = StepCurve()
    assert curve.best_rows(256, most=16) == 16
    for rows, seconds in ((1, 0.010), (2, 0.012), (4, 0.020), (8, 0.039), (16, 0.077)):
        curve.measure(rows, 256, seconds)
    assert curve.best_rows(256, most=16) == 4
    assert curve.best_rows(256, most=2) == 2
    assert curve.best_rows(1024, most=16) == 16


def test_a_row_count_that_was_measured_in_a_bad_moment_is_soon_judged_anew():
    curve = StepCurve()
    for rows, seconds in ((2, 0.030), (16, 0.400)):
        curve.measure(rows, 256, seconds)
    assert curve.best_rows(256, most=16) == 2
    for _ in range(2):
        for _ in range(63):
            curve.measure(2, 256, 0.030)
        curve.measure(16, 256, 0.130)
    assert curve.best_rows(256, most=16) == 16


def test_one_disturbed_step_says_little_of_a_row_count_that_is_always_used():
    curve = StepCurve()
    for rows, seconds in ((2, 0.030), *[(16, 0.130)] * 8, (16, 0.400)):
        curve.measure(rows, 256, seconds)
    assert curve.best_rows(256, most=16) == 16


@pytest.mark.parametrize("checkpoint", ["tiny_sd", "tiny_sdxl"])
def test_a_text_that_skips_layers_is_another_text_to_batches_and_to_the_cache(checkpoint, request):
    stages = Stages(request.getfixturevalue(checkpoint), batch_invariant=True)
    specs = [stages.spec("a ring", clip_skip=layers) for layers in (0, 1, 2)]
    together = stages.text_encoder.encode(specs)
    assert stages.text_encoder.asked == 4  # and the empty negative one, which skips none
    for spec, encoded in zip(specs, together, strict=True):
        [alone] = TextEncoder(FAMILIES[stages.card.family], stages.text_encoder._components).encode([spec])
        assert torch.allclose(hidden(encoded), hidden(alone), atol=1e-5)
        assert torch.equal(encoded.rows[0]["encoder_hidden_states"], together[0].rows[0]["encoder_hidden_states"])
    assert not any(torch.equal(hidden(encoded), hidden(together[0])) for encoded in together[1:])
    assert not torch.equal(hidden(together[1]), hidden(together[2]))
    [again] = stages.text_encoder.encode(specs[1:2])
    assert torch.equal(hidden(again), hidden(together[1]))


def test_the_encoder_counts_the_texts_that_it_knew(stages):
    encoder = TextEncoder(FAMILIES[stages.card.family], stages.text_encoder._components)
    specs = [stages.spec("a ring"), stages.spec("a star"), stages.spec("a ring", seed=8)]
    encoder.encode(specs)
    assert (encoder.asked, encoder.cached) == (3, 0)  # two prompts, and the empty negative one
    encoder.encode([*specs, stages.spec("a moon")])
    assert (encoder.asked, encoder.cached) == (7, 3)
