"""An image is decoded whole, as diffusers decodes it, and in tiles only where it does not fit into memory."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor

from models import vae as vae_module
from models.errors import OutOfMemory
from models.vae import Decoded, Vae, load_vae
from tests.real_checkpoints import build
from tests.stages import CPU, Stages

TRAINING_SIZES = [(1152, 896), (1216, 832), (1344, 768), (768, 1344)]  # of Stable Diffusion XL
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


@pytest.mark.parametrize(("width", "height"), TRAINING_SIZES)
def test_the_decoder_gives_diffusers_image_at_the_sizes_that_xl_was_trained_on(narrow_vae, width, height):
    vae: AutoencoderKL = narrow_vae
    latents = noise(width, height)
    vae.use_tiling = False
    reference = by_diffusers(vae, latents).astype(int)
    [decoded] = Vae(vae, "sdxl", CPU).decode([latents])
    assert isinstance(decoded, Decoded)
    assert not decoded.tiled
    assert np.abs(decoded.pixels.astype(int) - reference).max() <= 1
    vae.enable_tiling()
    assert np.abs(by_diffusers(vae, latents).astype(int) - reference).max() > 1, "tiles would not show"


@pytest.mark.parametrize(
    ("width", "height"),
    [size if size == TRAINING_SIZES[0] else pytest.param(*size, marks=NIGHTLY) for size in TRAINING_SIZES],
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
    """Lets a VAE decode so many latent cells at a time, and notes what it is asked for."""

    def __init__(self, vae: AutoencoderKL, cells: int) -> None:
        self._decode, self._vae, self._cells = vae.decode, vae, cells
        self.asked: list[tuple[int, bool]] = []

    def decode(self, latents: torch.Tensor, **options: object) -> object:
        self.asked.append((len(latents), self._vae.use_tiling))
        held = 8 * 8 if self._vae.use_tiling else latents[:, 0].numel()
        if held > self._cells:
            raise torch.OutOfMemoryError("as a GPU says it")
        return self._decode(latents, **options)


@pytest.fixture
def small_memory(narrow_vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Memory]:
    def limit(cells: int) -> Memory:
        memory = Memory(narrow_vae, cells)
        monkeypatch.setattr(narrow_vae, "decode", memory.decode)
        monkeypatch.setattr(narrow_vae, "use_tiling", False)
        return memory

    return limit


def test_a_batch_that_does_not_fit_is_decoded_one_by_one_and_whole(narrow_vae, small_memory):
    memory = small_memory(16 * 16)
    decoded = Vae(narrow_vae, "sdxl", CPU).decode([noise(128, 128, seed) for seed in range(3)])
    assert memory.asked == [(3, False), (1, False), (1, False), (1, False)]
    assert [image.tiled for image in decoded] == [False] * 3


def test_an_image_that_does_not_fit_whole_is_decoded_in_tiles_and_says_so(narrow_vae, small_memory):
    memory = small_memory(16 * 16)
    [decoded] = Vae(narrow_vae, "sdxl", CPU).decode([noise(256, 256)])
    assert memory.asked == [(1, False), (1, True)]
    assert decoded.tiled
    assert decoded.pixels.shape == (256, 256, 3)
    [next_one] = Vae(narrow_vae, "sdxl", CPU).decode([noise(128, 128)])
    assert not next_one.tiled, "tiling does not outlive the image"


def test_an_image_that_does_not_fit_in_tiles_either_fails_and_its_neighbours_do_not(narrow_vae, small_memory):
    small_memory(6 * 6)
    large, small = Vae(narrow_vae, "sdxl", CPU).decode([noise(128, 128), noise(48, 48)])
    assert isinstance(large, OutOfMemory)
    assert large.message == "An image of 128x128 does not fit into the VAE's memory."
    assert isinstance(small, Decoded)


def test_with_batch_invariant_an_image_that_does_not_fit_fails_instead_of_being_tiled(narrow_vae, small_memory):
    memory = small_memory(16 * 16)
    [outcome] = Vae(narrow_vae, "sdxl", CPU, batch_invariant=True).decode([noise(256, 256)])
    assert isinstance(outcome, OutOfMemory)
    assert memory.asked == [(1, False)]


def test_a_cpu_knows_at_start_what_would_not_fit(sdxl, monkeypatch):
    """A CPU refuses no memory: the system ends the process instead."""
    bytes_per_pixel = vae_module.PEAK_TENSORS * 32 * 4
    for pixels, tiled in ((128 * 128, [False, False]), (128 * 128 - 1, [False, True])):
        free = bytes_per_pixel * pixels / vae_module.MEMORY_SHARE
        monkeypatch.setattr(vae_module, "available_bytes", lambda free=free: free)
        decoder = load_vae(sdxl, "sdxl", CPU)
        decoded = decoder.decode([noise(64, 64), noise(128, 128)])
        assert [image.tiled for image in decoded] == tiled


def test_the_memory_of_a_container_counts_as_the_machines(monkeypatch, tmp_path):
    from models import loading

    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(loading, "CGROUP", tmp_path)
    monkeypatch.setattr(loading.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    assert loading.available_bytes() == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert loading.available_bytes() == 2**40
