"""Train the CLIP text model and the UNet of the shapes model together, on cached latents."""

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.shapes.data import scenes
from training.shapes.loop import DEVICE, settings, train
from training.shapes.tokenizer import MAX_TOKENS


def new_scheduler() -> DDIMScheduler:
    """v-prediction with a zero-terminal-SNR schedule (Lin et al. 2023, arXiv:2305.08891): without it the layout leaks
    through the noise in training and is missing when sampling starts."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # of no effect with trailing spacing; the pipeline warns of anything else
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers, 128 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """Three levels of 16, 8 and 4 cells; text is attended at the lower two, which decide what goes where."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=2,
        norm_num_groups=16,
    )


class TextToLatents(nn.Module):
    """The pair that is trained: its forward is the loss."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, noisy: Tensor, timesteps: Tensor, input_ids: Tensor, velocity: Tensor) -> Tensor:
        """Mean squared error of the predicted velocity: noisy, velocity [N, 4, h, w]; input_ids [N, MAX_TOKENS]."""
        with torch.autocast(DEVICE.type, torch.bfloat16):
            embeds = self.text_encoder(input_ids)[0]
            output = self.unet(noisy, timesteps, embeds).sample
        return functional.mse_loss(output.float(), velocity)


def train_denoiser(tokenizer: CLIPTokenizer, latents: np.ndarray) -> TextToLatents:
    """Return the trained pair; `latents` float16 [N, 4, h, w] are scaled to unit deviation already."""
    chosen = settings("denoiser")
    torch.manual_seed(chosen["seed"])
    _, captions = scenes()
    wordings = len(captions[0])
    flat = tokenizer([words for row in captions for words in row], padding="max_length", truncation=True)
    input_ids = torch.tensor(flat["input_ids"], dtype=torch.int32).view(len(captions), wordings, -1)
    empty = torch.tensor(tokenizer("", padding="max_length")["input_ids"], dtype=torch.int32)
    scheduler = new_scheduler()
    last = scheduler.config.num_train_timesteps

    def loss_of(module: nn.Module, choose: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = choose.integers(len(latents), size=chosen["batch"])
        ids = input_ids[rows, choose.integers(wordings, size=len(rows))].clone()
        ids[choose.random(len(rows)) < chosen["caption_dropout"]] = empty
        early = choose.random(len(rows)) < chosen["early_share"]
        timesteps = torch.from_numpy(
            np.where(early, choose.integers(last * 4 // 5, last, len(rows)), choose.integers(last, size=len(rows)))
        )
        clean = torch.from_numpy(latents[rows]).float()
        draws = torch.randn(clean.shape, generator=noise)
        noisy = scheduler.add_noise(clean, draws, timesteps)
        velocity = scheduler.get_velocity(clean, draws, timesteps)
        return module(*(x.to(DEVICE) for x in (noisy, timesteps, ids.long(), velocity)))

    return train(
        "denoiser",
        TextToLatents(new_text_encoder(tokenizer), new_unet()),
        loss_of,
        seed=chosen["seed"],
        steps=chosen["steps"],
        peak=chosen["learning_rate"],
        ema=chosen["ema"],
    )
