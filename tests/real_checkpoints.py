"""Small checkpoints with the configs of real ones: every layer, block and entry, but narrow, with random weights.

The facts below are entries of the configs of Stable Diffusion 1.5, 2.1 and XL. Weights are scaled so that an image has
contrast (pixels of standard deviation 50 or so) and another prompt gives another image: what differs must show.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from training.shapes.tokenizer import new_tokenizer

WIDTH = 32  # of text embeddings; 768, 1024 and 1280 in the real ones
BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "clip_sample": False,
    "steps_offset": 1,
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd15": BETAS | {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0"},
    "sd21": BETAS | {"_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "prediction_type": "v_prediction"},
    "sdxl": BETAS
    | {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
}
SD_BLOCKS = {
    "block_out_channels": (32, 64, 64, 64),  # 320, 640, 1280, 1280
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": WIDTH,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd15": SD_BLOCKS | {"sample_size": 64, "attention_head_dim": 8},
    "sd21": SD_BLOCKS
    | {
        "sample_size": 96,
        "attention_head_dim": (2, 4, 4, 4),  # 5, 10, 20, 20
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (32, 64, 64),  # 320, 640, 1280
        "attention_head_dim": (2, 4, 4),  # 5, 10, 20
        "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2 * WIDTH,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,  # 256
        "projection_class_embeddings_input_dim": WIDTH + 6 * 8,  # 2816
    },
}
UNETS["lcm"] = UNETS["sd15"] | {"time_cond_proj_dim": 256}  # of LCM_Dreamshaper_v7
SCHEDULERS["lcm"] = BETAS | {"_class_name": "LCMScheduler", "original_inference_steps": 50}
VAES: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 512, "scaling_factor": 0.18215, "force_upcast": False},
    "sd21": {"sample_size": 768, "scaling_factor": 0.18215, "force_upcast": False},
    "sdxl": {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
}
VAES["lcm"] = VAES["sd15"]
TEXT_LAYERS = {"sd15": 12, "sd21": 23, "sdxl": 12, "lcm": 12}
TEXT_ACTIVATIONS = {"sd15": "quick_gelu", "sd21": "gelu", "sdxl": "quick_gelu", "lcm": "quick_gelu"}


@cache
def _components(kind: str) -> dict[str, Any]:
    """Build and scale the models of a kind, once: 2 to 4 s."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(_text_config(TEXT_LAYERS[kind], TEXT_ACTIVATIONS[kind])),
        "unet": UNet2DConditionModel(layers_per_block=2, norm_num_groups=32, **UNETS[kind]),
        "vae": AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),  # 128, 256, 512, 512
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            **VAES[kind],
        ),
    }
    if kind == "sdxl":
        parts["tokenizer_2"] = tokenizer
        parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(32, "gelu"))
    for model in (parts["unet"], parts["vae"], parts["text_encoder"], parts.get("text_encoder_2")):
        if model is not None:
            model.eval()
    _scale(parts, kind)
    return parts


def _text_config(layers: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=WIDTH,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,  # as the real ones have it: the end of a text is then found as its greatest token id
        pad_token_id=1,
    )


@torch.no_grad()
def _scale(parts: dict[str, Any], kind: str) -> None:
    """Let text matter, outputs be noise of deviation 1 and pixels have contrast."""
    unet, vae = parts["unet"], parts["vae"]
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_out.0"):
            module.weight.mul_(12)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    hidden = torch.randn(2, 77, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(2))
    extra = {}
    if kind == "lcm":
        extra = {"timestep_cond": torch.zeros(2, 256)}
    if kind == "sdxl":
        sizes = torch.tensor([128.0, 128, 0, 0, 128, 128]).expand(2, -1)
        extra = {"added_cond_kwargs": {"text_embeds": hidden[:, 0, :WIDTH], "time_ids": sizes}}
    unet.conv_out.weight.div_(unet(latents, 500, hidden, **extra).sample.std())
    pixels = vae.decode(latents / vae.config.scaling_factor).sample
    vae.decoder.conv_out.weight.mul_(0.45 / pixels.std())


def build(folder: Path, kind: str) -> Path:
    """Write a checkpoint of `sd15`, `sd21`, `sdxl` or `lcm` to `folder`, as `save_pretrained` does; return the folder.

    The files hold what the configs above say; a test changes what it is about.
    """
    parts = dict(_components(kind))
    scheduler = SCHEDULERS[kind]
    parts["scheduler"] = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
    if kind == "sdxl":
        pipeline: Any = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, **unused)
    pipeline.save_pretrained(folder)
    write_json(folder / "scheduler/scheduler_config.json", scheduler)
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write a new file: the old one may be linked from elsewhere."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(content))


def change(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file; `...` leaves one out."""
    content = json.loads(path.read_text()) | entries
    write_json(path, {name: value for name, value in content.items() if value is not ...})
