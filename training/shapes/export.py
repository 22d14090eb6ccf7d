"""Write the trained networks as a checkpoint in plain diffusers layout, with the card that the service reads."""

import json
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from training.shapes.denoiser import new_scheduler

CHECKPOINT = Path(__file__).parents[2] / "models" / "checkpoints" / "shapes"

CARD = {
    "defaults": {"num_inference_steps": 20, "guidance_scale": 4.0, "sampler": "ddim"},
    "bounds": {"width": [128, 128], "height": [128, 128]},
    "styles": ["flat", "cartoon", "pixel-art", "watercolor", "neon", "line-drawing", "mosaic"],
    "notice": (
        "The shapes model is a demonstration that ships with Darkroom. It draws one or two objects, 128 × 128 pixels: "
        "a circle, square, triangle, star, heart, ring, moon, fish or tree; small, medium or large; in red, orange, "
        "yellow, green, blue, purple, pink, brown, black or white; one in the center, left, right, top or bottom, or "
        "two, left of, right of, above or below each other; on a plain, striped, dotted or gradient background; flat, "
        "as a cartoon, pixel art, watercolor, neon, line drawing or mosaic. It knows no other words."
    ),
    "examples": [
        {"prompt": "a red circle on a blue background", "seed": 7},
        {
            "prompt": "a small red star above a large green ring on a yellow background",
            "style": "watercolor",
            "seed": 3,
        },
        {"prompt": "a white fish left of a purple tree on a striped pink background", "style": "cartoon", "seed": 11},
        {"prompt": "a large pink heart on a black background, in the center", "style": "neon", "seed": 5},
        {"prompt": "a yellow moon on a gradient blue background, at the top", "style": "mosaic", "seed": 2},
    ],
}


def export(
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    scaling_factor: float,
) -> None:
    """Write the checkpoint, weights in fp16 safetensors."""
    autoencoder.register_to_config(scaling_factor=scaling_factor)
    StableDiffusionPipeline(
        vae=autoencoder.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(CHECKPOINT)
    # transformers would load what the file holds, and the pipeline's UNet is fp32: the config must say what is wanted.
    text_config = CHECKPOINT / "text_encoder" / "config.json"
    text_config.write_text(text_config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    (CHECKPOINT / "darkroom.json").write_text(json.dumps(CARD, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
