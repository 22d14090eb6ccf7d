"""Which pipelines of `model_index.json` are served, by which family, and the components that each loads. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Component:
    """A subfolder of a checkpoint: the library that reads it and the classes that `model_index.json` may name."""

    library: str
    classes: tuple[str, ...]
    weights: str = ""  # file name of the weights, without variant and suffix; empty: a tokenizer


TOKENIZER = Component("transformers", ("CLIPTokenizer", "CLIPTokenizerFast"))
TEXT_ENCODER = Component("transformers", ("CLIPTextModel",), "model")
TEXT_ENCODER_2 = Component("transformers", ("CLIPTextModelWithProjection",), "model")
UNET = Component("diffusers", ("UNet2DConditionModel",), "diffusion_pytorch_model")
VAE = Component("diffusers", ("AutoencoderKL",), "diffusion_pytorch_model")

FAMILIES: dict[str, str] = {
    "StableDiffusionPipeline": "sd",
    "LatentConsistencyModelPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
}
COMPONENTS: dict[str, Mapping[str, Component]] = {
    "sd": {"tokenizer": TOKENIZER, "text_encoder": TEXT_ENCODER, "unet": UNET, "vae": VAE},
    "sdxl": {
        "tokenizer": TOKENIZER,
        "tokenizer_2": TOKENIZER,
        "text_encoder": TEXT_ENCODER,
        "text_encoder_2": TEXT_ENCODER_2,
        "unet": UNET,
        "vae": VAE,
    },
}
ADDITION_EMBED_TYPE: dict[str, str | None] = {"sd": None, "sdxl": "text_time"}  # what a family's UNet is given
# What a pipeline's constructor changes in old scheduler configs.
SCHEDULER_REPAIRS: dict[str, Mapping[str, Any]] = {
    "StableDiffusionPipeline": {"steps_offset": 1, "clip_sample": False},
}
