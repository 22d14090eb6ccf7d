"""python -m training.shapes.adapters chalk: train a style's LoRA, or go on from where the last run stopped.

The base model is the committed one, frozen. The adapter learns the style from scenes whose captions have no word of it.
"""

import argparse
import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from training.shapes.adapter_styles import ADAPTER_STYLES, draw_adapted
from training.shapes.captions import random_caption
from training.shapes.data import WORDINGS, to_tensor
from training.shapes.denoiser import Batches, Loss, embed, velocity_of
from training.shapes.export import CHECKPOINT
from training.shapes.loop import DEVICE, RUNS, settings, train
from training.shapes.scenes import Scene, draw, held_out, random_scene

ADAPTERS = CHECKPOINT.parent / "shapes-adapters"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")  # attention, and where texture is made: convolutions


def flat_scene(rng: np.random.Generator, unseen: bool) -> Scene:
    """Draw scenes in the style that captions need not name until one is held out of training, or is not."""
    while held_out(scene := replace(random_scene(rng), style="flat")) != unseen:
        pass
    return scene


@torch.inference_mode()
def scene_pairs(style: str, pipeline: StableDiffusionPipeline) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Return scaled mean latents of scenes drawn flat and of the same ones in the style, each float16 [N, C, h, w],
    and `WORDINGS` captions for each scene; drawn at the first call."""
    RUNS.mkdir(exist_ok=True)
    latents_path, words_path = RUNS / f"{file_name(style)}.npy", RUNS / f"{file_name(style)}.json"
    if not words_path.exists():
        rng = np.random.default_rng(settings("adapter")["seed"])
        pairs, captions = [], []
        for _ in tqdm(range(0, settings("adapter")["scenes"], 50), desc=f"{style}: scenes", mininterval=5):
            scenes = [flat_scene(rng, unseen=False) for _ in range(50)]
            flat = [draw(scene, rng) for scene in scenes]
            styled = [draw_adapted(scene, style, rng) for scene in scenes]
            with torch.autocast(DEVICE.type, torch.bfloat16):
                mean = pipeline.vae.to(DEVICE).encode(to_tensor(np.stack(flat + styled))).latent_dist.mean
            scaled = (mean * pipeline.vae.config.scaling_factor).cpu().half().numpy()
            pairs.append(scaled.reshape(2, len(scenes), *scaled.shape[1:]))
            captions += [[random_caption(scene, rng) for _ in range(WORDINGS)] for scene in scenes]
        np.save(latents_path, np.concatenate(pairs, 1))
        words_path.write_text(json.dumps(captions))
    return *np.load(latents_path), json.loads(words_path.read_text())


def file_name(style: str) -> str:
    """What the style's adapter is called, without a suffix."""
    return style.replace(" ", "-")


class StyleLoss(nn.Module):
    """The UNet with a LoRA that is trained, beside the base model: its forward is the loss."""

    def __init__(self, unet: UNet2DConditionModel, rank: int, guidance: float) -> None:
        super().__init__()
        self._base = [deepcopy(unet).to(DEVICE).eval().requires_grad_(False)]  # in a list: it is no state of the run
        self.unet = unet.requires_grad_(False)
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))
        self.guidance = guidance

    def forward(
        self,
        flat: Tensor,
        styled: Tensor,
        timesteps: Tensor,
        embeds: Tensor,
        empty: Tensor,
        bare: Tensor,
        change: Tensor,
    ) -> Tensor:
        """Mean squared error of the output from the base model's for the same scene drawn flat plus the style's change.

        What the base model knows of shapes, places and words is in its own answer, so that few scenes teach nothing of
        these anew. Guidance of the chosen scale gives the change c itself where the output's lies 1/g of the way to c
        from the change of the output without a caption, which is taught c where the caption is the empty one, `bare`.

        flat, styled: the two scenes under the same noise, and `change`, the styled one's velocity less the flat one's,
        [N, C, h, w]; embeds [N, tokens, width]; empty [tokens, width]; bare [N].
        """
        nothing = empty.expand_as(embeds)
        with torch.no_grad():
            known, unguided = velocity_of(
                self._base[0], flat.repeat(2, 1, 1, 1), timesteps.repeat(2), torch.cat([embeds, nothing])
            ).chunk(2)
            learnt = velocity_of(self.unet, styled, timesteps, nothing) - unguided
        share = torch.where(bare, 1, 1 / self.guidance)[:, None, None, None]
        return functional.mse_loss(
            velocity_of(self.unet, styled, timesteps, embeds), known + learnt.lerp(change, share)
        )


def style_loss(pipeline: StableDiffusionPipeline, batches: Batches, flat: np.ndarray, styled: np.ndarray) -> Loss:
    """Return the loss of a `StyleLoss` over scenes drawn twice, float16 [N, C, h, w]."""
    text_encoder = pipeline.text_encoder.to(DEVICE).eval().requires_grad_(False)

    def loss_of(module: nn.Module, choose: np.random.Generator, noise: torch.Generator) -> Tensor:
        batch = batches.draw(choose, noise)
        (plain, before), (noisy, after) = batch.noised(flat), batch.noised(styled)
        embeds = embed(text_encoder, torch.cat([batch.ids, batches.empty[None]]))
        inputs = plain, noisy, batch.timesteps, embeds[:-1], embeds[-1], batch.bare, after - before
        return module(*(tensor.to(DEVICE) for tensor in inputs))

    return loss_of


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
    flat, styled, captions = scene_pairs(style, pipeline)
    loss_of = style_loss(pipeline, Batches(pipeline.tokenizer, captions, flat.shape[1:], chosen), flat, styled)
    module = StyleLoss(pipeline.unet, chosen["rank"], chosen["guidance"])
    save(style, train(f"{file_name(style)}-lora", module, loss_of, chosen).unet, chosen["rank"])


if __name__ == "__main__":
    main()
