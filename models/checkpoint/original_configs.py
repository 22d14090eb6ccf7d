"""The configs of a single file: what its tensors' shapes say, and what all checkpoints of its kind have. No torch.

Source: the configs that Stable Diffusion 1.5, 2.1 and XL are published with as diffusers folders.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from safetensors import safe_open

from models.checkpoint.clip import END, START, TOKENS
from models.checkpoint.guard import TensorInfo
from models.checkpoint.original_layout import OPEN_CLIP, Kind, Part, find_part, need_part
from models.errors import UnusableCheckpoint
from models.families.registry import FAMILIES

PredictionType = Literal["epsilon", "v_prediction"]

FAMILY_OF: dict[Kind, str] = {"sd1": "sd", "sd2": "sd", "sdxl": "sdxl"}
PIPELINES: dict[str, str] = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL"}
HEAD = 64  # channels of an attention head
HEADS_SD1 = 8  # of each attention of its UNet
NORM_GROUPS = 32
LAYERS_SD2 = 23  # that its text encoder is read to; the file has one more
STEPS_OF_SD2_BASE = 875_000  # of training, in the one file of 2.x that predicts noise and says its steps
VAES: dict[Kind, dict[str, Any]] = {  # sample_size: pixels of a tile
    "sd1": {"scaling_factor": 0.18215, "sample_size": 512},
    "sd2": {"scaling_factor": 0.18215, "sample_size": 768},
    "sdxl": {"scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True},
}
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
SCHEDULERS: dict[Kind, tuple[str, dict[str, Any]]] = {
    "sd1": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "sd2": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "sdxl": ("EulerDiscreteScheduler", {"interpolation_type": "linear", "timestep_spacing": "leading"}),
}
TOKEN_IDS = dict(zip(("bos_token_id", "eos_token_id", "pad_token_id"), (0, 2, 1), strict=True))  # as published
PADDING = {"sd2": {"tokenizer": "!"}, "sdxl": {"tokenizer_2": "!"}}  # others: END


class Layout(NamedTuple):
    """A UNet's resolution levels, from the first to the last."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]  # transformers of an attention, 0 where a level has none
    layers: int  # of each level


def original_configs(
    path: Path, kind: Kind, header: Mapping[str, TensorInfo], prediction_type: PredictionType | None
) -> dict[str, dict[str, Any]]:
    """Return the configs of all but the VAE, by their names in a diffusers folder.

    Raises:
        UnusableCheckpoint: a tensor that the kind has is missing or has another shape; names it.
    """
    family = FAMILY_OF[kind]
    components = FAMILIES[family].components
    unet = need_part(path, header, "unet")
    predicts = prediction_type or _prediction_type(path, kind, header, unet)
    scheduler_class, scheduler = SCHEDULERS[kind]
    encoders = {name: _text_config(need_part(path, header, name)) for name in components if "text_encoder" in name}
    inpaints = unet.shape("input_blocks.0.0.weight", 4)[1] == 9
    index = {
        "_class_name": f"{PIPELINES[family]}{'Inpaint' if inpaints else ''}Pipeline",
        "scheduler": ["diffusers", scheduler_class],
        **{name: [component.source, component.classes[0]] for name, component in components.items()},
    }
    zero_snr = {"rescale_betas_zero_snr": True} if "ztsnr" in header else {}
    tokenizers = [name for name in components if "tokenizer" in name]
    return {
        "model_index.json": index,
        "scheduler/scheduler_config.json": {**NOISE, **scheduler, "prediction_type": predicts, **zero_snr},
        "unet/config.json": unet_config(unet, kind, predicts, encoders),
        **{f"{name}/config.json": config for name, config in encoders.items()},
        **{f"{name}/tokenizer_config.json": _tokenizer_config(PADDING.get(kind, {}).get(name)) for name in tokenizers},
    }


