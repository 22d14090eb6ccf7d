"""python -m training.shapes: train the shapes model, or go on from where the last run stopped."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from training.shapes.autoencoder import new_autoencoder, train_autoencoder
from training.shapes.data import latents
from training.shapes.denoiser import new_unet, train_denoiser
from training.shapes.export import CHECKPOINT, export
from training.shapes.text_encoder import new_text_encoder, train_text_encoder
from training.shapes.tokenizer import new_tokenizer

NETWORKS = ("autoencoder", "text_encoder", "denoiser")


def main() -> None:
    """Train what is asked for and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", nargs="+", choices=NETWORKS, default=NETWORKS, help="the others stay as committed")
    parser.add_argument(
        "--from-committed", action="store_true", help="start from the committed weights, unless a run goes on"
    )
    args = parser.parse_args()
    torch.manual_seed(0)

    def start(name: str, new: Callable[[], Any], file: str) -> Any:
        network = new()
        if args.from_committed or name not in args.train:
            network.load_state_dict(load_file(CHECKPOINT / file))
        return network

    fresh_words = "text_encoder" in args.train and not args.from_committed
    tokenizer = new_tokenizer() if fresh_words else CLIPTokenizer.from_pretrained(CHECKPOINT / "tokenizer")
    autoencoder = start("autoencoder", new_autoencoder, "vae/diffusion_pytorch_model.safetensors")
    if "autoencoder" in args.train:
        autoencoder = train_autoencoder(autoencoder)
    raw = latents(autoencoder)
    scaling_factor = round(1 / float(raw.std(dtype="float64")), 4)

    text_encoder = start("text_encoder", lambda: new_text_encoder(tokenizer), "text_encoder/model.safetensors")
    if "text_encoder" in args.train:
        text_encoder = train_text_encoder(text_encoder, tokenizer)

    unet = start("denoiser", new_unet, "unet/diffusion_pytorch_model.safetensors")
    if "denoiser" in args.train:
        unet = train_denoiser(unet, text_encoder, tokenizer, raw * scaling_factor)
    export(autoencoder, text_encoder, unet, tokenizer, scaling_factor)


if __name__ == "__main__":
    main()
