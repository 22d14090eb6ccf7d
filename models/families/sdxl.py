"""Stable Diffusion XL: two text encoders, a pooled embedding, and the picture's size as numbers.

Source: diffusers `pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.checkpoint.configs import read_entry, read_json
from models.families.base import Conditioning, Text, TextComponents
from models.families.components import TEXT_ENCODER, TEXT_ENCODER_2, TOKENIZER, UNET, VAE
from models.families.sd import UNET_CONFIG, Fit, StableDiffusion

if TYPE_CHECKING:
    from torch import Tensor

    from models.spec import ImageSpec

ZEROS_ENTRY = "force_zeros_for_empty_prompt"  # of model_index.json; the pipeline takes yes for its default


class StableDiffusionXL(StableDiffusion):
    """The UNet of Stable Diffusion, with more to attend to."""

    name = "sdxl"
    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline")
    last_text_layer = 2
    vae_upcasts = True  # as diffusers' AutoencoderKL says by default; the pipelines of `sd` do not ask it
    scheduler_repairs = {}  # noqa: RUF012
    components = {  # noqa: RUF012
        "tokenizer": TOKENIZER,
        "tokenizer_2": TOKENIZER,
        "text_encoder": TEXT_ENCODER,
        "text_encoder_2": TEXT_ENCODER_2,
        "unet": UNET,
        "vae": VAE,
    }
    text_readers = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))

    def encode(self, text: TextComponents, texts: Sequence[Text]) -> list[Conditioning]:
        """Return the last layer but one of both encoders side by side, and the pooled embedding of the second.

        Layers that a text skips are skipped before it; the pooled embedding is the last layer's all the same, and
        that of the text's first chunk.

        Padding is read, whatever a text encoder's config says. No negative prompt is zeros, unless the index says that
        it is the empty one.
        Source: diffusers `StableDiffusionXLPipeline.encode_prompt`.
        """
        import torch

        from models.families import clip

        outputs, layers = [], []
        for number, (tokenizer, encoder) in enumerate(self.text_readers):
            chunks = clip.read_chunks(text, tokenizer, texts)
            outputs.append(clip.run_encoder(text, encoder, chunks, mask=False, number=number))
            layer = clip.hidden_states(outputs[-1], chunks, self.last_text_layer)
            layers.append(clip.weighted(layer.float().cpu(), chunks))
        hidden = torch.cat(layers, -1)
        pooled = outputs[1].text_embeds.float().cpu()
        sizes = [each.chunks for each in texts]
        if text.index.get(ZEROS_ENTRY, True):
            none = [each.words is None for each in texts for _ in range(each.chunks)]
            hidden[none], pooled[none] = 0, 0
        return [
            {"encoder_hidden_states": rows.flatten(0, 1).clone(), "text_embeds": wholes[0].clone()}
            for rows, wholes in zip(hidden.split(sizes), pooled.split(sizes), strict=True)
        ]

    def condition(self, config: Any, spec: "ImageSpec", text: Conditioning) -> Conditioning:
        """Return the text and the image's size, twice, as none was cropped."""
        import torch

        sizes = [spec.height, spec.width, 0, 0, spec.height, spec.width]
        return {**super().condition(config, spec, text), "time_ids": torch.tensor(sizes, dtype=torch.float32)}

    def expected_shapes(
        self, config: Any, max_tokens: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a row's conditioning: the UNet's embedding of text and sizes is of both."""
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return super().expected_shapes(config, max_tokens, latent_shape) | {"text_embeds": (pooled,), "time_ids": (6,)}

    def to_vae(self, latents: "Tensor", config: Any) -> "Tensor":
        """Return what the VAE decodes: with a mean and a deviation a channel, where its config has them."""
        normal = _of_channels(latents, config)
        if normal is None:
            return super().to_vae(latents, config)
        mean, std = normal
        return latents * std / config.scaling_factor + mean

    def from_vae(self, latents: "Tensor", config: Any) -> "Tensor":
        """Return what the VAE has encoded as the UNet has it."""
        normal = _of_channels(latents, config)
        if normal is None:
            return super().from_vae(latents, config)
        mean, std = normal
        return (latents - mean) * config.scaling_factor / std

    def _arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        added = {name: inputs.pop(name) for name in ("text_embeds", "time_ids")}
        return inputs | {"added_cond_kwargs": added}

    def _fits_additions(self, folder: Path) -> Iterator[Fit]:
        unet = read_json(folder, UNET_CONFIG)
        found = unet.get("addition_embed_type")
        yield UNET_CONFIG, "addition_embed_type", found, "text_time", "what the pipeline feeds"
        sizes = 6 * read_entry(folder, UNET_CONFIG, "addition_time_embed_dim", int)
        pooled = read_entry(folder, "text_encoder_2/config.json", "projection_dim", int) + sizes
        entry = "projection_class_embeddings_input_dim"
        yield UNET_CONFIG, entry, unet.get(entry), pooled, "the pooled text's width and six sizes"


def _of_channels(latents: "Tensor", config: Any) -> "tuple[Tensor, Tensor] | None":
    """Return mean and deviation of each channel, [1, C, 1, 1], where a VAE's config has them."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return None
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)