def vae_config(path: Path, kind: Kind, header: Mapping[str, TensorInfo]) -> dict[str, Any] | None:
    """Return the config of a file's VAE, None if it has none. Raises UnusableCheckpoint, as `original_configs` does."""
    part = find_part(path, header, "vae")
    if part is None:
        return None
    if "encoder.down_blocks.0.resnets.0.conv1.weight" in part:
        raise UnusableCheckpoint(f"{path}: is the VAE of a diffusers folder; name that folder, which has its config.")
    levels = part.count("encoder.down.")
    widths = [part.shape(f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)]
    if not widths or any(width % NORM_GROUPS for width in widths):
        raise UnusableCheckpoint(f"{path}: its VAE has {widths} channels; must be multiples of {NORM_GROUPS}.")
    return {
        "in_channels": part.shape("encoder.conv_in.weight", 4)[1],
        "out_channels": part.shape("decoder.conv_out.weight", 4)[0],
        "latent_channels": part.shape("decoder.conv_in.weight", 4)[1],
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": part.count("encoder.down.0.block."),
        **VAES[kind],
    }


def _prediction_type(path: Path, kind: Kind, header: Mapping[str, TensorInfo], unet: Part) -> PredictionType:
    """Return what the UNet predicts: as a key says, else as diffusers takes the kind.

    Source: diffusers `loaders/single_file_utils.py`, `_legacy_load_scheduler`: 2.x predicts the velocity, unless it has
    the training steps of the one that does not. UNets for inpainting predict noise.
    """
    if "v_pred" in header:
        return "v_prediction"
    if kind != "sd2" or unet.shape("input_blocks.0.0.weight", 4)[1] == 9:
        return "epsilon"
    return "epsilon" if _global_step(path, header) == STEPS_OF_SD2_BASE else "v_prediction"


def _global_step(path: Path, header: Mapping[str, TensorInfo]) -> int | None:
    """Return for how many steps a file was trained, if it says so in a number."""
    info = header.get("global_step")
    if info is None or info.dtype not in ("I32", "I64") or info.shape not in ((), (1,)):
        return None
    with safe_open(path, framework="numpy") as file:
        return int(np.ravel(file.get_tensor("global_step"))[0])


