"""A new family is one module and one line: this file is such a module, and no other knows of it.

The toy has what Stable Diffusion has not: a transformer over patches, flow matching with a shift that depends on the
size, 16 latent channels with a scale and a shift, texts of any length in a list, places given once per batch, an
output of the other sign, and three rows for a guided image. Its images are those of the plain loop below.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ConfigMixin, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from deployments.request_errors import read_request
from deployments.resolution import resolve
from models.checkpoint.location import check
from models.checkpoint.sizes import Size, SizeEntries
from models.denoiser.model import load_denoiser
from models.denoiser.state import new_state, stack_rows
from models.errors import UnusableCheckpoint
from models.families.base import Batch, Component, Conditioning, Facts, Family, Segment, Text, TextComponents
from models.families.components import TEXT_ENCODER, TOKENIZER, VAE
from models.families.registry import FAMILIES, PIPELINES
from models.latent_rgb import fit_latent_rgb
from models.spec import ImageSpec, Tokens
from models.text_encoder import load_text_encoder
from tests.stages import CPU, Stages
from training.shapes.tokenizer import new_tokenizer

CHANNELS, PATCH, MAX_TOKENS, TEXT_WIDTH = 16, 2, 77, 32
SIDE = 64


# -- the model, as its authors would publish it


class ToyTransformer(ModelMixin, ConfigMixin):
    """Attends from patches to patches and words."""

    @register_to_config
    def __init__(self, patch_width: int = CHANNELS * PATCH**2, text_width: int = TEXT_WIDTH, width: int = 32) -> None:
        super().__init__()
        self.patch_in, self.text_in, self.time_in = (nn.Linear(size, width) for size in (patch_width, text_width, 1))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, patch_width)

    def forward(self, patches: list[Tensor], times: Tensor, texts: list[Tensor], places: Tensor) -> list[Tensor]:
        """Take patches [n, patch] and words [any, text] of each row, its time in 0 … 1, and places [n, 2] for all."""
        angles = torch.cat([places / 3, places / 17], 1)
        place = torch.cat([angles.sin(), angles.cos()], 1).repeat(1, self.config.width // 8)
        shown = self.patch_in(torch.stack(patches)) + place + self.time_in(times[:, None, None])
        longest = max(len(text) for text in texts)
        words = torch.stack([functional.pad(self.text_in(text), (0, 0, 0, longest - len(text))) for text in texts])
        is_read = torch.tensor([[k < len(text) for k in range(longest)] for text in texts], device=shown.device)
        mask = torch.cat([is_read.new_ones(len(texts), shown.shape[1]), is_read], 1)[:, None]
        seen = torch.cat([shown, words], 1)
        heard = functional.scaled_dot_product_attention(self.query(shown), self.key(seen), self.value(seen), mask)
        return list(self.out((shown + heard).tanh()))


def places_of(rows: int, columns: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()


# -- the family: what a new module under models/families would contain (there, torch is imported inside methods)


def toy_transformer(config: SizeEntries) -> Size:
    """The patches' two layers and the three of attention."""
    width = config.one("width", 32)
    return Size(12, width * (2 * config.one("patch_width", 64) + config.one("text_width", 32) + 3 * width))


