"""Stable Diffusion XL: two text encoders, a pooled embedding, and the picture's size as numbers.

Source: diffusers `pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.configs import read_entry, read_json
from models.families.base import Component, TextReader
from models.families.sd import TEXT_ENCODER, TOKENIZER, UNET, UNET_CONFIG, VAE, Fit, StableDiffusion

TEXT_ENCODER_2 = Component("text", "transformers", ("CLIPTextModelWithProjection",), "model")


class StableDiffusionXL(StableDiffusion):
    """The UNet of Stable Diffusion, with more to attend to."""

    name = "sdxl"
    pipelines = ("StableDiffusionXLPipeline",)
    scheduler_repairs = {}  # noqa: RUF012
    components = {  # noqa: RUF012
        "tokenizer": TOKENIZER,
        "tokenizer_2": TOKENIZER,
        "text_encoder": TEXT_ENCODER,
        "text_encoder_2": TEXT_ENCODER_2,
        "unet": UNET,
        "vae": VAE,
    }
    text_readers = (
        TextReader("tokenizer", "text_encoder", "CLIPTextModel"),
        TextReader("tokenizer_2", "text_encoder_2", "CLIPTextModelWithProjection"),
    )
    masks_padding = False  # whatever a text encoder's config says
    empty_is_zero = True  # what the pipeline takes for its default

    def embed(self, outputs: Sequence[Any]) -> tuple[Any, Any]:
        """Return the last layer but one of both encoders side by side, and the pooled embedding of the second."""
        import torch

        return torch.cat([output.hidden_states[-2] for output in outputs], -1), outputs[1].text_embeds

    def model_inputs(self, latents: Any, hidden: Any, pooled: Any, scale: int) -> dict[str, Any]:
        """Return what the UNet takes besides latents and timesteps: no image was cropped, so its size comes twice."""
        height, width = (side * scale for side in latents.shape[2:])
        sizes = latents.new_tensor([height, width, 0, 0, height, width]).expand(len(latents), -1)
        return {"encoder_hidden_states": hidden, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}

    def pooled_width(self, config: Any) -> int:
        """Return what the UNet's embedding of text and sizes leaves for the text."""
        return config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def to_vae(self, latents: Any, config: Any) -> Any:
        """Return what the VAE decodes: with a mean and a deviation a channel, where its config has them."""
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            return latents / config.scaling_factor
        mean, std = (latents.new_tensor(each).view(1, -1, 1, 1) for each in (mean, std))
        return latents * std / config.scaling_factor + mean

    def _fits_additions(self, folder: Path) -> Iterator[Fit]:
        unet = read_json(folder, UNET_CONFIG)
        found = unet.get("addition_embed_type")
        yield UNET_CONFIG, "addition_embed_type", found, "text_time", "what the pipeline feeds"
        sizes = 6 * read_entry(folder, UNET_CONFIG, "addition_time_embed_dim", int)
        pooled = read_entry(folder, "text_encoder_2/config.json", "projection_dim", int) + sizes
        entry = "projection_class_embeddings_input_dim"
        yield UNET_CONFIG, entry, unet.get(entry), pooled, "the pooled text's width and six sizes"
