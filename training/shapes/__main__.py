"""python -m training.shapes: train the shapes model from nothing, or go on from where the last run stopped."""

from training.shapes.autoencoder import train_autoencoder
from training.shapes.data import latents
from training.shapes.denoiser import train_denoiser
from training.shapes.export import export
from training.shapes.tokenizer import new_tokenizer


def main() -> None:
    """Train both networks and write the checkpoint."""
    autoencoder = train_autoencoder()
    raw = latents(autoencoder)
    scaling_factor = round(1 / float(raw.std(dtype="float64")), 4)
    tokenizer = new_tokenizer()
    pair = train_denoiser(tokenizer, raw * scaling_factor)
    export(autoencoder, pair, tokenizer, scaling_factor)


if __name__ == "__main__":
    main()
