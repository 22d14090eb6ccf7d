"""python -m training.shapes.controlnet: train the shapes model's ControlNet, or go on from where the last run stopped.

It learns to put things where a sketch has them: filled silhouettes, or outlines of several widths, white on black.
The base model is the committed one, frozen.
"""

import json

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from tqdm import tqdm

from training.shapes.captions import random_caption
from training.shapes.data import WORDINGS, to_tensor
from training.shapes.denoiser import Batch, Batches, VelocityLoss, velocity_loss
from training.shapes.export import CHECKPOINT
from training.shapes.loop import DEVICE, RUNS, settings, train
from training.shapes.outlines import Field
from training.shapes.scenes import Scene, draw, random_training_scene

CONTROLNET = CHECKPOINT.parent / "shapes-controlnet"
STEP = 1 / 8  # of a pixel: how finely distances to outlines are kept


def distance_to(scene: Scene) -> Field:
    """Signed distance in pixels to the outlines of a scene's things, negative inside."""
    return np.min([thing.outline() for thing in scene.things], 0)


def sketched(distances: np.ndarray, choose: np.random.Generator) -> Tensor:
    """Return sketches of things whose distances are given, in `STEP`, int8 [N, h, w]: float32 [N, 3, h, w], 0 … 1."""
    away = torch.from_numpy(distances).float() * STEP
    half = torch.from_numpy(choose.uniform(0.6, 1.8, len(away))).float()[:, None, None]  # of a line's width
    filled = torch.from_numpy(choose.random(len(away)) < 0.4)[:, None, None]
    inside = torch.where(filled, away, away.abs() - half)
    return (0.5 - inside).clamp(0, 1)[:, None].repeat(1, 3, 1, 1)


@torch.inference_mode()
def sketched_scenes(pipeline: StableDiffusionPipeline) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Return scaled mean latents, float16 [N, C, h, w], distances to outlines in `STEP`, int8 [N, H, W], and `WORDINGS`
    captions for each scene; drawn at the first call."""
    RUNS.mkdir(exist_ok=True)
    arrays_path, words_path = RUNS / "sketches.npz", RUNS / "sketches.json"
    if not words_path.exists():
        rng = np.random.default_rng(settings("controlnet")["seed"])
        latents, distances, captions = [], [], []
        for _ in tqdm(range(0, settings("controlnet")["scenes"], 100), desc="sketches: scenes", mininterval=5):
            scenes = [random_training_scene(rng) for _ in range(100)]
            pixels = to_tensor(np.stack([draw(scene, rng) for scene in scenes]))
            with torch.autocast(DEVICE.type, torch.bfloat16):
                mean = pipeline.vae.to(DEVICE).encode(pixels).latent_dist.mean
            latents.append((mean * pipeline.vae.config.scaling_factor).cpu().half().numpy())
            away = np.stack([distance_to(scene) for scene in scenes]) / STEP
            distances.append(away.round().clip(-127, 127).astype(np.int8))
            captions += [[random_caption(scene, rng) for _ in range(WORDINGS)] for scene in scenes]
        np.savez(arrays_path, latents=np.concatenate(latents), distances=np.concatenate(distances))
        words_path.write_text(json.dumps(captions))
    arrays = np.load(arrays_path)
    return arrays["latents"], arrays["distances"], json.loads(words_path.read_text())


class Controlled(nn.Module):
    """A frozen UNet that takes a sketch, by a ControlNet that is trained."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 32, 64))
        self.unet = unet.requires_grad_(False)

    def forward(self, noisy: Tensor, timesteps: Tensor, embeds: Tensor, sketch: Tensor) -> UNet2DConditionOutput:
        """Return the UNet's output; noisy [N, C, h, w], embeds [N, tokens, width], sketch [N, 3, 8h, 8w]."""
        down, middle = self.controlnet(noisy, timesteps, embeds, sketch, return_dict=False)
        return self.unet(
            noisy, timesteps, embeds, down_block_additional_residuals=down, mid_block_additional_residual=middle
        )


def main() -> None:
    """Train the ControlNet and write it in diffusers' layout, fp16."""
    torch.manual_seed(0)
    chosen = settings("controlnet")
    pipeline = StableDiffusionPipeline.from_pretrained(CHECKPOINT)
    latents, distances, captions = sketched_scenes(pipeline)
    batches = Batches(pipeline.tokenizer, captions, latents.shape[1:], chosen)

    def sketch(batch: Batch, choose: np.random.Generator) -> tuple[Tensor, ...]:
        return (sketched(distances[batch.rows], choose),)

    loss_of = velocity_loss(pipeline.text_encoder, batches, latents, sketch)
    trained = train("controlnet", VelocityLoss(Controlled(pipeline.unet), chosen["guidance"]), loss_of, chosen)
    trained.unet.controlnet.half().save_pretrained(CONTROLNET)


if __name__ == "__main__":
    main()
