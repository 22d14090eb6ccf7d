"""What a model's own application may have under `args`, each key with its bound: the checkpoint and its stages."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from deployments.nested_requests import MAX_LORAS
from deployments.schema import GenerationRequest
from deployments.settings import Settings
from models.checkpoint.assembly import Overrides
from models.checkpoint.original_configs import PredictionType
from models.parameters import DtypeName

ROOT = Path(__file__).parents[1]
LEAST_ROWS = 2  # those of one guided picture
WITHOUT_DEFAULT = ("prompt", "model", "style", "seed", "num_images", "deadline_s")  # fields that a model has none for
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class TextEncoderConfig(Settings):
    """One TextEncoder replica. Batch size and wait are Serve's `@serve.batch` settings."""

    threads: int = Field(default=1, ge=1, le=256, description="CPU threads of torch.")
    max_batch_size: int = Field(default=16, ge=1, le=256, description="Prompts encoded together.")
    batch_wait_timeout_s: float = Field(
        default=0.002, ge=0, le=1, description="How long a prompt waits for company, seconds."
    )


class DenoiserConfig(Settings):
    """One Denoiser replica."""

    threads: int = Field(default=2, ge=1, le=256, description="CPU threads of torch.")
    compile: bool = Field(
        default=False, description="Compile the denoiser: minutes at start. On CPU cores it was measured slower."
    )


class DenoiserKnobs(Settings):
    """`user_config` of the deployment Denoiser: what applies while it draws, without a restart."""

    max_rows: int = Field(
        default=16, ge=LEAST_ROWS, le=256, description="Rows of one forward pass; a guided picture takes two."
    )
    preview_interval_s: float = Field(
        default=0.5, ge=0.05, le=60, description="Least time between two previews of a picture."
    )


class VaeConfig(Settings):
    """One Vae replica."""

    checkpoint: str | None = Field(
        default=None,
        description="Of a single file: the VAE in place of its own, a file or a folder with config.json.",
    )
    threads: int = Field(default=2, ge=1, le=256, description="CPU threads of torch.")
    max_batch_size: int = Field(default=4, ge=1, le=64, description="Pictures decoded together.")
    batch_wait_timeout_s: float = Field(
        default=0.002, ge=0, le=1, description="How long latents wait for company, seconds."
    )


class DefaultFields(GenerationRequest):
    """The fields of a request that a model may have defaults for."""

    prompt: str = ""

    @model_validator(mode="before")
    @classmethod
    def _refuse_fields_without_default(cls, fields: Any) -> Any:
        for name in WITHOUT_DEFAULT:
            if isinstance(fields, Mapping) and name in fields:
                raise ValueError(f"{name} can have no default")
        return fields

    @property
    def chosen(self) -> dict[str, Any]:
        """The fields that have one."""
        return self.model_dump(exclude_unset=True)


class ModelConfig(Settings):
    """`args` of a model's own application: which checkpoint is served, and on what."""

    checkpoint: str = Field(
        default="models/checkpoints/shapes",
        description="A diffusers folder, a single .safetensors file, or a hub id: owner/name@commit.",
    )
    prediction_type: PredictionType | None = Field(
        default=None,
        description="Of a single file: what its UNet predicts. Default: what the file says, see docs/checkpoints.md.",
    )
    manifest: Path | None = Field(
        default=None,
        description="SHA-256 sums that its files must have, as sha256sum writes them. Default: its SHA256SUMS, if any.",
    )
    allowed_roots: tuple[Path, ...] = Field(
        default=(),
        description="Folders that links in the checkpoint may lead to, such as a cache of weights on another disk.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA where there is one, else CPU."
    )
    dtype: DtypeName = Field(
        default="float32",
        description="What the weights are computed in; the VAE in float32 where its config says that less overflows.",
    )
    batch_invariant: bool = Field(
        default=False, description="Same bits whatever else is being drawn, for some speed. Proved at start."
    )
    defaults: DefaultFields = Field(
        default=DefaultFields.model_validate({}),
        description="What requests that leave a field out get, over the checkpoint's own defaults.",
    )
    max_prompt_chunks: int = Field(
        default=3, ge=1, le=20, description="Chunks of 75 tokens that a prompt of weighted syntax may have."
    )

    adapters: Path | None = Field(
        default=None, description="A folder of LoRA files; new ones can be used without a restart. Default: none."
    )
    max_lora_rank: int = Field(default=128, ge=1, le=1024, description="The greatest rank that a LoRA may have.")
    max_resident_loras: int = Field(
        default=4,
        ge=MAX_LORAS,
        le=256,
        description="LoRAs of that rank that a replica has room for, and more of smaller ones; memory grows with both.",
    )
    embeddings: Path | None = Field(
        default=None, description="A folder of textual inversions, watched as `adapters` is. Default: none."
    )
    postprocess: tuple[str, ...] = Field(
        default=(),
        description="The operator's own code over each image, in order: package.module:Class. See docs/postprocess.md.",
    )

    text_encoder: TextEncoderConfig = TextEncoderConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    vae: VaeConfig = VaeConfig()

    @property
    def adapters_path(self) -> Path | None:
        """The folder of LoRAs in use, absolute. A relative one is relative to the repository, as checkpoints are."""
        return self.adapters and (ROOT / self.adapters.expanduser()).absolute()

    @property
    def embeddings_path(self) -> Path | None:
        """The folder of embeddings in use, absolute, as `adapters_path` is."""
        return self.embeddings and (ROOT / self.embeddings.expanduser()).absolute()

    @property
    def lora_ranks(self) -> int:
        """Ranks of LoRAs that a replica has room for."""
        return self.max_resident_loras * self.max_lora_rank

    @property
    def overrides(self) -> Overrides:
        """What the config says of a single file."""
        return Overrides(self.vae.checkpoint, self.prediction_type)

    @field_validator("postprocess")
    @classmethod
    def _names_classes(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if not CLASS_PATH.fullmatch(entry):
                raise ValueError(f"{entry!r} must be a class as package.module:Class")
        return entries
