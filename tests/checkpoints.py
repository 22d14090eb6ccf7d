"""Tiny checkpoints with random weights, built from configs: real architectures, nothing downloaded."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training.shapes.tokenizer import new_tokenizer

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def build_tiny_sd(folder: Path) -> Path:
    """Write a Stable Diffusion 1.x checkpoint (epsilon, leading timesteps) of 32 × 32 pixels; return its folder."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    text_encoder = CLIPTextModel(_text_config(tokenizer))
    scheduler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False)
    return _save_sd(folder, tokenizer, text_encoder, _unet(attention_head_dim=4), scheduler)


def build_tiny_sd2(folder: Path) -> Path:
    """Write a Stable Diffusion 2.x checkpoint (velocity, GELU text encoder, linear projections); return its folder."""
    torch.manual_seed(1)
    tokenizer = new_tokenizer()
    text_encoder = CLIPTextModel(_text_config(tokenizer, hidden_act="gelu"))
    unet = _unet(attention_head_dim=(2, 4), use_linear_projection=True)
    scheduler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction")
    return _save_sd(folder, tokenizer, text_encoder, unet, scheduler)


def build_tiny_lcm(folder: Path) -> Path:
    """Write a latent consistency model: Stable Diffusion 1.x, but the guidance scale is an input; return its folder."""
    torch.manual_seed(3)
    tokenizer = new_tokenizer()
    LatentConsistencyModelPipeline(
        vae=_vae(force_upcast=False),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(attention_head_dim=4, time_cond_proj_dim=16),
        scheduler=LCMScheduler(**NOISE, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def build_tiny_sdxl(folder: Path) -> Path:
    """Write a Stable Diffusion XL checkpoint (two text encoders, pooled embedding, sizes); return its folder."""
    torch.manual_seed(2)
    tokenizers = new_tokenizer(), new_tokenizer()
    encoders = (
        CLIPTextModel(_text_config(tokenizers[0])),
        CLIPTextModelWithProjection(_text_config(tokenizers[1], hidden_act="gelu")),
    )
    unet = _unet(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=64,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    StableDiffusionXLPipeline(
        vae=_vae(force_upcast=True),
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def build_inpainting(folder: Path, pipeline: Any, text_to_image: Path) -> Path:
    """Write a checkpoint for inpainting alone, whose UNet takes mask and masked image too; return its folder.

    The rest is that of a `text_to_image` checkpoint; `pipeline` is the class that it is saved as.
    """
    torch.manual_seed(4)
    config = UNet2DConditionModel.load_config(text_to_image / "unet")
    unet = UNet2DConditionModel.from_config(config, in_channels=9)
    pipeline.from_pretrained(text_to_image, unet=unet).save_pretrained(folder)
    return folder


def _text_config(tokenizer: CLIPTokenizer, **options: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **options,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"cross_attention_dim": 32} | options,
    )


def _vae(**options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=16,
        **options,
    )


def _save_sd(folder: Path, tokenizer: CLIPTokenizer, text_encoder: Any, unet: Any, scheduler: Any) -> Path:
    StableDiffusionPipeline(
        vae=_vae(force_upcast=False),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder
