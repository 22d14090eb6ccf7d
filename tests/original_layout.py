"""Tiny checkpoints as a diffusers folder and as a single file in the original layout, which has the same weights.

The names are rewritten here from diffusers' to the original ones, so the conversion under test is not its own test.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from models.checkpoint.clip import END, START, vocabulary_files

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
LAYERS = 1  # of each level of the UNets
Tensors = dict[str, torch.Tensor]


def build_folder(kind: str, folder: Path) -> Path:
    """Write a tiny checkpoint of a kind (sd1, sd1_inpainting, sd2 or sdxl) as diffusers does; return its folder."""
    torch.manual_seed(5)
    index = folder.with_name(folder.name + "-tokenizer")
    parts: dict[str, Any] = {"unet": _unet(kind), "vae": _vae(kind), "scheduler": _scheduler(kind)}
    parts["tokenizer"] = _tokenizer(index, "!" if kind == "sd2" else END)
    parts["text_encoder"] = CLIPTextModel(_text_config(64, 23 if kind == "sd2" else 2, kind == "sd2"))
    if kind == "sdxl":
        parts["tokenizer_2"] = _tokenizer(index, "!")
        parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(128, 2, True, projection_dim=192))
        StableDiffusionXLPipeline(**parts, add_watermarker=False).save_pretrained(folder)
    else:
        pipeline = StableDiffusionInpaintPipeline if kind == "sd1_inpainting" else StableDiffusionPipeline
        missing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline(**parts, **missing).save_pretrained(folder)
    return folder


def original_tensors(kind: str, folder: Path, *, convolutions: bool = False) -> Tensors:
    """Return the tensors of a folder under their original names.

    `convolutions`: the VAE's attention is of 1 × 1 convolutions, as `ldm` has it, else linear, as others write it.
    """
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
    vae = AutoencoderKL.from_pretrained(folder / "vae").state_dict()
    text = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
    tensors = {"model.diffusion_model." + unet_name(name, kind == "sdxl"): tensor for name, tensor in unet.items()}
    tensors |= {"first_stage_model." + name: tensor for name, tensor in original_vae(vae, convolutions).items()}
    if kind == "sd2":
        last = {
            re.sub(r"layers\.\d+", "layers.23", name): torch.full_like(tensor, 9)
            for name, tensor in text.items()
            if "layers.0." in name
        }
        tensors |= open_clip("cond_stage_model.model.", text | last)
        tensors["cond_stage_model.model.text_projection"] = torch.zeros(64, 64)
        tensors["cond_stage_model.model.logit_scale"] = torch.ones(())
    elif kind == "sdxl":
        second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").state_dict()
        second = {name.removeprefix("text_model."): tensor for name, tensor in second.items()}
        tensors |= {"conditioner.embedders.0.transformer.text_model." + name: tensor for name, tensor in text.items()}
        tensors |= open_clip("conditioner.embedders.1.model.", second)
    else:
        tensors |= {"cond_stage_model.transformer.text_model." + name: tensor for name, tensor in text.items()}
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def write_file(path: Path, tensors: Tensors, dtype: torch.dtype = torch.float32) -> Path:
    """Write a single file, with what training leaves in it besides; return it."""
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    stored["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    save_file(stored, path)
    return path


def original_vae(tensors: Tensors, convolutions: bool) -> Tensors:
    """Return a VAE's tensors under their original names."""
    levels = 1 + max(int(name.split(".")[2]) for name in tensors if ".up_blocks." in name)
    renamed = {_vae_name(name, levels): tensor for name, tensor in tensors.items()}
    for name, tensor in renamed.items():
        if convolutions and re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            renamed[name] = tensor[:, :, None, None]
    return renamed


def _renamed(name: str, rules: dict[str, str | Callable[[re.Match[str]], str]]) -> str:
    for pattern, new in rules.items():
        name = re.sub(pattern, new, name)
    return name


def unet_name(name: str, attends_last: bool, layers: int = LAYERS) -> str:
    """Return the original name of a UNet's tensor. `attends_last`: the last level has attention, as XL's has."""

    def upsampler(match: re.Match[str]) -> str:
        level = int(match[1])
        number = 2 if level or attends_last else 1  # after a residual block, and after attention where there is one
        return f"output_blocks.{level * (layers + 1) + layers}.{number}.conv"

    def block(kind: str) -> Callable[[re.Match[str]], str]:
        first, side = (1, "input") if kind == "down" else (0, "output")
        inner = {"resnets": 0, "attentions": 1}
        return lambda match: f"{side}_blocks.{first + int(match[1]) * (layers + 1) + int(match[3])}.{inner[match[2]]}"

    if ".resnets." in name:
        name = _renamed(
            name,
            {
                r"norm1": "in_layers.0",
                r"conv1": "in_layers.2",
                r"time_emb_proj": "emb_layers.1",
                r"norm2": "out_layers.0",
                r"conv2": "out_layers.3",
                r"conv_shortcut": "skip_connection",
            },
        )
    return _renamed(
        name,
        {
            r"^down_blocks\.(\d+)\.downsamplers\.0\.conv": lambda m: (
                f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.0.op"
            ),
            r"^up_blocks\.(\d+)\.upsamplers\.0\.conv": upsampler,
            r"^down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)": block("down"),
            r"^up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)": block("up"),
            r"^mid_block\.resnets\.0": "middle_block.0",
            r"^mid_block\.attentions\.0": "middle_block.1",
            r"^mid_block\.resnets\.1": "middle_block.2",
            r"^time_embedding\.linear_1": "time_embed.0",
            r"^time_embedding\.linear_2": "time_embed.2",
            r"^add_embedding\.linear_1": "label_emb.0.0",
            r"^add_embedding\.linear_2": "label_emb.0.2",
            r"^conv_in": "input_blocks.0.0",
            r"^conv_norm_out": "out.0",
            r"^conv_out": "out.2",
        },
    )


def _vae_name(name: str, levels: int) -> str:
    return _renamed(
        name,
        {
            r"down_blocks\.(\d+)\.resnets": r"down.\1.block",
            r"down_blocks\.(\d+)\.downsamplers\.0": r"down.\1.downsample",
            r"up_blocks\.(\d+)\.resnets": lambda match: f"up.{levels - 1 - int(match[1])}.block",
            r"up_blocks\.(\d+)\.upsamplers\.0": lambda match: f"up.{levels - 1 - int(match[1])}.upsample",
            r"mid_block\.resnets\.(\d)": lambda match: f"mid.block_{int(match[1]) + 1}",
            r"mid_block\.attentions\.0": "mid.attn_1",
            r"group_norm": "norm",
            r"to_([qkv])": r"\1",
            r"to_out\.0": "proj_out",
            r"conv_shortcut": "nin_shortcut",
            r"conv_norm_out": "norm_out",
        },
    )


def open_clip(prefix: str, tensors: Tensors) -> Tensors:
    """Return a text encoder as open_clip has it: query, key and value in one, the projection transposed."""
    renamed = {}
    for name, tensor in tensors.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            tensor = torch.cat([tensors[name.replace("q_proj", f"{each}_proj")] for each in "qkv"])
        renamed[prefix + _open_clip_name(name)] = tensor.T if name == "text_projection.weight" else tensor
    return renamed


def _open_clip_name(name: str) -> str:
    return _renamed(
        name,
        {
            r"embeddings\.position_embedding\.weight": "positional_embedding",
            r"embeddings\.token_embedding": "token_embedding",
            r"final_layer_norm": "ln_final",
            r"encoder\.layers": "transformer.resblocks",
            r"layer_norm(\d)": r"ln_\1",
            r"mlp\.fc1": "mlp.c_fc",
            r"mlp\.fc2": "mlp.c_proj",
            r"self_attn\.q_proj\.": "attn.in_proj_",
            r"self_attn": "attn",
            r"text_projection\.weight": "text_projection",
        },
    )


def _text_config(width: int, layers: int, is_open_clip: bool, **options: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        hidden_act="gelu" if is_open_clip else "quick_gelu",
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        **options,
    )


def _unet(kind: str) -> UNet2DConditionModel:
    options: dict[str, Any] = {"attention_head_dim": 8, "cross_attention_dim": 64}
    if kind == "sd1_inpainting":
        options["in_channels"] = 9
    if kind == "sd2":
        options |= {"attention_head_dim": (1, 2), "use_linear_projection": True, "upcast_attention": True}
    if kind == "sdxl":
        options |= {
            "attention_head_dim": (1, 2),
            "use_linear_projection": True,
            "cross_attention_dim": 64 + 128,
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 192 + 6 * 8,
        }
    attends_last = kind == "sdxl"  # as in the real ones: SD's last level has no attention, XL's first has none
    first, last = ("", "CrossAttn") if attends_last else ("CrossAttn", "")
    unet = UNet2DConditionModel(
        sample_size={"sd2": 96, "sdxl": 128}.get(kind, 64),
        block_out_channels=(64, 128),
        layers_per_block=LAYERS,
        down_block_types=(f"{first}DownBlock2D", f"{last}DownBlock2D"),
        up_block_types=(f"{last}UpBlock2D", f"{first}UpBlock2D"),
        **options,
    )
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith("attn2.to_out.0"):
                module.weight.mul_(12)  # so that an error of a text encoder shows in the image
    return unet


def _vae(kind: str) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.13025 if kind == "sdxl" else 0.18215,
        force_upcast=kind == "sdxl",
    )


def _scheduler(kind: str) -> Any:
    if kind == "sd2":
        options = {"clip_sample": False, "set_alpha_to_one": False, "prediction_type": "v_prediction"}
        return DDIMScheduler(**NOISE, **options)
    if kind == "sdxl":
        return EulerDiscreteScheduler(**NOISE, timestep_spacing="leading")
    return PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False)


def _tokenizer(folder: Path, padding: str) -> CLIPTokenizer:
    folder.mkdir(exist_ok=True)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    for name, content in {**vocabulary_files(), "tokenizer_config.json": json.dumps(config)}.items():
        (folder / name).write_text(content, encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)
