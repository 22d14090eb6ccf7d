"""python -m training.shapes.adapters chalk: train a style's LoRA, or go on from where the last run stopped.

The base model is the committed one, frozen. The adapter learns the style from scenes whose captions have no word of it.
"""

import argparse
import json
from dataclasses import replace

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from tqdm import tqdm

from training.shapes.adapter_styles import ADAPTER_STYLES, draw_adapted
from training.shapes.captions import random_caption
from training.shapes.data import WORDINGS, to_tensor
from training.shapes.denoiser import VelocityLoss, velocity_loss
from training.shapes.export import CHECKPOINT
from training.shapes.loop import DEVICE, RUNS, settings, train
from training.shapes.scenes import Scene, held_out, random_scene

ADAPTERS = CHECKPOINT.parent / "shapes-adapters"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")  # attention, and where texture is made: convolutions


def flat_scene(rng: np.random.Generator, unseen: bool) -> Scene:
    """Draw scenes in the style that captions need not name until one is held out of training, or is not."""
    while held_out(scene := replace(random_scene(rng), style="flat")) != unseen:
        pass
    return scene


@torch.inference_mode()
def styled_scenes(style: str, pipeline: StableDiffusionPipeline) -> tuple[np.ndarray, list[list[str]]]:
    """Return scaled mean latents, float16 [N, C, h, w], and `WORDINGS` captions for each; drawn at the first call."""
    RUNS.mkdir(exist_ok=True)
    latents_path, words_path = RUNS / f"{file_name(style)}.npy", RUNS / f"{file_name(style)}.json"
    if not words_path.exists():
        rng = np.random.default_rng(settings("adapter")["seed"])
        latents, captions = [], []
        for _ in tqdm(range(0, settings("adapter")["scenes"], 50), desc=f"{style}: scenes", mininterval=5):
            scenes = [flat_scene(rng, unseen=False) for _ in range(50)]
            pixels = to_tensor(np.stack([draw_adapted(scene, style, rng) for scene in scenes]))
            with torch.autocast(DEVICE.type, torch.bfloat16):
                mean = pipeline.vae.to(DEVICE).encode(pixels).latent_dist.mean
            latents.append((mean * pipeline.vae.config.scaling_factor).cpu().half().numpy())
            captions += [[random_caption(scene, rng) for _ in range(WORDINGS)] for scene in scenes]
        np.save(latents_path, np.concatenate(latents))
        words_path.write_text(json.dumps(captions))
    return np.load(latents_path), json.loads(words_path.read_text())


def file_name(style: str) -> str:
    """What the style's adapter is called, without a suffix."""
    return style.replace(" ", "-")


def add_adapter(unet: UNet2DConditionModel, rank: int) -> UNet2DConditionModel:
    """Freeze the UNet and add a LoRA that changes nothing yet."""
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))
    return unet


def save(style: str, unet: UNet2DConditionModel, rank: int) -> None:
    """Write the adapter in diffusers' keys, fp16, with the metadata that trainers write."""
    weights = {f"unet.{name}": tensor.half().cpu() for name, tensor in get_peft_model_state_dict(unet).items()}
    metadata = {
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": f"{style.capitalize()} for the shapes model",
        "modelspec.license": "Apache-2.0",
        "ss_output_name": file_name(style),
        "ss_base_model_version": "sd_v1",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
    }
    ADAPTERS.mkdir(exist_ok=True)
    save_file(weights, ADAPTERS / f"{file_name(style)}.safetensors", metadata)


def main() -> None:
    """Train one style's adapter and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", choices=ADAPTER_STYLES)
    style = parser.parse_args().style
    torch.manual_seed(0)
    chosen = settings("adapter")
    pipeline = StableDiffusionPipeline.from_pretrained(CHECKPOINT)
    latents, captions = styled_scenes(style, pipeline)
    loss_of = velocity_loss(pipeline.text_encoder, pipeline.tokenizer, captions, latents, chosen)
    module = VelocityLoss(add_adapter(pipeline.unet, chosen["rank"]), chosen["guidance"])
    save(style, train(f"{file_name(style)}-lora", module, loss_of, chosen).unet, chosen["rank"])


if __name__ == "__main__":
    main()
