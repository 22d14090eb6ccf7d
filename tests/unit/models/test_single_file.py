"""Single files in the original layout: each gives the image of its diffusers folder, and of diffusers' own reading."""

import hashlib
import json
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from deployments.model_config import ModelConfig
from models.checkpoint import conversion
from models.checkpoint.assembly import AS_IT_IS, CONVERT, Overrides
from models.checkpoint.card import read_card
from models.checkpoint.clip import vocabulary_files
from models.checkpoint.guard import TensorInfo
from models.checkpoint.loading import load_component
from models.checkpoint.location import check, checkpoint_name, locate_parts, resolve_checkpoint
from models.checkpoint.original_configs import original_configs, unet_config, vae_config
from models.checkpoint.original_layout import Kind, Part, recognise
from models.errors import UnusableCheckpoint
from models.families.registry import FAMILIES
from models.vae import load_vae
from ops import config, try_model
from tests.original_layout import Tensors, build_folder, original_tensors, original_vae, unet_name, write_file
from tests.stages import Stages, other

CPU = torch.device("cpu")
KINDS = ("sd1", "sd2", "sdxl")
PIPELINES = {"sdxl": StableDiffusionXLPipeline}
SD_BLOCKS = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "transformer_layers_per_block": (1, 1, 1, 1),
    "layers_per_block": 2,
    "upcast_attention": False,
}
PUBLISHED_UNETS: dict[str, dict[str, Any]] = {  # of Stable Diffusion 1.5, 2.1 and XL
    "sd1": SD_BLOCKS | {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": SD_BLOCKS
    | {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
VAE_BLOCKS = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
PUBLISHED_VAES: dict[str, dict[str, Any]] = {
    "sd1": VAE_BLOCKS | {"scaling_factor": 0.18215, "sample_size": 512},
    "sd2": VAE_BLOCKS | {"scaling_factor": 0.18215, "sample_size": 768},
    "sdxl": VAE_BLOCKS | {"scaling_factor": 0.13025, "sample_size": 1024},
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Saved:
    """A checkpoint as a folder, as tensors under their original names, and as a file of those."""

    def __init__(self, kind: str, home: Path, convolutions: bool) -> None:
        self.kind, self.folder = kind, build_folder(kind, home / kind)
        self.tensors = original_tensors(kind, self.folder, convolutions=convolutions)
        self.file = write_file(home / f"{kind}.safetensors", self.tensors)


@pytest.fixture(scope="module")
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """One of each kind; Stable Diffusion 1.x has its VAE's attention as convolutions, the others as linear layers."""
    return Saved(request.param, tmp_path_factory.mktemp("saved"), convolutions=request.param == "sd1")


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved("sd1", tmp_path_factory.mktemp("saved"), convolutions=True)


def refusal(file: Path, **options: Any) -> str:
    with pytest.raises(UnusableCheckpoint) as caught:
        read_card(str(file), **options)
    return caught.value.message


def without(tensors: Tensors, *starts: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(starts)}


def weights_of(folder: Path, component: str, family: str, dtype: torch.dtype = torch.float32) -> Tensors:
    return load_component(folder, FAMILIES[family], component, CPU, dtype).state_dict()


def scheduler_of(file: Path, **overrides: Any) -> Mapping[str, Any]:
    folder = resolve_checkpoint(str(file), Overrides(**overrides))
    return json.loads((folder / "scheduler" / "scheduler_config.json").read_text())


# -- the same image


@pytest.mark.parametrize("saved", KINDS, indirect=True)
def test_a_file_gives_the_image_of_its_folder_and_of_diffusers_own_reading(saved: Saved) -> None:
    ours, folder = Stages(saved.file), Stages(saved.folder)
    assert ours.card.defaults == folder.card.defaults
    spec = ours.spec("a red fox", width=64, height=64, num_inference_steps=4, negative_prompt="blue")
    latents, one_off = ours.latents(spec), ours.latents(spec, steps_off=1)
    assert np.array_equal(latents, folder.latents(spec))
    image = ours.pixels(latents)[0]
    assert np.array_equal(image, folder.picture(spec))

    reading = PIPELINES.get(saved.kind, StableDiffusionPipeline)
    pipeline = reading.from_single_file(str(saved.file), config=str(saved.folder), local_files_only=True)
    theirs = {kind: run(pipeline, spec, kind) for kind in ("latent", "np")}
    assert gap(latents, theirs["latent"]) < 1e-4 < gap(one_off, theirs["latent"])
    assert np.abs(image - 255 * theirs["np"]).max() < 1.5  # theirs are not rounded
    assert gap(latents, run(pipeline, other(spec, prompt="a tree"), "latent")) > 1e-2, "the text must matter"


def run(pipeline: Any, spec: Any, output_type: str) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    fields = ("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale")
    options = {name: getattr(spec, name) for name in fields}
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    return np.asarray(pipeline(**options, generator=generator, output_type=output_type).images[0])


def gap(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_file_of_each_dtype_is_loaded_in_the_dtype_that_is_computed_in(
    sd1: Saved, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = resolve_checkpoint(str(write_file(tmp_path / "model.safetensors", sd1.tensors, dtype)))
    for computed in (torch.float32, torch.bfloat16):
        for component in ("unet", "vae", "text_encoder"):
            ours = weights_of(folder, component, "sd", computed)
            theirs = weights_of(sd1.folder, component, "sd")
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name].to(dtype).to(computed)) for name in theirs)


@pytest.mark.parametrize("convolutions", [True, False])
def test_both_layouts_of_the_vaes_attention_are_read(sd1: Saved, tmp_path: Path, convolutions: bool) -> None:
    tensors = original_tensors("sd1", sd1.folder, convolutions=convolutions)
    rank = tensors["first_stage_model.decoder.mid.attn_1.q.weight"].ndim
    assert rank == (4 if convolutions else 2)
    folder = resolve_checkpoint(str(write_file(tmp_path / "model.safetensors", tensors)))
    ours, theirs = weights_of(folder, "vae", "sd"), weights_of(sd1.folder, "vae", "sd")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_file_for_inpainting_requires_a_mask(tmp_path: Path) -> None:
    saved = Saved("sd1_inpainting", tmp_path, convolutions=True)
    card = read_card(str(saved.file))
    assert card.requires == read_card(str(saved.folder)).requires == ("init.mask",)
    folder = resolve_checkpoint(str(saved.file))
    ours, theirs = weights_of(folder, "unet", "sd"), weights_of(saved.folder, "unet", "sd")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_stage_reads_only_the_tensors_of_its_components(sd1: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Spied:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = real(*arguments, **options).__enter__()

        def __enter__(self) -> "Spied":
            return self

        def __exit__(self, *_: object) -> None: ...

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.file.get_tensor(name)

    real = conversion.safe_open
    monkeypatch.setattr(conversion, "safe_open", Spied)
    load_vae(resolve_checkpoint(str(sd1.file)), "sd", CPU)
    assert set(read) == {name for name in sd1.tensors if name.startswith("first_stage_model.")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_shapes_of_the_published_models_give_their_published_configs(kind: Kind) -> None:
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**PUBLISHED_UNETS[kind]), AutoencoderKL(**PUBLISHED_VAES[kind])
    names = {"model.diffusion_model." + unet_name(name, kind == "sdxl", 2): each for name, each in named(unet)}
    names |= {"first_stage_model." + name: each for name, each in original_vae(dict(named(vae)), False).items()}
    part = Part(Path(), "", {name[22:]: info_of(each) for name, each in names.items() if name.startswith("model.")})
    derived = unet_config(part, kind, "v_prediction", {"text_encoder_2": {"projection_dim": 1280}})
    with torch.device("meta"):
        assert entries_of(UNet2DConditionModel(**derived)) == entries_of(unet)
        of_vae = vae_config(Path(), kind, {name: info_of(each) for name, each in names.items()})
        assert entries_of(AutoencoderKL(**of_vae)) == entries_of(vae)


def named(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.state_dict().items()


def info_of(tensor: torch.Tensor) -> TensorInfo:
    return TensorInfo("F16", tuple(tensor.shape))


def entries_of(model: Any) -> dict[str, Any]:
    """A config without what the library writes besides, its lists as JSON has them."""
    return {name: each for name, each in json.loads(model.to_json_string()).items() if not name.startswith("_")}


def test_the_vocabulary_is_clips() -> None:
    """The sum is of the `vocab.json` that Stable Diffusion XL is published with, its entries sorted by name."""
    words = json.loads(vocabulary_files()["vocab.json"])
    found = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
    assert found == "51b8a58f8c87bc7af902c70cbcdd0287f5baffaa34044e30b8ff8e22c54ec1a0"


# -- what a file says of itself


def test_keys_say_that_a_model_predicts_the_velocity_and_is_at_zero_snr(sd1: Saved, tmp_path: Path) -> None:
    empty = torch.zeros(0)
    file = write_file(tmp_path / "v.safetensors", {**sd1.tensors, "v_pred": empty})
    assert scheduler_of(file)["prediction_type"] == "v_prediction"
    assert "rescale_betas_zero_snr" not in scheduler_of(file)
    file = write_file(tmp_path / "z.safetensors", {**sd1.tensors, "v_pred": empty, "ztsnr": empty})
    assert scheduler_of(file)["rescale_betas_zero_snr"] is True
    assert "ddim" in read_card(str(file)).samplers
    assert scheduler_of(sd1.file)["prediction_type"] == "epsilon"


@pytest.mark.parametrize("saved", ["sd2"], indirect=True)
def test_2x_predicts_the_velocity_unless_its_steps_or_the_operator_say_otherwise(saved: Saved, tmp_path: Path) -> None:
    base = write_file(tmp_path / "base.safetensors", {**saved.tensors, "global_step": torch.tensor(875_000)})
    later = write_file(tmp_path / "later.safetensors", {**saved.tensors, "global_step": torch.tensor(220_000)})
    assert [scheduler_of(file)["prediction_type"] for file in (saved.file, base, later)] == [
        "v_prediction",
        "epsilon",
        "v_prediction",
    ]
    assert scheduler_of(later, prediction_type="epsilon")["prediction_type"] == "epsilon"
    sides = [
        read_card(str(later), overrides=Overrides(prediction_type=each)).defaults["width"] for each in (None, "epsilon")
    ]
    assert sides == [192, 128]  # 768 and 512 with a VAE of real scale
    warned = [
        any("set prediction_type: epsilon" in warning for warning in read_card(str(file), overrides=said).warnings)
        for file, said in (
            (later, Overrides()),
            (later, Overrides(prediction_type="v_prediction")),
            (base, Overrides()),
        )
    ]
    assert warned == [True, False, False]


def test_what_training_leaves_in_a_file_changes_nothing_but_its_sum(sd1: Saved, tmp_path: Path) -> None:
    averages = {f"model_ema.{number}": torch.ones(3) for number in range(120)}
    averages["cond_stage_model.transformer.text_projection.weight"] = torch.ones(64, 64)
    whole = resolve_checkpoint(str(write_file(tmp_path / "whole.safetensors", {**sd1.tensors, **averages})))
    for component in ("unet", "text_encoder"):
        ours, theirs = weights_of(whole, component, "sd"), weights_of(sd1.folder, component, "sd")
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_model_is_called_as_its_file(sd1: Saved) -> None:
    assert checkpoint_name("/models/sd_xl_base_1.0.safetensors") == "sd_xl_base_1.0.safetensors"  # no such file
    assert checkpoint_name(str(sd1.file)) == read_card(str(sd1.file)).id == "sd1"


# -- VAEs


def test_a_file_without_a_vae_needs_one(sd1: Saved, tmp_path: Path) -> None:
    file = write_file(tmp_path / "pruned.safetensors", without(sd1.tensors, "first_stage_model."))
    assert refusal(file) == (
        f"{file}: has no VAE. Name one as vae.checkpoint in the model's config, or as --vae: a file, or the folder vae "
        "of a diffusers folder."
    )
    card = read_card(str(file), overrides=Overrides(vae=str(sd1.folder / "vae")))
    assert "vae/diffusion_pytorch_model.safetensors" in card.files


@pytest.mark.parametrize("form", ["folder", "file", "checkpoint"])
def test_another_vae_replaces_the_files_own(sd1: Saved, tmp_path: Path, form: str) -> None:
    torch.manual_seed(9)
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(sd1.folder / "vae"))
    vae.save_pretrained(tmp_path / "folder")
    tensors = original_vae(vae.state_dict(), convolutions=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "file.safetensors")
    whole = sd1.tensors | {"first_stage_model." + name: tensor for name, tensor in tensors.items()}
    write_file(tmp_path / "checkpoint.safetensors", whole)
    named = tmp_path / (form if form == "folder" else f"{form}.safetensors")
    overrides = Overrides(vae=str(named))
    ours = weights_of(resolve_checkpoint(str(sd1.file), overrides), "vae", "sd")
    assert all(torch.equal(ours[name], tensor) for name, tensor in vae.state_dict().items())
    assert read_card(str(sd1.file), overrides=overrides).digest != read_card(str(sd1.file)).digest


def test_a_vae_that_is_none_is_refused(sd1: Saved, tmp_path: Path) -> None:
    def refused(vae: Path) -> str:
        return refusal(sd1.file, overrides=Overrides(vae=str(vae)))

    assert refused(tmp_path / "no") == f"vae.checkpoint: {tmp_path / 'no'}: no such file or folder."
    assert refused(tmp_path) == f"{tmp_path / 'config.json'}: missing."
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    assert refused(tmp_path) == f"{tmp_path / 'config.json'}: is AutoencoderTiny; must be AutoencoderKL."
    text = write_file(tmp_path / "text.safetensors", without(sd1.tensors, "first_stage_model."))
    assert refused(text) == f"{text}: has no VAE."
    of_folder = sd1.folder / "vae" / "diffusion_pytorch_model.safetensors"
    assert refused(of_folder).startswith(f"{of_folder}: is the VAE of a diffusers folder; name that folder")
    with pytest.raises(UnusableCheckpoint, match=r"vae\.checkpoint and prediction_type are for single files"):
        read_card(str(sd1.folder), overrides=Overrides(vae=str(of_folder)))


# -- digests


def test_the_digest_is_of_what_the_file_holds_and_not_of_its_name(sd1: Saved, tmp_path: Path) -> None:
    digest = read_card(str(sd1.file)).digest
    assert read_card(str(write_file(tmp_path / "renamed.safetensors", sd1.tensors))).digest == digest
    name = "model.diffusion_model.out.2.bias"
    changed = {**sd1.tensors, name: sd1.tensors[name] + 1}
    assert read_card(str(write_file(tmp_path / "changed.safetensors", changed))).digest != digest


def test_a_stage_refuses_a_file_that_is_no_longer_that_of_the_card(sd1: Saved, tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.safetensors", sd1.tensors)
    card = read_card(str(file))
    assert locate_parts(str(file), card, "latents") == resolve_checkpoint(str(file))
    name = "model.diffusion_model.out.2.bias"
    write_file(file, {**sd1.tensors, name: sd1.tensors[name] + 1})
    with pytest.raises(UnusableCheckpoint, match=rf"^{file}: not the file that the model's digest is of"):
        locate_parts(str(file), card, "latents")


def test_a_file_is_summed_once_on_a_machine(sd1: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_file(tmp_path / "model.safetensors", sd1.tensors)
    summed: list[str] = []
    real = hashlib.file_digest

    def spy(opened: Any, name: str) -> Any:
        summed.append(opened.name)
        return real(opened, name)

    monkeypatch.setattr(hashlib, "file_digest", spy)
    card = read_card(str(file))
    locate_parts(str(file), card, "latents")
    assert summed.count(str(file)) == 1


def test_a_manifest_lists_the_file_by_its_own_name(sd1: Saved, tmp_path: Path) -> None:
    manifest = tmp_path / "SUMS"
    found = hashlib.sha256(sd1.file.read_bytes()).hexdigest()
    manifest.write_text(f"{found}  sd1.safetensors\n")
    assert read_card(str(sd1.file), manifest=manifest).id == "sd1"
    manifest.write_text(f"{'0' * 64}  sd1.safetensors\n")
    assert refusal(sd1.file, manifest=manifest).startswith(f"sd1.safetensors: its SHA-256 is {found}, and ")


# -- what is refused

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.transformer.text_model.", "first_stage_model."
FOREIGN = {
    "a LoRA": ["lora_unet_mid_block.lora_up.weight"],
    "a ControlNet": ["control_model.input_blocks.0.0.weight"],
    "the refiner of Stable Diffusion XL": ["conditioner.embedders.0.model.ln_final.bias", UNET + "out.2.bias"],
    "Playground v2.5": ["edm_mean", "conditioner.embedders.1.model.ln_final.bias"],
    "CosXL": ["edm_vpred.sigma_max", "conditioner.embedders.1.model.ln_final.bias"],
    "Stable Diffusion 3": [UNET + "joint_blocks.0.x_block.mlp.fc1.weight"],
    "FLUX": [UNET + "double_blocks.0.img_attn.qkv.weight"],
    "the UNet of a diffusers folder": ["down_blocks.0.resnets.0.conv1.weight"],
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_file_is_refused_as_what_it_is(tmp_path: Path, what: str) -> None:
    file = tmp_path / "foreign.safetensors"
    save_file({name: torch.zeros(2) for name in FOREIGN[what]}, file)
    assert refusal(file).startswith(f"{file}: is {what}")


@pytest.mark.parametrize(
    ("absent", "reason"),
    [
        (UNET, "has no unet (tensors model.diffusion_model.…); only whole checkpoints of Stable Diffusion"),
        ("cond_stage_model.", "has no text encoder (tensors cond_stage_model.transformer.… or cond_"),
        (UNET + "middle_block.1.", "its UNet has 0 transformers in the middle"),
        (UNET + "output_blocks.3.", "its UNet is not that of the original models"),
        (UNET + "input_blocks.1.0.in_layers.2.weight", f"has no tensor {UNET}input_blocks.1.0.in_layers.2.weight of 4"),
        (TEXT + "embeddings.token_embedding", f"has no tensor {TEXT}embeddings.token_embedding.weight of 2 dim"),
    ],
)
def test_a_file_that_lacks_what_its_kind_has_is_refused(sd1: Saved, tmp_path: Path, absent: str, reason: str) -> None:
    file = write_file(tmp_path / "model.safetensors", without(sd1.tensors, absent))
    assert refusal(file).startswith(f"{file}: {reason}")


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        (UNET + "input_blocks.0.0.weight", torch.zeros(64, 8, 3, 3), "its UNet takes 8 channels; must be 4, or 9 for"),
        (TEXT + "embeddings.token_embedding.weight", torch.zeros(50000, 64), f"{TEXT[:-11]}… has 50000 tokens; CLIP's"),
        (TEXT + "embeddings.token_embedding.weight", torch.zeros(49408, 63), f"{TEXT[:-11]}… has a width of 63; must"),
        (
            UNET + "out.2.bias",
            torch.zeros(4).to(torch.float8_e4m3fn),
            f"{UNET}out.2.bias is F8_E4M3; must be one of F16",
        ),
        (
            VAE + "encoder.down.0.block.0.conv1.weight",
            torch.zeros(33, 3, 3, 3),
            "its VAE has [33, 64] channels; must",
        ),
    ],
)
def test_a_file_whose_tensors_are_of_no_known_shape_or_type_is_refused(
    sd1: Saved, tmp_path: Path, name: str, tensor: torch.Tensor, reason: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({**sd1.tensors, name: tensor}, file)
    assert refusal(file).startswith(f"{file}: {reason}")


def test_a_config_larger_than_the_file_is_refused_before_a_model_is_built(sd1: Saved, tmp_path: Path) -> None:
    wide = {f"{UNET}input_blocks.{number}.0.in_layers.2.weight": torch.zeros(2**18, 1, 1, 1) for number in (3,)}
    file = write_file(tmp_path / "model.safetensors", sd1.tensors | wide)
    with pytest.raises(UnusableCheckpoint, match=r"unet/config\.json: .*elements or more; its weights have"):
        check(str(file))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({UNET + "out.0.bias": None}, "unet lacks a tensor: conv_norm_out.bias"),
        ({UNET + "out.0.bias": torch.zeros(3)}, "unet: conv_norm_out.bias has the shape (3,), and must have (64,)"),
        ({UNET + "time_embed.cond_proj.weight": torch.zeros(3)}, "unet has 209 tensors, and a model of its kind 208"),
        ({UNET + "input_blocks.1.1.odd": torch.zeros(3)}, "unet has 1 tensors too many, such as down_blocks.0."),
    ],
)
def test_weights_that_are_not_those_of_the_model_are_refused_when_it_is_loaded(
    sd1: Saved, tmp_path: Path, edit: dict[str, torch.Tensor | None], reason: str
) -> None:
    tensors = {name: tensor for name, tensor in {**sd1.tensors, **edit}.items() if tensor is not None}
    file = write_file(tmp_path / "model.safetensors", tensors)
    folder = resolve_checkpoint(str(file))
    with pytest.raises(UnusableCheckpoint) as caught:
        weights_of(folder, "unet", "sd")
    assert caught.value.message.startswith(f"{file}: {reason}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a header",
        (2**40).to_bytes(8, "little") + b"{}",
        b"version https://git-lfs.github.com/spec/v1\n",
        (74).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[50000,50000],"data_offsets":[0,10000000000]}}',
    ],
)
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert refusal(file).startswith(f"{file}: ")


def test_headers_that_are_changed_at_random_are_refused_or_read(sd1: Saved) -> None:
    kind, header = recognise(sd1.file)
    for seed in range(300):
        chosen = random.Random(seed)
        changed = dict(header)
        for name in chosen.sample(sorted(changed), 30):
            info = changed.pop(name)
            sides = tuple(chosen.choice((0, 1, side, 2**31)) for side in info.shape[: chosen.randint(0, 4)])
            if chosen.random() < 0.8:
                changed[name.replace("1", chosen.choice("1189"))] = info._replace(shape=sides)
        with suppress(UnusableCheckpoint):  # and nothing else
            original_configs(sd1.file, kind, changed, None)
            vae_config(sd1.file, kind, changed)


def test_a_ckpt_is_refused_with_a_command_that_converts_it(
    sd1: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, converted = tmp_path / "model.ckpt", tmp_path / "model.safetensors"
    torch.save({"state_dict": sd1.tensors, "global_step": 1}, file)
    assert refusal(file) == (
        f"{file}: only .safetensors files are read; other formats can run code. Convert it where you trust it: "
        f"{CONVERT} model.ckpt model.safetensors"
    )
    monkeypatch.setattr(sys, "argv", ["-c", str(file), str(converted)])
    exec(CONVERT.removeprefix('python -c "').removesuffix('"'), {})
    assert load_file(converted).keys() == sd1.tensors.keys()
    assert read_card(str(converted)).id == "model"


def test_a_cache_that_cannot_be_written_is_named(sd1: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "Set XDG_CACHE_HOME to a folder that can be written to." in refusal(sd1.file)


def test_links_of_a_folder_that_only_looks_like_an_assembled_one_lead_nowhere(sd1: Saved, tmp_path: Path) -> None:
    """A downloaded folder may hold a link of the name that ours have."""
    copy = tmp_path / "copy"
    source = resolve_checkpoint(str(sd1.file))
    for path in source.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                (copy / path.relative_to(source)).symlink_to(path.readlink())
            else:
                (copy / path.relative_to(source)).write_bytes(path.read_bytes())
    assert "a link out of the checkpoint" in refusal(copy)


# -- for operators


def test_it_can_be_tried(sd1: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_file(tmp_path / "pruned.safetensors", without(sd1.tensors, "first_stage_model."))
    words = ["--set", "num_inference_steps=1", "--size", "64x64", "--prediction-type", "v_prediction"]
    out = tmp_path / "image.png"
    assert try_model.main([str(file), *words, "--vae", str(sd1.file), "--out", str(out)]) == 0
    assert "pruned: family sd, digest " in capsys.readouterr().out
    assert out.exists()


def test_model_serves_a_file_without_what_the_config_says_of_another(sd1: Saved, tmp_path: Path) -> None:
    content = yaml.safe_load((config.ROOT / "serve_config.yaml").read_text())
    [shapes] = [app for app in content["applications"] if app["name"] == "shapes"]
    shapes["args"]["prediction_type"] = "epsilon"
    shapes["args"]["vae"] = {"checkpoint": "/somewhere", "threads": 3}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    read = config.read(path, model=str(sd1.file))
    assert read.generation.models == ("sd1",)
    [app] = [app for app in read.serve.applications if app.name == "sd1"]
    settings = ModelConfig.model_validate(app.args)
    assert (settings.checkpoint, settings.overrides, settings.vae.threads) == (str(sd1.file), AS_IT_IS, 3)
    assert config.check_files(read) == []
