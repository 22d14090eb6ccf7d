"""python -m training.shapes: train the shapes model from nothing, or go on from where the last run stopped."""

from pathlib import Path

from diffusers import StableDiffusionPipeline

from training.shapes.autoencoder import train_autoencoder
from training.shapes.data import latents
from training.shapes.denoiser import new_scheduler, train_denoiser
from training.shapes.tokenizer import new_tokenizer

CHECKPOINT = Path(__file__).parents[2] / "models" / "checkpoints" / "shapes"


def main() -> None:
    """Train both networks and write the checkpoint, in fp16 safetensors and plain diffusers layout."""
    autoencoder = train_autoencoder()
    raw = latents(autoencoder)
    scaling_factor = round(1 / float(raw.std(dtype="float64")), 4)
    tokenizer = new_tokenizer()
    pair = train_denoiser(tokenizer, raw * scaling_factor)
    autoencoder.register_to_config(scaling_factor=scaling_factor)
    StableDiffusionPipeline(
        vae=autoencoder.half(),
        text_encoder=pair.text_encoder.half(),
        tokenizer=tokenizer,
        unet=pair.unet.half(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(CHECKPOINT)


if __name__ == "__main__":
    main()
