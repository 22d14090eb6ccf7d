"""Stable Diffusion 1.x and 2.x, and latent consistency models of them: one text encoder and a UNet.

Source: diffusers `pipelines/stable_diffusion/pipeline_stable_diffusion.py`, and `pipelines/latent_consistency_models`.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from packaging.version import InvalidVersion, Version

from models.checkpoint.added_tokens import added_tokens
from models.checkpoint.configs import read_entry, read_json
from models.errors import UnusableCheckpoint
from models.families.base import Batch, Conditioning, Facts, Family, Text, TextComponents
from models.families.components import TEXT_ENCODER, TOKENIZER, UNET, VAE
from models.parameters import MAX_CLIP_SKIP, MAX_SIDE
from models.prompt_grammar import is_embedding_name

if TYPE_CHECKING:
    from torch import Tensor

    from models.adapters.lora_bank import LowRank
    from models.spec import ImageSpec, Tokens

UNET_CONFIG, VAE_CONFIG = "unet/config.json", "vae/config.json"
MASKED = "masked_image"  # name of a row's conditioning: mask and masked latents, [1 + C, h, w]

Fit = tuple[str, str, Any, Any, str]  # file, entry, what it is and must be, and why


class StableDiffusion(Family):
    """One text encoder, and nothing else besides it."""

    name = "sd"
    pipelines = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "LatentConsistencyModelPipeline")
    scheduler_needs = ("set_timesteps", "step", "scale_model_input", "init_noise_sigma")
    scheduler_repairs = {  # noqa: RUF012
        "StableDiffusionPipeline": {"steps_offset": 1, "clip_sample": False},
        "StableDiffusionInpaintPipeline": {"steps_offset": 1, "skip_prk_steps": True},
    }
    components = {"tokenizer": TOKENIZER, "text_encoder": TEXT_ENCODER, "unet": UNET, "vae": VAE}  # noqa: RUF012
    text_readers: ClassVar[tuple[tuple[str, str], ...]] = (("tokenizer", "text_encoder"),)
    denoiser = "unet"

    def check(self, folder: Path, pipeline: str) -> None:
        """Check that the components fit each other. Raises UnusableCheckpoint, which names the entry that does not."""
        for file, entry, found, wanted, reason in self._fits(folder, pipeline):
            if found != wanted:
                raise UnusableCheckpoint(f"{folder / file}: {entry} is {found}, and must be {wanted}: {reason}.")
        if pipeline == "LatentConsistencyModelPipeline" and not _takes_guidance(folder):
            raise UnusableCheckpoint(
                f"{folder / UNET_CONFIG}: has no time_cond_proj_dim, so it is a StableDiffusionPipeline's."
            )

    def latent_scale(self, folder: Path) -> int:
        """Return how many pixels wide a latent cell is: the VAE halves each side at all levels but one."""
        return 2 ** (len(read_entry(folder, VAE_CONFIG, "block_out_channels", list)) - 1)

    def facts(self, folder: Path, pipeline: str) -> Facts:
        """Return what the configs say. A UNet that takes guidance as an input was distilled for few steps."""
        scale = self.latent_scale(folder)
        side = _sample_size(folder, pipeline) * scale
        if side > MAX_SIDE:
            raise UnusableCheckpoint(
                f"{folder / UNET_CONFIG}: sample_size is for images of {side} pixels; must be for {MAX_SIDE} or less."
            )
        distilled = {"num_inference_steps": 4, "guidance_scale": 8.0}
        return Facts(
            side=side,
            size_multiple=scale,
            max_tokens=read_entry(folder, "tokenizer/tokenizer_config.json", "model_max_length", int) - 2,
            text_width=read_entry(folder, UNET_CONFIG, "cross_attention_dim", int),
            embedding_widths=self._hidden_sizes(folder),
            own_words=tuple(
                token[1:-1]
                for token in added_tokens(folder, self.text_readers[0][0])
                if token.startswith("<") and token.endswith(">") and is_embedding_name(token[1:-1])
            ),
            max_clip_skip=self._max_clip_skip(folder),
            defaults=distilled if _takes_guidance(folder) else {},
            embedded_guidance=_takes_guidance(folder),
            requires=("init.mask",) if _takes_mask(read_json(folder, UNET_CONFIG)) else (),
        )

    def begin(self, spec: "ImageSpec") -> int:
        """Return the first step. The method of latent consistency models does all steps, from less noise."""
        return 0 if _is_consistency(spec) else super().begin(spec)

    def timestep_options(self, spec: "ImageSpec") -> dict[str, Any]:
        """Return the strength where it decides the timesteps.

        Source: diffusers `LatentConsistencyModelImg2ImgPipeline`. It does not inpaint: there the steps are a slice, as
        in `StableDiffusionInpaintPipeline`.
        """
        return {"strength": spec.init.strength} if _is_consistency(spec) and spec.init else {}

    def count_tokens(self, text: TextComponents, prompt: Text) -> "Tokens":
        """Return how the first tokenizer reads a prompt; the others have the same limit."""
        from models.families import clip

        return clip.count_tokens(text, self.text_readers[0][0], prompt)

    def encode(self, text: TextComponents, texts: Sequence[Text]) -> list[Conditioning]:
        """Return the last hidden state of each text that is not skipped, normalised as the last one is.

        No negative prompt is the empty one.
        """
        from models.families import clip

        [(tokenizer, encoder)] = self.text_readers
        chunks = clip.read_chunks(text, tokenizer, texts)
        output = clip.run_encoder(text, encoder, chunks, mask=True)
        hidden = text.loaded[encoder].final_layer_norm(clip.hidden_states(output, chunks, self.last_text_layer))
        rows = clip.weighted(hidden.float().cpu(), chunks).split([each.chunks for each in texts])
        return [{"encoder_hidden_states": row.flatten(0, 1).clone()} for row in rows]

    def condition(self, config: Any, spec: "ImageSpec", text: Conditioning) -> Conditioning:
        """Return the text, and the guidance scale for a UNet that was distilled to take it as an input.

        Source: Luo et al. 2023 (arXiv:2310.04378); diffusers `StableDiffusionPipeline.get_guidance_scale_embedding`.
        """
        if config.time_cond_proj_dim is None:
            return text
        import torch
        from diffusers.models.embeddings import get_timestep_embedding

        weight = torch.tensor([(spec.guidance_scale - 1) * 1000])
        scale = get_timestep_embedding(weight, config.time_cond_proj_dim, downscale_freq_shift=1)[0]
        return {**text, "timestep_cond": scale}

    def condition_on_image(self, config: Any, mask: "Tensor", masked: "Tensor") -> Conditioning:
        """Return mask and masked latents as the further channels of an inpainting UNet's input.

        Source: Rombach et al. 2022 (arXiv:2112.10752); diffusers `StableDiffusionInpaintPipeline`.
        """
        import torch

        return {MASKED: torch.cat([mask[None], masked])}

    def expected_shapes(
        self, config: Any, max_tokens: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a row's conditioning; every text is padded to the full length."""
        shapes: dict[str, tuple[int, ...]] = {"encoder_hidden_states": (max_tokens + 2, config.cross_attention_dim)}
        if _takes_mask(config):
            channels, *sides = latent_shape
            shapes[MASKED] = (1 + channels, *sides)
        if config.time_cond_proj_dim is not None:
            shapes["timestep_cond"] = (config.time_cond_proj_dim,)
        return shapes

    def latent_channels(self, config: Any) -> int:
        """Return the channels of the UNet's output; its input may have more."""
        return config.out_channels

    def predict(self, model: Any, batch: Batch) -> "Tensor":
        """Return the UNet's output: noise or velocity, as it was trained."""
        inputs, latents = {name: batch.stacked(name) for name in batch.conditioning[0]}, batch.latents
        if MASKED in inputs:
            import torch

            latents = torch.cat([latents, inputs.pop(MASKED)], 1)
        return model(latents, batch.timesteps, return_dict=False, **self._arguments(inputs))[0]

    def read_lora(self, path: Path, components: Collection[str], config: Any = None) -> "dict[str, dict[str, LowRank]]":
        """Return what a LoRA file adds to each module."""
        from models.adapters.lora_file import read_lora

        return read_lora(path, components, config)

    def to_vae(self, latents: "Tensor", config: Any) -> "Tensor":
        """Return what the VAE decodes."""
        return latents / config.scaling_factor

    def from_vae(self, latents: "Tensor", config: Any) -> "Tensor":
        """Return what the VAE has encoded as the UNet has it."""
        return latents * config.scaling_factor

    def _max_clip_skip(self, folder: Path) -> int:
        """Return how many layers a prompt may skip: the embeddings of its tokens are the last that can be read."""
        encoders = [f"{encoder}/config.json" for _, encoder in self.text_readers]
        layers = min(read_json(folder, file).get("num_hidden_layers", 12) for file in encoders)
        return min(layers + 1 - self.last_text_layer, MAX_CLIP_SKIP)

    def _hidden_sizes(self, folder: Path) -> tuple[int, ...]:
        """Return the width of each text encoder."""
        files = (f"{encoder}/config.json" for _, encoder in self.text_readers)
        return tuple(read_entry(folder, file, "hidden_size", int) for file in files)

    def _arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return stacked conditioning as the UNet takes it."""
        return inputs

    def _fits(self, folder: Path, pipeline: str) -> Iterator[Fit]:
        """Yield numbers of the configs that have to agree."""
        unet, vae = read_json(folder, UNET_CONFIG), read_json(folder, VAE_CONFIG)
        channels = vae.get("latent_channels", 4)
        yield UNET_CONFIG, "out_channels", unet.get("out_channels", 4), channels, "the VAE's latent_channels"
        inputs, reason = channels, "the VAE's latent_channels; a UNet for inpainting or editing images has more"
        if "Inpaint" in pipeline and _takes_mask(unet):
            inputs, reason = 2 * channels + 1, "the VAE's latent_channels twice, and a mask"
        yield UNET_CONFIG, "in_channels", unet.get("in_channels", 4), inputs, reason
        for name in ("latents_mean", "latents_std"):
            if vae.get(name) is not None:
                length = len(read_entry(folder, VAE_CONFIG, name, list))
                yield VAE_CONFIG, f"the length of {name}", length, channels, "latent_channels"
        for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
            yield UNET_CONFIG, name, unet.get(name), None, "the pipeline has nothing to feed it with"
        yield from self._fits_additions(folder)
        width, reason = sum(self._hidden_sizes(folder)), "the text encoders' hidden_size"
        yield UNET_CONFIG, "cross_attention_dim", unet.get("cross_attention_dim", 1280), width, reason
        yield from self._fits_tokens(folder)

    def _fits_additions(self, folder: Path) -> Iterator[Fit]:
        """Yield what the UNet must take besides the text."""
        found = read_json(folder, UNET_CONFIG).get("addition_embed_type")
        yield UNET_CONFIG, "addition_embed_type", found, None, "what the pipeline feeds"

    def _fits_tokens(self, folder: Path) -> Iterator[Fit]:
        """Yield how long texts may be: the same for all text encoders."""
        encoders = [f"{encoder}/config.json" for _, encoder in self.text_readers]
        longest = min(read_entry(folder, file, "max_position_embeddings", int) for file in encoders)
        for number, (tokenizer, _) in enumerate(self.text_readers):
            file = f"{tokenizer}/tokenizer_config.json"
            length = read_entry(folder, file, "model_max_length", int)
            longest = longest if number else min(longest, length)
            reason = "the same in both, and no more than max_position_embeddings"
            yield file, "model_max_length", length, longest, reason


def _is_consistency(spec: "ImageSpec") -> bool:
    """Whether an image begins with another one in the way of latent consistency models."""
    return spec.embedded_guidance and spec.sampler == "lcm" and spec.init is not None and spec.init.mask is None


def _takes_mask(config: Any) -> bool:
    """Whether a UNet of this config takes a mask and the masked latents beside the latents."""
    return config.get("in_channels", 4) == 2 * config.get("out_channels", 4) + 1


def _takes_guidance(folder: Path) -> bool:
    return read_json(folder, UNET_CONFIG).get("time_cond_proj_dim") is not None


def _sample_size(folder: Path, pipeline: str) -> int:
    """Return the side in latent cells that the UNet was trained for.

    Source: `StableDiffusionPipeline.__init__`, which takes less than 64 for a mistake of configs before 0.9.
    """
    size = read_entry(folder, UNET_CONFIG, "sample_size", int)
    written_by = read_json(folder, UNET_CONFIG).get("_diffusers_version")
    try:
        is_old = isinstance(written_by, str) and Version(Version(written_by).base_version) < Version("0.9.0.dev0")
    except InvalidVersion as error:
        raise UnusableCheckpoint(f"{folder / UNET_CONFIG}: _diffusers_version: {error}") from error
    if size < 1:
        raise UnusableCheckpoint(f"{folder / UNET_CONFIG}: sample_size must be 1 or more, got {size}.")
    mends = pipeline in ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline")
    return 64 if is_old and mends and size < 64 else size
