"""The checkpoints of docs/checkpoints.md: each a small one with a real one's configs, changed as the case says."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from tests.real_checkpoints import WIDTH, change, write_json

SCHEDULER = "scheduler/scheduler_config.json"
INDEX = "model_index.json"
UNET = "unet/config.json"
LATENTS_MEAN, LATENTS_STD = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]  # Playground v2.5
EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "num_train_timesteps": 1000, "rho": 7.0}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
WEIGHTS = {
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}


@dataclass(frozen=True)
class Case:
    """A checkpoint and what is expected of it: diffusers' image, or a refusal that says certain words."""

    name: str
    kind: str
    edit: Callable[[Path], Any] = lambda folder: None
    refused: str = ""
    variant: str | None = None  # what the reference is asked for
    prompt: str = "a red circle on a blue background"
    negative_prompt: str = ""
    steps: int | None = None  # those of the card are too many to wait for
    guidance: float = 5.0
    allowed_roots: Callable[[Path], tuple[Path, ...]] = field(default=lambda folder: ())
    sampler: str = ""  # the default that is expected


def own(class_name: str | None = None, **entries: Any) -> Callable[[Path], None]:
    """The checkpoint's scheduler is another one: index and config agree."""

    def edit(folder: Path) -> None:
        name = class_name or json.loads((folder / INDEX).read_text())["scheduler"][1]
        change(folder / SCHEDULER, _class_name=name, **entries)
        change(folder / INDEX, scheduler=["diffusers", name])

    return edit


def replaced(class_name: str, config: Mapping[str, Any]) -> Callable[[Path], None]:
    """The checkpoint's scheduler has a config of its own, with nothing of the old one."""

    def edit(folder: Path) -> None:
        write_json(folder / SCHEDULER, {"_class_name": class_name, **config})
        change(folder / INDEX, scheduler=["diffusers", class_name])

    return edit


def config(name: str, **entries: Any) -> Callable[[Path], None]:
    """Some entries of a config are others."""
    return lambda folder: change(folder / name, **entries)


def all_of(*edits: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Several changes, one after another."""

    def edit(folder: Path) -> None:
        for each in edits:
            each(folder)

    return edit


def only_variant(variant: str, shards: int = 1) -> Callable[[Path], None]:
    """Weights are there as a variant alone, float16 where its name says so."""

    def edit(folder: Path) -> None:
        for name, stem in WEIGHTS.items():
            path = folder / name / f"{stem}.safetensors"
            if path.exists():
                tensors = load_file(path)
                path.unlink()
                if variant == "fp16":
                    tensors = {key: value.half() for key, value in tensors.items()}
                _write_shards(folder / name, stem, f".{variant}", tensors, shards)

    return edit


def half_unet(folder: Path) -> None:
    """The UNet is there as float16 alone, the rest as float32."""
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = {key: value.half() for key, value in load_file(path).items()}
    path.unlink()
    save_file(tensors, path.with_suffix(".fp16.safetensors"))


def sharded(folder: Path) -> None:
    """The UNet's weights are shards; a whole file beside them is of an earlier time, and diffusers ignores it."""
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    path.unlink()
    save_file({key: torch.zeros_like(value) for key, value in tensors.items()}, path)
    _write_shards(folder / "unet", "diffusion_pytorch_model", "", tensors, 3)


def both_variants(folder: Path) -> None:
    """Beside each component's weights there are float16 ones, and non_ema ones of the UNet."""
    for name, stem in WEIGHTS.items():
        path = folder / name / f"{stem}.safetensors"
        if path.exists():
            zeros = {key: torch.zeros_like(value).half() for key, value in load_file(path).items()}
            save_file(zeros, folder / name / f"{stem}.fp16.safetensors")
    save_file(zeros, folder / "unet/diffusion_pytorch_model.non_ema.safetensors")


def _write_shards(part: Path, stem: str, suffix: str, tensors: dict[str, torch.Tensor], count: int) -> None:
    if count == 1:
        save_file(tensors, part / f"{stem}{suffix}.safetensors")
        return
    weight_map = {}
    for k in range(count):
        name = f"{stem}{suffix}-{k + 1:05}-of-{count:05}.safetensors"
        shard = {key: tensors[key] for key in sorted(tensors)[k::count]}
        save_file(shard, part / name)
        weight_map |= dict.fromkeys(shard, name)
    write_json(part / f"{stem}.safetensors.index{suffix}.json", {"metadata": {}, "weight_map": weight_map})


def old_names(folder: Path) -> None:
    """Tensors are named as in 2022: attention of the VAE, and position ids of the text encoder."""
    renamed = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for new, old in renamed.items():
        tensors = {key.replace(new, old): value for key, value in tensors.items()}
    path.unlink()
    save_file(tensors, path)
    path = folder / "text_encoder/model.safetensors"
    tensors = load_file(path)
    path.unlink()
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path)


