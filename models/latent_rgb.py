"""The map from latents to colours that previews use, fitted to a VAE once, when its model is deployed."""

import torch
from torch.nn import functional

from models.model_card import LatentRgb
from models.vae import Decoded, Vae

FITTED_ON = 16  # images
FITTED_SIDE = 16  # latent cells


def fit_latent_rgb(vae: Vae) -> LatentRgb:
    """Return the map from a cell's latents to its mean colour in −1 … 1, the last row added, that fits a VAE best.

    Fitted by least squares on random latents that are as smooth as images' are; the same for the same weights.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    coarse = torch.randn(FITTED_ON, vae.channels, FITTED_SIDE // 4, FITTED_SIDE // 4, generator=generator)
    latents = functional.interpolate(coarse, size=FITTED_SIDE, mode="bicubic")
    latents = latents / latents.std()
    images = vae.decode([image.numpy() for image in latents])
    decoded = torch.stack([torch.from_numpy(image.pixels) for image in images if isinstance(image, Decoded)])
    colours = functional.adaptive_avg_pool2d(decoded.permute(0, 3, 1, 2).float(), FITTED_SIDE) / 127.5 - 1
    cells = latents.permute(0, 2, 3, 1).reshape(-1, vae.channels)
    known = torch.cat([cells, torch.ones(len(cells), 1)], 1)
    fitted = torch.linalg.lstsq(known, colours.permute(0, 2, 3, 1).reshape(-1, 3)).solution
    return tuple(tuple(row) for row in fitted.tolist())