def unet_config(
    unet: Part, kind: Kind, predicts: PredictionType, encoders: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the config of a UNet. Raises UnusableCheckpoint, as `original_configs` does."""
    layout = _unet_layout(unet)
    in_channels, out_channels = unet.shape("input_blocks.0.0.weight", 4)[1], unet.shape("out.2.weight", 4)[0]
    if in_channels not in (out_channels, 2 * out_channels + 1):
        raise UnusableCheckpoint(
            f"{unet.path}: its UNet takes {in_channels} channels; must be {out_channels}, or {2 * out_channels + 1} "
            "for inpainting. Upscalers, editors of images and depth models are not served."
        )
    attends = [depth > 0 for depth in layout.depths]
    sample_sizes = {"sd1": 64, "sd2": 64 if predicts == "epsilon" else 96, "sdxl": 128}  # latent cells
    config = {
        "sample_size": sample_sizes[kind],
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": list(layout.widths),
        "layers_per_block": layout.layers,
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)],
        "transformer_layers_per_block": _transformer_layers(unet, layout),
        "cross_attention_dim": unet.shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "attention_head_dim": HEADS_SD1 if kind == "sd1" else [width // HEAD for width in layout.widths],
        "use_linear_projection": len(unet.shape("middle_block.1.proj_in.weight", 2, 4)) == 2,
        "upcast_attention": kind == "sd2",
    }
    if kind == "sdxl":
        added = unet.shape("label_emb.0.0.weight", 2)[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (added - encoders["text_encoder_2"]["projection_dim"]) // 6,
            "projection_class_embeddings_input_dim": added,
        }
    return config


def _unet_layout(unet: Part) -> Layout:
    """Return the levels, which the file has one after another, each but the last one ended by a downsampling."""
    levels: list[list[tuple[int, int]]] = [[]]
    for number in range(1, unet.count("input_blocks.")):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in unet:
            levels.append([])
        else:
            width = unet.shape(f"{block}.0.in_layers.2.weight", 4)[0]
            levels[-1].append((width, unet.count(f"{block}.1.transformer_blocks.")))
    layers = len(levels[0])
    wanted = len(levels) * (layers + 1)
    if (
        any(len(level) != layers or len(set(level)) != 1 for level in levels)
        or unet.count("output_blocks.") != wanted
        or any(width % HEAD for [(width, _), *_] in levels)
    ):
        raise UnusableCheckpoint(
            f"{unet.path}: its UNet is not that of the original models, with levels of equal layers whose widths are "
            f"multiples of {HEAD}; smaller ones that were distilled from them are served as diffusers folders."
        )
    widths, depths = zip(*(level[0] for level in levels), strict=True)
    return Layout(widths, depths, layers)


def _transformer_layers(unet: Part, layout: Layout) -> list[int]:
    """Return how many transformers each level's attention has; the last one's is also that of the middle."""
    middle = unet.count("middle_block.1.transformer_blocks.")
    if middle == 0 or layout.depths[-1] not in (0, middle):
        raise UnusableCheckpoint(
            f"{unet.path}: its UNet has {middle} transformers in the middle and {layout.depths[-1]} before it; smaller "
            "models that were distilled from the original ones are served as diffusers folders."
        )
    return [*(max(depth, 1) for depth in layout.depths[:-1]), middle]


def _text_config(part: Part) -> dict[str, Any]:
    """Return the config of a text encoder, in the layout of CLIP or of open_clip."""
    shapes = dict(_open_clip_sizes(part) if part.prefix in OPEN_CLIP else _clip_sizes(part))
    if shapes["vocab_size"] != TOKENS:
        raise UnusableCheckpoint(
            f"{part.path}: {part.prefix}… has {shapes['vocab_size']} tokens; CLIP's vocabulary has {TOKENS}. Convert "
            "it to a diffusers folder, which holds its own."
        )
    width = shapes["hidden_size"]
    if width % HEAD:
        raise UnusableCheckpoint(f"{part.path}: {part.prefix}… has a width of {width}; must be a multiple of {HEAD}.")
    return {
        "model_type": "clip_text_model",
        "projection_dim": width,
        **shapes,
        "num_attention_heads": width // HEAD,
        "hidden_act": "gelu" if part.prefix in OPEN_CLIP else "quick_gelu",
        "layer_norm_eps": 1e-5,
        **TOKEN_IDS,
    }


def _clip_sizes(part: Part) -> Iterator[tuple[str, int]]:
    tokens, width = part.shape("text_model.embeddings.token_embedding.weight", 2)
    yield "vocab_size", tokens
    yield "hidden_size", width
    yield "max_position_embeddings", part.shape("text_model.embeddings.position_embedding.weight", 2)[0]
    yield "intermediate_size", part.shape("text_model.encoder.layers.0.mlp.fc1.weight", 2)[0]
    yield "num_hidden_layers", part.count("text_model.encoder.layers.")


def _open_clip_sizes(part: Part) -> Iterator[tuple[str, int]]:
    tokens, width = part.shape("token_embedding.weight", 2)
    layers = part.count("transformer.resblocks.")
    yield "vocab_size", tokens
    yield "hidden_size", width
    yield "max_position_embeddings", part.shape("positional_embedding", 2)[0]
    yield "intermediate_size", part.shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    if part.prefix.startswith("conditioner"):
        yield "num_hidden_layers", layers
        yield "projection_dim", part.shape("text_projection", 2)[1]
    else:
        yield "num_hidden_layers", min(layers, LAYERS_SD2)


def _tokenizer_config(padding: str | None) -> dict[str, Any]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": padding or END,
    }
