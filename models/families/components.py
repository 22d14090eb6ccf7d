"""Components that several families have, each with the least size that its config allows its model. No torch."""

from models.checkpoint.sizes import Size, SizeEntries
from models.families.base import Component


def _clip_text_encoder(config: SizeEntries) -> Size:
    """Without biases. Source: transformers `models/clip/modeling_clip.py`."""
    layers, width = config.one("num_hidden_layers", 12), config.one("hidden_size", 512)
    rows = config.one("vocab_size", 49408) + config.one("max_position_embeddings", 77)
    return Size(16 * layers, width * (rows + layers * (4 * width + 2 * config.one("intermediate_size", 2048))))


def _unet(config: SizeEntries) -> Size:
    """A block for each layer and each of its transformers, one convolution a layer, and what stands before and after.

    Source: diffusers `models/unets/unet_2d_condition.py`.
    """
    layers, widths = config.all("layers_per_block", 2), config.widths(320)
    depth = max(config.one(f"{order}transformer_layers_per_block", 1) for order in ("", "reverse_"))
    first = widths[0]
    per_level = layers if len(layers) > 1 else layers * len(widths)
    convolutions = 9 * sum(count * width**2 for count, width in zip(per_level, widths, strict=False))
    ends = config.one("conv_in_kernel", 3) ** 2 * config.one("in_channels", 4)
    ends += config.one("conv_out_kernel", 3) ** 2 * config.one("out_channels", 4) + config.one("time_cond_proj_dim", 0)
    time = config.one("time_embedding_dim", 0) or 4 * first
    times = time * (time + config.one("projection_class_embeddings_input_dim", 0))
    texts = config.one("encoder_hid_dim", 0) * config.one("cross_attention_dim", 1280)
    return Size(8 * len(widths) * max(1, *layers) * max(depth, 1), convolutions + ends * first + times + texts)


def _vae(config: SizeEntries) -> Size:
    """Two convolutions a layer, in encoder and decoder, and what stands at their ends.

    Source: diffusers `models/autoencoders/vae.py`.
    """
    layers, widths = config.one("layers_per_block", 1), config.widths(64)
    ends = widths[0] * (config.one("in_channels", 3) + config.one("out_channels", 3))
    ends += widths[-1] * config.one("latent_channels", 4)
    return Size(16 * len(widths) * layers, 18 * layers * sum(width**2 for width in widths) + 9 * ends)


TOKENIZER = Component("text", "transformers", ("CLIPTokenizer", "CLIPTokenizerFast"))
TEXT_ENCODER = Component("text", "transformers", ("CLIPTextModel",), "model", _clip_text_encoder)
UNET = Component("latents", "diffusers", ("UNet2DConditionModel",), "diffusion_pytorch_model", _unet)
VAE = Component("pixels", "diffusers", ("AutoencoderKL",), "diffusion_pytorch_model", _vae)
TEXT_ENCODER_2 = Component("text", "transformers", ("CLIPTextModelWithProjection",), "model", _clip_text_encoder)
