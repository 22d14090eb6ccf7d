"""What a Vae makes of the inputs of jobs, without Ray."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.errors import NotFound
from deployments.input_store import InputStore, file_name, id_of
from deployments.model_config import ModelConfig, VaeConfig
from deployments.stages.init_images import InitImages, Source, source_of
from deployments.stages.vae import Vae as VaeStage
from deployments.stages.vae import _first_pass
from models.checkpoint.card import read_card
from models.errors import InvalidRequest
from models.hires import Hires
from models.spec import EncodedImage, ImageSpec, InitImage
from models.upscaling import upscale
from models.vae import Vae, load_vae
from tests.fakes import a_spec
from tests.stages import CPU

OWNER = "me"


def kept(images: Path, image: Image.Image) -> str:
    """An input of the owner's."""
    content = io.BytesIO()
    image.save(content, "png")
    input_id = id_of(content.getvalue())
    InputStore(images).put(file_name(OWNER, input_id), content.getvalue())
    return input_id


def a_photo(side: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def a_mask(side: int = 64) -> Image.Image:
    """The left half is made anew."""
    return Image.fromarray(np.repeat([[255] * (side // 2) + [0] * (side // 2)], side, 0).astype(np.uint8))


@pytest.fixture
def spec(tmp_path: Path) -> ImageSpec:
    init = InitImage(input=kept(tmp_path, a_photo()), strength=0.5, mask=kept(tmp_path, a_mask()))
    return replace(a_spec(width=64, height=64), init=init)


@pytest.fixture
def vae(tiny_sd: Path) -> Vae:
    return load_vae(tiny_sd, "sd", CPU)


def test_the_images_of_a_job_share_one_encoding(
    vae: Vae, spec: ImageSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = list[int](), vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    images = InitImages(vae, "d" * 64, requires_mask=False)
    sources = [source_of(replace(spec, seed=seed), str(tmp_path), OWNER) for seed in range(3)]
    first, *others = images.encode(sources[:2])
    [later] = images.encode(sources[2:])
    assert sum(encoded) == 1
    assert isinstance(first, EncodedImage)
    assert first.model_digest == "d" * 64
    assert all(each is first for each in (*others, later))


def test_a_mask_is_of_cells_and_a_model_that_needs_it_sees_what_it_leaves(
    vae: Vae, spec: ImageSpec, tmp_path: Path
) -> None:
    source = source_of(spec, str(tmp_path), OWNER)
    [plain] = InitImages(vae, "", requires_mask=False).encode([source])
    [needed] = InitImages(vae, "", requires_mask=True).encode([source])
    assert isinstance(plain, EncodedImage)
    assert isinstance(needed, EncodedImage)
    assert plain.masked is None
    assert plain.mask is not None
    assert plain.mask.shape == plain.mean.shape[1:]
    assert plain.mask.mean() == 0.5
    assert needed.masked is not None
    mean, _ = needed.masked
    assert not np.allclose(mean, needed.mean)


@pytest.mark.parametrize("requires_mask", [False, True])
def test_a_mask_between_the_cells_of_the_latents_is_refused_as_nothing_would_change(
    vae: Vae, spec: ImageSpec, tmp_path: Path, requires_mask: bool
) -> None:
    assert spec.init is not None
    small, seen = Image.new("L", (64, 64)), Image.new("L", (64, 64))
    small.paste(255, (3, 3, 4, 4))
    seen.paste(255, (3, 3, 3 + vae.scale, 3 + vae.scale))
    sources = [
        source_of(replace(spec, init=replace(spec.init, mask=kept(tmp_path, mask))), str(tmp_path), OWNER)
        for mask in (small, seen)
    ]
    refused, found = InitImages(vae, "", requires_mask=requires_mask).encode(sources)
    assert isinstance(refused, InvalidRequest)
    assert refused.param == "init.mask"
    assert "of 64x64 pixels" in refused.message
    assert isinstance(found, EncodedImage)
    assert found.mask is not None
    assert found.mask.sum() == 1


def test_an_input_whose_file_is_gone_fails_alone_in_the_field_that_names_it(
    vae: Vae, spec: ImageSpec, tmp_path: Path
) -> None:
    assert spec.init is not None
    good = source_of(spec, str(tmp_path), OWNER)
    gone = "input_" + "0" * 64
    sources: list[Source] = [
        source_of(replace(spec, init=replace(spec.init, input=gone)), str(tmp_path), OWNER),
        good,
        source_of(replace(spec, init=replace(spec.init, mask=gone)), str(tmp_path), OWNER),
    ]
    image, found, mask = InitImages(vae, "", requires_mask=False).encode(sources)
    assert isinstance(found, EncodedImage)
    assert isinstance(image, NotFound)
    assert isinstance(mask, NotFound)
    assert (image.param, mask.param) == ("init.input", "init.mask")


def test_what_lies_outside_the_mask_is_pasted_back(shapes: Path, tmp_path: Path) -> None:
    photo = a_photo(128)
    init = InitImage(
        input=kept(tmp_path, photo), strength=1.0, mask=kept(tmp_path, a_mask(128)), mask_blur=4, paste_back=True
    )
    spec = replace(a_spec(width=128, height=128), init=init)
    vae = VaeStage(ModelConfig(checkpoint=str(shapes), vae=VaeConfig(threads=1)), read_card(str(shapes)))
    latents = np.zeros((8, 16, 16), np.float32)
    vae._decode_and_store([(spec, latents, str(tmp_path), "0.png", OWNER)])
    result = np.asarray(Image.open(next(tmp_path.rglob("0.png"))))
    original = np.asarray(photo)
    assert np.array_equal(result[:, 64 + 3 * 4 :], original[:, 64 + 3 * 4 :])
    assert not np.array_equal(result[:, :64], original[:, :64])


def test_in_a_second_pass_a_mask_and_what_is_pasted_back_have_the_size_of_the_finished_image(
    shapes: Path, tmp_path: Path
) -> None:
    photo = a_photo(128)
    init = InitImage(input=kept(tmp_path, photo), strength=1.0, mask=kept(tmp_path, a_mask(128)), paste_back=True)
    hires = Hires(scale=2.0, strength=0.5, steps=8, width=128, height=128)
    spec = replace(a_spec(width=64, height=64), init=init, hires=hires)
    vae = VaeStage(ModelConfig(checkpoint=str(shapes), vae=VaeConfig(threads=1)), read_card(str(shapes)))
    first_pass = _first_pass(spec, np.zeros((8, 8, 8), np.float32), str(tmp_path), OWNER)
    assert first_pass.mask is not None
    assert (first_pass.mask.shape, first_pass.mask.mean()) == ((128, 128), 0.5)
    [larger] = upscale(vae._vae, [first_pass], requires_mask=False)
    assert isinstance(larger, EncodedImage)
    vae._decode_and_store([(spec, larger.mean, str(tmp_path), "0.png", OWNER)])
    result = np.asarray(Image.open(next(tmp_path.rglob("0.png"))))
    assert np.array_equal(result[:, 64 + 3 * 4 :], np.asarray(photo)[:, 64 + 3 * 4 :])


def test_without_a_mask_a_second_pass_reads_no_input() -> None:
    spec = replace(a_spec(), hires=Hires(scale=2.0, strength=0.5, steps=8, width=256, height=256))
    assert _first_pass(spec, np.zeros((4, 16, 16), np.float32), "nowhere", OWNER).mask is None
