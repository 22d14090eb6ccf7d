"""The VAE gives what diffusers' gives, whole wherever it fits into memory; images are encoded as they are decoded."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionXLImg2ImgPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from models import vae as vae_module
from models.errors import InvalidRequest, NonFinite, OutOfMemory
from models.families.registry import FAMILIES
from models.vae import Decoded, Encoded, Vae, load_vae
from tests.real_checkpoints import build
from tests.stages import CPU, Stages

XL = FAMILIES["sdxl"]
TRAINING_SIZES = [(1152, 896), (1216, 832), (1344, 768), (768, 1344)]  # of Stable Diffusion XL
EXTREMES = TRAINING_SIZES[::3]  # the nearest to a square, and the tallest
STRIP = (1152, 64)  # one side as long as the first, where tiles would begin
NIGHTLY = pytest.mark.nightly


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("checkpoint") / "sdxl", "sdxl")


@pytest.fixture(scope="module")
def narrow_vae() -> AutoencoderKL:
    """A VAE that decodes a megapixel in seconds, with the sizes at which one of XL's would tile."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=1024,
        scaling_factor=0.13025,
    ).eval()


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Latents of an image of so many pixels."""
    return np.random.default_rng(seed).standard_normal((4, height // 8, width // 8)).astype(np.float32)


def by_diffusers(vae: AutoencoderKL, latents: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        decoded = vae.decode(torch.from_numpy(latents)[None] / vae.config.scaling_factor).sample
    return np.asarray(VaeImageProcessor().postprocess(decoded)[0])


def photograph(width: int, height: int, seed: int = 0) -> np.ndarray:
    """An image of so many pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def posterior_by_diffusers(vae: AutoencoderKL, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of an image's latents, times the factor by which the pipelines scale what is drawn of them."""
    with torch.inference_mode():
        pixels = VaeImageProcessor().preprocess(Image.fromarray(image))
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
    scaled = (vae.config.scaling_factor * each[0].float() for each in (posterior.mean, posterior.std))
    mean, std = (each.numpy() for each in scaled)
    return mean, std


@pytest.mark.parametrize(
    ("width", "height"),
    [size if size in EXTREMES else pytest.param(*size, marks=NIGHTLY) for size in TRAINING_SIZES],
)
def test_the_decoder_gives_diffusers_image_at_the_sizes_that_xl_was_trained_on(narrow_vae, width, height):
    vae: AutoencoderKL = narrow_vae
    latents = noise(width, height)
    vae.use_tiling = False
    reference = by_diffusers(vae, latents).astype(int)
    [decoded] = Vae(vae, XL, 8, CPU).decode([latents])
    assert isinstance(decoded, Decoded)
    assert not decoded.tiled
    assert np.abs(decoded.pixels.astype(int) - reference).max() <= 1
    vae.enable_tiling()
    assert np.abs(by_diffusers(vae, latents).astype(int) - reference).max() > 1, "tiles would not show"


@pytest.mark.parametrize(
    ("width", "height"),
    [STRIP, *(pytest.param(*size, marks=NIGHTLY) for size in TRAINING_SIZES)],
)
def test_so_does_the_whole_pipeline(sdxl, width, height):
    stages = Stages(sdxl)
    spec = stages.spec(width=width, height=height, num_inference_steps=1, guidance_scale=1.0)
    pipeline = DiffusionPipeline.from_pretrained(sdxl)
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(
        spec.prompt,
        width=width,
        height=height,
        num_inference_steps=1,
        guidance_scale=1.0,
        generator=torch.Generator("cpu").manual_seed(spec.seed),
    )
    reference = np.asarray(output.images[0]).astype(int)
    assert reference.shape == (height, width, 3)
    assert np.abs(stages.picture(spec).astype(int) - reference).max() <= 1


class Memory:
    """Lets a VAE compute so many latent cells at a time, and notes what it is asked for."""

    def __init__(self, vae: AutoencoderKL, cells: int) -> None:
        self._decode, self._encode, self._vae, self._cells = vae.decode, vae.encode, vae, cells
        self.asked: list[tuple[int, bool]] = []

    def decode(self, latents: torch.Tensor, **options: object) -> object:
        self._hold(len(latents), latents[:, 0].numel())
        return self._decode(latents, **options)

    def encode(self, images: torch.Tensor, **options: object) -> object:
        self._hold(len(images), images[:, 0].numel() // 8**2)
        return self._encode(images, **options)

    def _hold(self, images: int, cells: int) -> None:
        self.asked.append((images, self._vae.use_tiling))
        if (8 * 8 if self._vae.use_tiling else cells) > self._cells:
            raise torch.OutOfMemoryError("as a GPU says it")


@pytest.fixture
def small_memory(narrow_vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Memory]:
    def limit(cells: int) -> Memory:
        memory = Memory(narrow_vae, cells)
        monkeypatch.setattr(narrow_vae, "decode", memory.decode)
        monkeypatch.setattr(narrow_vae, "encode", memory.encode)
        monkeypatch.setattr(narrow_vae, "use_tiling", False)
        return memory

    return limit


def test_a_batch_that_does_not_fit_is_decoded_one_by_one_and_whole(narrow_vae, small_memory):
    memory = small_memory(16 * 16)
    decoded = Vae(narrow_vae, XL, 8, CPU).decode([noise(128, 128, seed) for seed in range(3)])
    assert memory.asked == [(3, False), (1, False), (1, False), (1, False)]
    assert [image.tiled for image in decoded] == [False] * 3


def test_an_image_that_does_not_fit_whole_is_decoded_in_tiles_and_says_so(narrow_vae, small_memory):
    memory = small_memory(16 * 16)
    [decoded] = Vae(narrow_vae, XL, 8, CPU).decode([noise(256, 256)])
    assert memory.asked == [(1, False), (1, True)]
    assert decoded.tiled
    assert decoded.pixels.shape == (256, 256, 3)
    [next_one] = Vae(narrow_vae, XL, 8, CPU).decode([noise(128, 128)])
    assert not next_one.tiled, "tiling does not outlive the image"


def test_an_image_that_does_not_fit_in_tiles_either_fails_and_its_neighbours_do_not(narrow_vae, small_memory):
    small_memory(6 * 6)
    large, small = Vae(narrow_vae, XL, 8, CPU).decode([noise(128, 128), noise(48, 48)])
    assert isinstance(large, OutOfMemory)
    assert large.message == "An image of 128x128 does not fit into the VAE's memory."
    assert isinstance(small, Decoded)


def test_with_batch_invariant_an_image_that_does_not_fit_fails_instead_of_being_tiled(narrow_vae, small_memory):
    memory = small_memory(16 * 16)
    [outcome] = Vae(narrow_vae, XL, 8, CPU, batch_invariant=True).decode([noise(256, 256)])
    assert isinstance(outcome, OutOfMemory)
    assert memory.asked == [(1, False)]


def test_a_cpu_knows_at_start_what_would_not_fit(sdxl, monkeypatch):
    """A CPU refuses no memory: the system ends the process instead."""
    bytes_per_pixel = vae_module.DECODE_TENSORS * 32 * 4
    for pixels, tiled in ((128 * 128, [False, False]), (128 * 128 - 1, [False, True])):
        free = bytes_per_pixel * pixels / vae_module.MEMORY_SHARE
        monkeypatch.setattr(vae_module, "available_bytes", lambda free=free: free)
        decoder = load_vae(sdxl, "sdxl", CPU)
        decoded = decoder.decode([noise(64, 64), noise(128, 128)])
        assert [image.tiled for image in decoded] == tiled


def test_a_cpu_knows_likewise_what_cannot_be_encoded(sdxl, monkeypatch):
    bytes_per_pixel = vae_module.ENCODE_TENSORS * 32 * 4
    for pixels, fits in ((128 * 128, True), (128 * 128 - 1, False)):
        free = bytes_per_pixel * pixels / vae_module.MEMORY_SHARE
        monkeypatch.setattr(vae_module, "available_bytes", lambda free=free: free)
        small, large = load_vae(sdxl, "sdxl", CPU).encode([photograph(64, 64), photograph(128, 128)])
        assert isinstance(small, Encoded)
        assert isinstance(large, Encoded if fits else OutOfMemory)


def test_the_memory_of_a_container_counts_as_the_machines(monkeypatch, tmp_path):
    from models.checkpoint import loading

    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(loading, "CGROUP", tmp_path)
    monkeypatch.setattr(loading.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    assert loading.available_bytes() == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert loading.available_bytes() == 2**40


@pytest.mark.parametrize("fixture", ["tiny_sd", "tiny_sdxl", "shapes"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 64), (72, 200)])
def test_an_image_is_encoded_to_the_posterior_of_diffusers(request, fixture, width, height):
    folder, image = request.getfixturevalue(fixture), photograph(width, height)
    untouched = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    mean, std = posterior_by_diffusers(untouched, image)
    [encoded] = load_vae(folder, "sdxl" if fixture == "tiny_sdxl" else "sd", CPU).encode([image])
    scale = 2 ** (len(untouched.config.block_out_channels) - 1)
    assert encoded.mean.shape == encoded.std.shape == (mean.shape[0], height // scale, width // scale)
    assert encoded.mean.dtype == encoded.std.dtype == np.float32
    assert_close(encoded.mean, mean)
    assert_close(encoded.std, std)
    mirrored, _ = posterior_by_diffusers(untouched, image[:, ::-1].copy())
    with pytest.raises(AssertionError):
        assert_close(mirrored, mean)


def assert_close(found: np.ndarray, reference: np.ndarray) -> None:
    assert np.linalg.norm(found - reference) <= 1e-5 * np.linalg.norm(reference)


def test_a_vae_with_a_mean_and_a_deviation_a_channel_encodes_as_the_pipeline_of_xl_does(tiny_sdxl):
    image, mean, std = photograph(64, 64), [0.3, -0.2, 0.1, 0.5], [2.0, 0.5, 1.5, 0.8]
    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(tiny_sdxl)
    pipeline.vae.register_to_config(latents_mean=mean, latents_std=std)
    pixels, timestep = VaeImageProcessor().preprocess(Image.fromarray(image)), torch.tensor([0])
    drawn = [
        pipeline.prepare_latents(pixels, timestep, 1, 1, torch.float32, CPU, torch.Generator().manual_seed(seed), False)
        for seed in (0, 1)
    ]
    [encoded] = Vae(pipeline.vae, XL, pipeline.vae_scale_factor, CPU).encode([image])
    for seed, reference in enumerate(drawn):
        noise = torch.randn(1, *encoded.mean.shape, generator=torch.Generator().manual_seed(seed))[0].numpy()
        assert_close(encoded.mean + encoded.std * noise, reference[0].detach().numpy())


def test_images_of_several_shapes_are_encoded_together_each_as_alone_and_in_order(tiny_sd, monkeypatch):
    vae = load_vae(tiny_sd, "sd", CPU)
    images = [photograph(64, 64, 1), photograph(96, 64, 2), photograph(64, 64, 3), photograph(96, 64, 4)]
    alone = [vae.encode([image])[0] for image in images]
    sizes = []
    encode = vae._vae.encode
    monkeypatch.setattr(vae._vae, "encode", lambda x, **options: sizes.append(tuple(x.shape)) or encode(x, **options))
    for found, reference in zip(vae.encode(images), alone, strict=True):
        assert_close(found.mean, reference.mean)
        assert_close(found.std, reference.std)
    assert sizes == [(2, 3, 64, 64), (2, 3, 64, 96)]


def test_large_images_are_encoded_one_at_a_time(narrow_vae, small_memory):
    memory = small_memory(10**6)
    Vae(narrow_vae, XL, 8, CPU).encode([photograph(512, 512)] * 2 + [photograph(520, 512)] * 2)
    assert memory.asked == [(2, False), (1, False), (1, False)]


def test_with_batch_invariant_an_encoded_batch_has_the_bits_that_each_has_alone(narrow_vae, small_memory):
    memory = small_memory(10**6)
    vae = Vae(narrow_vae, XL, 8, CPU, batch_invariant=True)
    images = [photograph(64, 64, seed) for seed in range(5)]
    together = vae.encode(images)
    assert memory.asked == [(1, False)] * 5
    for found, image in zip(together, images, strict=True):
        [alone] = vae.encode([image])
        assert np.array_equal(found.mean, alone.mean)
        assert np.array_equal(found.std, alone.std)


def test_images_that_do_not_fit_together_are_encoded_one_by_one(narrow_vae, small_memory):
    memory = small_memory(16 * 16)
    encoded = Vae(narrow_vae, XL, 8, CPU).encode([photograph(128, 128, seed) for seed in range(3)])
    assert memory.asked == [(3, False), (1, False), (1, False), (1, False)]
    assert all(isinstance(each, Encoded) for each in encoded)


def test_an_image_that_does_not_fit_alone_fails_and_its_neighbours_do_not(narrow_vae, small_memory):
    memory = small_memory(16 * 16)
    large, small = Vae(narrow_vae, XL, 8, CPU).encode([photograph(256, 128), photograph(128, 128)])
    assert isinstance(large, OutOfMemory)
    assert large.message == "An image of 256x128 does not fit into the VAE's memory."
    assert isinstance(small, Encoded)
    assert not any(tiled for _, tiled in memory.asked)


def test_an_image_is_encoded_whole_after_another_was_decoded_in_tiles(narrow_vae, small_memory):
    image = photograph(1152, 896)
    narrow_vae.use_tiling = False
    reference, _ = posterior_by_diffusers(narrow_vae, image)
    vae = Vae(narrow_vae, XL, 8, CPU)
    memory = small_memory(16 * 16)
    vae.decode([noise(256, 256)])
    assert memory.asked[-1] == (1, True)
    memory._cells = 10**6
    [encoded] = vae.encode([image])
    assert_close(encoded.mean, reference)


def test_a_posterior_that_is_not_finite_fails_alone(tiny_sd, monkeypatch):
    vae = load_vae(tiny_sd, "sd", CPU)
    encode = vae._vae.encode

    def overflowing(pixels: torch.Tensor, **options: object) -> tuple[object]:
        [posterior] = encode(pixels, **options)
        posterior.mean[1, 0, 0, 0] = torch.inf
        return (posterior,)

    monkeypatch.setattr(vae._vae, "encode", overflowing)
    first, second, third = vae.encode([photograph(64, 64, seed) for seed in range(3)])
    assert isinstance(second, NonFinite)
    assert isinstance(first, Encoded)
    assert isinstance(third, Encoded)


def test_an_image_whose_sides_are_no_multiples_of_a_cell_fails_alone(narrow_vae):
    odd, even = Vae(narrow_vae, XL, 8, CPU).encode([photograph(60, 64), photograph(64, 64)])
    assert isinstance(odd, InvalidRequest)
    assert odd.message == "An image's sides must be multiples of 8 to be encoded; got 60x64."
    assert isinstance(even, Encoded)