def embeddings(folder: Path) -> None:
    """A textual inversion of three vectors is part of tokenizer and text encoder, as diffusers saves it."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    shutil.rmtree(folder / "tokenizer")
    tokenizer.add_tokens(["<style>", "<style>_1", "<style>_2"])
    tokenizer.save_pretrained(folder / "tokenizer")
    path = folder / "text_encoder/model.safetensors"
    tensors = load_file(path)
    path.unlink()
    name = next(key for key in tensors if key.endswith("token_embedding.weight"))
    ids = tokenizer.convert_tokens_to_ids(["<style>", "<style>_1", "<style>_2"])
    tensors[name] = tensors[name].clone()
    tensors[name][ids] = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3))
    save_file(tensors, path)


def pickled(folder: Path) -> None:
    """Weights of the UNet in pickle's format alone."""
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def git_lfs_pointer(folder: Path) -> None:
    """A clone without Git LFS."""
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.unlink()
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438167536\n")


def macos_files(folder: Path) -> None:
    """What macOS leaves beside files on other filesystems."""
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        for path in list((folder / part).iterdir()):
            (folder / part / f"._{path.name}").write_bytes(b"\0\5\x16\7" + b"\0" * 4092)


def linked(folder: Path, blobs: Path) -> None:
    """Weights are links to a folder elsewhere."""
    blobs.mkdir(parents=True)
    for path in list(folder.rglob("*.safetensors")):
        blob = blobs / path.relative_to(folder).as_posix().replace("/", "-")
        path.rename(blob)
        path.symlink_to(blob)


def hub_cache(folder: Path, blobs: str) -> None:
    """The folder becomes a snapshot in the hub's cache, its weights links to the cache's blobs, relative ones."""
    snapshot = folder.parent / "hub/models--owner--name/snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    linked(snapshot, folder.parent / "hub" / blobs)
    for path in snapshot.rglob("*.safetensors"):
        target = path.readlink()
        path.unlink()
        path.symlink_to(os.path.relpath(target, path.parent))
    folder.symlink_to(snapshot)