class Toy(Family):
    name = "toy"
    pipelines = ("ToyPipeline",)
    components = {  # noqa: RUF012
        "tokenizer": TOKENIZER,
        "text_encoder": TEXT_ENCODER,
        "transformer": Component(
            "latents",
            "diffusers",
            ("ToyTransformer",),
            "diffusion_pytorch_model",
            toy_transformer,
            module=__name__,
        ),
        "vae": VAE,
    }
    denoiser = "transformer"
    image_rows = 3
    samplers = ("default",)  # the checkpoint's own: the named ones need betas, which flow matching has not

    def check(self, folder: Path, pipeline: str) -> None:
        pass

    def latent_scale(self, folder: Path) -> int:
        return 2

    def facts(self, folder: Path, pipeline: str) -> Facts:
        defaults = {"num_inference_steps": 4, "guidance_scale": 3.0}
        return Facts(side=SIDE, size_multiple=2 * PATCH, max_tokens=MAX_TOKENS - 2, defaults=defaults)

    def is_guided(self, spec: ImageSpec) -> bool:
        return spec.guidance_scale > 0

    def texts(self, spec: ImageSpec) -> tuple[Text, ...]:
        words = (None, spec.negative_prompt, spec.prompt) if self.is_guided(spec) else (spec.prompt,)
        return tuple(map(Text, words))

    def timestep_options(self, spec: ImageSpec) -> dict[str, Any]:
        sigmas = np.linspace(1, 1 / spec.num_inference_steps, spec.num_inference_steps).tolist()
        return {"mu": math.log(1 + spec.width * spec.height / SIDE**2), "sigmas": sigmas}

    def count_tokens(self, text: TextComponents, prompt: Text) -> Tokens:
        words = prompt.words or ""
        read = text.loaded["tokenizer"](words, add_special_tokens=False, return_offsets_mapping=True)
        beyond = read.offset_mapping[MAX_TOKENS - 2 :]
        return Tokens(len(read.input_ids), MAX_TOKENS - 2, words[beyond[0][0] :] if beyond else "")

    def encode(self, text: TextComponents, texts: Sequence[Text]) -> list[Conditioning]:
        read = [text.loaded["tokenizer"](each.words or "", truncation=True, return_tensors="pt") for each in texts]
        outputs = [text.loaded["text_encoder"](each.input_ids.to(text.device)) for each in read]
        return [{"words": output.last_hidden_state[0].float().cpu()} for output in outputs]

    def condition(self, config: Any, spec: ImageSpec, text: Conditioning) -> Conditioning:
        return text

    def expected_shapes(
        self, config: Any, max_tokens: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, tuple[int, ...]]:
        return {"words": (MAX_TOKENS, config.text_width)}

    def shared_shapes(self, conditioning: Conditioning) -> dict[str, tuple[int, ...]]:
        return {"words": (MAX_TOKENS, conditioning["words"].shape[1])}  # of any length: the model masks them

    def latent_channels(self, config: Any) -> int:
        return config.patch_width // PATCH**2

    def predict(self, model: Any, batch: Batch) -> Tensor:
        height, width = (side // PATCH for side in batch.latents.shape[2:])
        patches = functional.pixel_unshuffle(batch.latents, PATCH).flatten(2).mT
        words = [row["words"] for row in batch.conditioning]
        times = (1 - batch.timesteps / 1000).to(batch.latents)
        outputs = model(list(patches), times, words, places_of(height, width).to(batch.latents))
        return -functional.pixel_shuffle(torch.stack(outputs).mT.unflatten(2, (height, width)), PATCH)

    def guide(self, outputs: Tensor, specs: Sequence[ImageSpec]) -> Tensor:
        if outputs.shape[1] == 1:
            return outputs[:, 0]
        empty, negative, prompt = outputs.unbind(1)
        scale = outputs.new_tensor([spec.guidance_scale for spec in specs]).view(-1, 1, 1, 1)
        return empty + scale * (prompt - negative)

    def to_vae(self, latents: Tensor, config: Any) -> Tensor:
        return latents / config.scaling_factor + config.shift_factor

    def from_vae(self, latents: Tensor, config: Any) -> Tensor:
        return (latents - config.shift_factor) * config.scaling_factor


# -- a checkpoint of it, and the plain loop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "toy"
    torch.manual_seed(4)
    tokenizer = new_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    parts = {
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(text),
        "transformer": ToyTransformer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=16,
            latent_channels=CHANNELS,
            scaling_factor=0.36,
            shift_factor=0.12,
            force_upcast=False,
        ),
    }
    nn.init.normal_(parts["transformer"].out.weight)
    index: dict[str, Any] = {"_class_name": "ToyPipeline"}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        source = __name__ if name == "transformer" else type(part).__module__.partition(".")[0]
        index[name] = [source, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    """The line in the registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", Toy())
        patch.setitem(PIPELINES, "ToyPipeline", FAMILIES["toy"])
        yield


@pytest.fixture(scope="module")
def stages(folder: Path) -> Stages:
    return Stages(folder)


@torch.inference_mode()
def plain_loop(folder: Path, spec: ImageSpec, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Final latents [16, h, w] and the image [H, W, 3] of one spec by the libraries alone, row by row."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    transformer = ToyTransformer.from_pretrained(folder / "transformer")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")

    def words(prompt: str) -> Tensor:
        return text_encoder(tokenizer(prompt, return_tensors="pt").input_ids).last_hidden_state[0]

    def velocity(x: Tensor, t: Tensor, prompt: str) -> Tensor:
        _, c, h, w = x.shape
        patches = x[0].reshape(c, h // 2, 2, w // 2, 2).permute(1, 3, 0, 2, 4).reshape(h * w // 4, 4 * c)
        places = torch.tensor([[y, z] for y in range(h // 2) for z in range(w // 2)]).float()
        [out] = transformer([patches], 1 - t.view(1) / 1000, [words(prompt)], places)
        return -out.reshape(h // 2, w // 2, c, 2, 2).permute(2, 0, 3, 1, 4).reshape(1, c, h, w)

    steps = steps or spec.num_inference_steps
    mu = math.log(1 + spec.width * spec.height / 64**2)
    scheduler.set_timesteps(sigmas=[1 - k * (1 - 1 / steps) / max(1, steps - 1) for k in range(steps)], mu=mu)
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    latents = randn_tensor((1, 16, spec.height // 2, spec.width // 2), generator=generator)
    for timestep in scheduler.timesteps:
        output = velocity(latents, timestep, spec.prompt)
        if spec.guidance_scale > 0:
            away = output - velocity(latents, timestep, spec.negative_prompt)
            output = velocity(latents, timestep, "") + spec.guidance_scale * away
        [latents] = scheduler.step(output, timestep, latents, return_dict=False)
    decoded = vae.decode(latents / 0.36 + 0.12, return_dict=False)[0]
    [image] = VaeImageProcessor().postprocess(decoded, output_type="pil")
    return latents[0].numpy(), np.asarray(image).astype(int)


def gap(ours: np.ndarray, reference: np.ndarray) -> float:
    """Relative L2."""
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


SPECS = [
    {"prompt": "a red circle", "guidance_scale": 0.0},
    {"prompt": "a star", "guidance_scale": 3.0, "negative_prompt": "blue, and far more words than the prompt"},
    {"prompt": "a ring of many words on a yellow background", "guidance_scale": 2.0, "num_inference_steps": 7},
    {"prompt": "a wide moon", "width": 2 * SIDE, "height": SIDE // 2},
]


@pytest.mark.parametrize("fields", SPECS)
def test_its_images_are_those_of_the_plain_loop(stages: Stages, folder: Path, fields: dict[str, Any]) -> None:
    spec = stages.spec(**fields)
    latents, image = plain_loop(folder, spec)
    ours = stages.latents(spec)
    assert gap(ours, latents) < 1e-4
    assert np.abs(stages.pixels(ours)[0].astype(int) - image).max() <= 1
    one_off, _ = plain_loop(folder, spec, spec.num_inference_steps + 1)
    assert gap(ours, one_off) > 1e-4


def test_images_with_texts_of_any_length_and_any_number_of_rows_share_a_forward(folder: Path) -> None:
    stages = Stages(folder)  # that has measured nothing: others have learnt to forward fewer rows
    specs = [stages.spec(**fields) for fields in SPECS[:3]]
    states = [stages.state(spec) for spec in specs]
    together = stages.denoise(*states)
    first = stages.outcomes(states[0])[0]
    assert (first.batch_images, first.batch_rows) == (3, 1 + 3 + 3)
    for spec, ours in zip(specs, together, strict=True):
        assert gap(ours, plain_loop(folder, spec)[0]) < 1e-4


def test_what_the_model_takes_once_per_batch_follows_from_the_key(stages: Stages, folder: Path) -> None:
    """Two sizes of as many patches have other places: in one forward, those of the first would serve both."""
    square, wide = stages.spec(**SPECS[0]), stages.spec(**SPECS[0] | {"width": 2 * SIDE, "height": SIDE // 2})
    states = [stages.state(spec) for spec in (square, wide)]
    assert states[0].key.cells == states[1].key.cells
    assert states[0].key != states[1].key
    for spec, ours in zip((square, wide), stages.denoise(*states), strict=True):
        assert gap(ours, plain_loop(folder, spec)[0]) < 1e-4
    assert not torch.equal(places_of(16, 16), places_of(8, 32))


def test_a_request_costs_what_the_family_says(stages: Stages) -> None:
    [spec] = resolve(read_request({"prompt": "a star"}), stages.card)
    assert spec.segments == (Segment(SIDE, SIDE, rows=3, model_calls=4),)
    assert spec.cost == 3 * 4 * SIDE**2 / 2**20
    assert stages.card.size_multiple == 2 * PATCH


def test_it_is_measured_and_proved_as_any_other(folder: Path) -> None:
    invariant = Stages(folder, 6, batch_invariant=True)
    specs = [invariant.spec(**fields) for fields in SPECS[:2]]
    together = invariant.denoise(*map(invariant.state, specs))
    for spec, ours in zip(specs, together, strict=True):
        assert gap(ours, plain_loop(folder, spec)[0]) < 1e-4


def test_a_forward_has_room_for_all_rows_of_an_image(folder: Path) -> None:
    stages = Stages(folder, 3)
    key = stages.state(stages.spec()).key
    stages.engine._sizer.curve.measure(1, key.cells, 0.01)  # and nothing is faster than one row
    assert stages.engine._sizer.target_rows(key) == 3
    with pytest.raises(ValueError, match="max_rows must be 3 or more: an image of this model takes 3 rows, got 2"):
        stages.engine._sizer.set_limit(2)


def test_it_is_computed_in_bfloat16_too(folder: Path) -> None:
    text, model = (load(folder, "toy", CPU, torch.bfloat16) for load in (load_text_encoder, load_denoiser))
    stages = Stages(folder)
    spec = stages.spec(prompt="a star")
    [encoded] = text.encode([spec])
    assert {row["words"].dtype for row in encoded.rows} == {torch.float32}
    output = model.predict(stack_rows([new_state(spec, encoded, model.plan(spec), model)]))
    assert (output.dtype, len(output)) == (torch.float32, 3)


def test_what_does_not_fit_of_a_prompt_is_not_read(stages: Stages) -> None:
    [encoded] = stages.text_encoder.encode([stages.spec(prompt="a red circle " * 60)])
    assert len(encoded.rows[-1]["words"]) == MAX_TOKENS
    assert encoded.cut["prompt"].strip().endswith("a red circle")


def test_previews_are_fitted_to_its_channels(stages: Stages) -> None:
    assert np.array(fit_latent_rgb(stages.vae)).shape == (CHANNELS + 1, 3)
    assert len(stages.state(stages.spec()).plan.pred_original_sample) == 4


def test_a_config_that_is_larger_than_its_weights_is_refused(stages: Stages, folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"width": 4096}))
    try:
        with pytest.raises(UnusableCheckpoint, match=r"width = 4096, .* make 12 tensors of"):
            check(str(folder))
    finally:
        config.write_text(before)