SCHEDULER_CASES = [
    Case(
        "DPM++ 2M SDE",
        "sdxl",
        own("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
        sampler="dpmpp_2m_sde",
    ),
    Case(
        "DPM++ 2M SDE Karras",
        "sdxl",
        own("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++", use_karras_sigmas=True),
        sampler="dpmpp_2m_sde",
    ),
    Case("DPM++ 2M Karras", "sd15", own("DPMSolverMultistepScheduler", use_karras_sigmas=True), sampler="dpmpp_2m"),
    Case("DPM++ of order 3", "sd15", own("DPMSolverMultistepScheduler", solver_order=3), sampler="default"),
    Case("DPM++ 2M, Heun's way", "sd15", own("DPMSolverMultistepScheduler", solver_type="heun"), sampler="default"),
    Case(
        "DPM-Solver, not ++",
        "sd15",
        own("DPMSolverMultistepScheduler", algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),
        sampler="default",
    ),
    Case("exponential sigmas", "sd15", own("EulerDiscreteScheduler", use_exponential_sigmas=True), sampler="euler"),
    Case("beta sigmas", "sd15", own("DPMSolverMultistepScheduler", use_beta_sigmas=True), sampler="dpmpp_2m"),
    Case("Euler, Karras", "sdxl", own(use_karras_sigmas=True), sampler="euler"),
    Case("Heun, Karras", "sd15", own("HeunDiscreteScheduler", use_karras_sigmas=True), sampler="heun"),
    Case("DPM2", "sd15", own("KDPM2DiscreteScheduler"), sampler="kdpm2"),
    Case("DPM2 a", "sd15", own("KDPM2AncestralDiscreteScheduler"), sampler="kdpm2_ancestral"),
    Case("LMS", "sd15", own("LMSDiscreteScheduler"), sampler="default"),
    Case("IPNDM", "sd15", replaced("IPNDMScheduler", {"num_train_timesteps": 1000}), sampler="default"),
    Case("UniPC of order 3", "sd15", own("UniPCMultistepScheduler", solver_order=3), sampler="unipc"),
    Case("DEIS", "sd15", own("DEISMultistepScheduler"), sampler="deis"),
    Case("DDPM", "sd15", own("DDPMScheduler"), sampler="ddpm"),
    Case("TCD", "sd15", own("TCDScheduler"), sampler="tcd", guidance=1.0),
    Case(
        "DPM++ single-step of order 3",
        "sd15",
        own("DPMSolverSinglestepScheduler", solver_order=3, lower_order_final=True),
        sampler="default",
    ),
    Case("an entry that no scheduler has, nested", "sd15", config(SCHEDULER, of_mine={"a": [1]}), sampler="pndm"),
    Case("variance learned_range", "sd15", own("DDIMScheduler", variance_type="learned_range"), sampler="ddim"),
    Case(
        "PNDM with Runge-Kutta steps",
        "sd15",
        config(SCHEDULER, skip_prk_steps=False),
        "looks back more than 4 model calls",
    ),
    Case("SASolver", "sd15", own("SASolverScheduler"), "SASolverScheduler looks back more than 4 model calls"),
    Case("DPM++ SDE with torchsde's noise", "sd15", own("DPMSolverSDEScheduler"), "torchsde"),
    Case("XL with DDIM that clips", "sdxl", own("DDIMScheduler", clip_sample=True), "not linear with clip_sample"),
    Case(
        "XL with flow-matching Euler",
        "sdxl",
        replaced("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        "has no scale_model_input, which the pipeline needs. No other sampler fits",
    ),
    Case(
        "a scheduler that diffusers does not have", "sdxl", own("MyScheduler"), "diffusers has no scheduler MyScheduler"
    ),
    Case("consistency sampler", "sd15", replaced("CMStochasticIterativeScheduler", {}), "is not linear"),
]
MODEL_CASES = [
    Case("Stable Diffusion 1.5", "sd15", sampler="pndm"),
    Case(
        "… 1.4 of August 2022: no steps_offset",
        "sd15",
        config(SCHEDULER, steps_offset=..., clip_sample=...),
        sampler="pndm",
    ),
    Case("… with DDIM of 2022: clips", "sd15", own("DDIMScheduler", steps_offset=..., clip_sample=...), sampler="ddim"),
    Case(
        "… UNet of 2022: sample_size 32", "sd15", config("unet/config.json", sample_size=32, _diffusers_version="0.6.0")
    ),
    Case("… tensors named as in 2022", "sd15", old_names),
    Case("… 11 text layers (clip skip 2)", "sd15", config("text_encoder/config.json", num_hidden_layers=11)),
    Case("… with use_attention_mask", "sd15", config("text_encoder/config.json", use_attention_mask=True)),
    Case("… a textual inversion of three vectors", "sd15", embeddings, prompt="a red circle, <style>"),
    Case("… 1.5 with a negative prompt", "sd15", negative_prompt="a star"),
    Case("Stable Diffusion 2.1", "sd21", sampler="ddim"),
    Case("… zero SNR", "sd21", own("EulerDiscreteScheduler", **ZERO_SNR), sampler="euler"),
    Case(
        "SD-Turbo",
        "sd21",
        all_of(own("EulerDiscreteScheduler", timestep_spacing="trailing"), config(UNET, sample_size=64)),
        steps=1,
        guidance=0.0,
    ),
    Case("LCM UNet as StableDiffusionPipeline", "lcm", sampler="lcm", steps=4, guidance=8.0),
    Case(
        "LCM as LatentConsistencyModelPipeline",
        "lcm",
        config(INDEX, _class_name="LatentConsistencyModelPipeline"),
        steps=4,
    ),
    Case("Stable Diffusion XL", "sdxl", sampler="euler"),
    Case("… XL with a negative prompt", "sdxl", negative_prompt="a star"),
    Case("… index without force_zeros_for_empty_prompt", "sdxl", config(INDEX, force_zeros_for_empty_prompt=...)),
    Case("… index with another class than the config", "sdxl", config(INDEX, scheduler=["diffusers", "DDIMScheduler"])),
    Case("… scheduler config without _class_name", "sdxl", config(SCHEDULER, _class_name=...), sampler="euler"),
    Case(
        "… VAE with latents_mean and latents_std",
        "sdxl",
        config("vae/config.json", latents_mean=LATENTS_MEAN, latents_std=LATENTS_STD),
    ),
    Case(
        "SDXL-Turbo",
        "sdxl",
        all_of(own("EulerAncestralDiscreteScheduler", timestep_spacing="trailing"), config(UNET, sample_size=64)),
        steps=1,
        guidance=0.0,
    ),
    Case("SDXL-Lightning, 4 steps", "sdxl", own(timestep_spacing="trailing"), steps=4, guidance=0.0),
    Case(
        "SDXL-Lightning, 1 step: predicts the sample",
        "sdxl",
        own(timestep_spacing="trailing", prediction_type="sample"),
        steps=1,
        guidance=0.0,
        sampler="euler",
    ),
    # Their first sigma is 4096, where float32 rounds the pipeline's latents to 2e-4: of two steps the last keeps that.
    Case(
        "NoobAI: velocity, zero SNR, Euler", "sdxl", own("EulerDiscreteScheduler", **ZERO_SNR), sampler="euler", steps=6
    ),
    Case(
        "… Euler a",
        "sdxl",
        own("EulerAncestralDiscreteScheduler", **ZERO_SNR),
        sampler="euler_ancestral",
        steps=6,
    ),
    Case(
        "Playground v2.5: EDM DPM++",
        "sdxl",
        all_of(
            replaced("EDMDPMSolverMultistepScheduler", EDM),
            config("vae/config.json", latents_mean=LATENTS_MEAN, latents_std=LATENTS_STD),
        ),
        sampler="default",
    ),
    Case(
        "Playground v2.5: EDM Euler",
        "sdxl",
        all_of(
            replaced("EDMEulerScheduler", {name: EDM[name] for name in EDM if name != "rho"}),
            config("vae/config.json", latents_mean=LATENTS_MEAN, latents_std=LATENTS_STD),
        ),
        sampler="default",
    ),
    Case("XL, flow matching with UniPC", "sdxl", own("UniPCMultistepScheduler", **FLOW), sampler="unipc"),
    Case("XL, flow matching with DPM++ 2M", "sdxl", own("DPMSolverMultistepScheduler", **FLOW), sampler="dpmpp_2m"),
    Case(
        "XL inpainting as a text-to-image class", "sdxl", config("unet/config.json", in_channels=9), "in_channels is 9"
    ),
    Case(
        "InstructPix2Pix as a text-to-image class",
        "sd15",
        config("unet/config.json", in_channels=8),
        "in_channels is 8",
    ),
    Case(
        "Taiyi: a BERT",
        "sd15",
        config(INDEX, text_encoder=["transformers", "BertModel"]),
        "is transformers.BertModel",
    ),
    Case(
        "a tiny autoencoder",
        "sdxl",
        config(INDEX, vae=["diffusers", "AutoencoderTiny"]),
        "is diffusers.AutoencoderTiny",
    ),
    Case(
        "XL refiner, image to image",
        "sdxl",
        config(INDEX, _class_name="StableDiffusionXLImg2ImgPipeline"),
        "not served here",
    ),
    Case("FLUX", "sdxl", config(INDEX, _class_name="FluxPipeline"), "FluxPipeline is not served here"),
]
LAYOUT_CASES = [
    Case("fp16 files alone", "sd15", only_variant("fp16"), variant="fp16"),
    Case("fp16 shards alone", "sdxl", only_variant("fp16", shards=2), variant="fp16"),
    Case("fp16 UNet, the rest plain", "sd15", half_unet, variant="fp16"),
    Case("non_ema files alone", "sd15", only_variant("non_ema"), variant="non_ema"),
    Case("fp16 and non_ema files beside", "sd15", both_variants),
    Case("shards beside a whole file of earlier", "sdxl", sharded),
    Case("files that macOS leaves (._*)", "sd15", macos_files),
    Case(
        "the hub's cache, blobs in the repository's folder",
        "sd15",
        lambda folder: hub_cache(folder, "models--owner--name/blobs"),
    ),
    Case("the hub's cache, blobs shared (huggingface_hub 2.4)", "sd15", lambda folder: hub_cache(folder, "blobs/d4")),
    Case(
        "links to another folder", "sd15", lambda folder: linked(folder, folder.parent / "elsewhere"), "allowed_roots"
    ),
    Case(
        "links to another folder, under allowed_roots",
        "sd15",
        lambda folder: linked(folder, folder.parent / "elsewhere"),
        allowed_roots=lambda folder: (folder.parent / "elsewhere",),
    ),
    Case("pickled weights alone (.bin)", "sd15", pickled, "save_pretrained"),
    Case("a Git LFS pointer", "sd15", git_lfs_pointer, "git lfs pull"),
]
