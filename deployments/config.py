"""What `serve_config.yaml` may say under `args`, each key with its bound. Serve checks it before anything starts."""

import os
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from deployments.nested_requests import MAX_LORAS
from deployments.request_body import plain_type
from deployments.schema import GenerationRequest
from models.checkpoint.assembly import Overrides
from models.checkpoint.original_configs import PredictionType
from models.parameters import DtypeName
from models.validation import Matching

ROOT = Path(__file__).parents[1]
MAX_UPLOAD = 32 * 2**20  # bytes; `UPLOAD_TIMEOUT_S` of Serve's proxy is for two such files
LEAST_COUNTED_BYTES = 64 * 2**10  # of an input, so that bounds on bytes are bounds on numbers too
LEAST_ROWS = 2  # those of one guided picture
WITHOUT_DEFAULT = ("prompt", "model", "style", "seed", "num_images", "deadline_s")  # fields that a model has none for
ORIGIN = re.compile(r"https?://([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:\d{1,5})?")
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


HostName = Annotated[
    str, Matching(r"\*|[a-z0-9_-]+(\.[a-z0-9_-]+)*", "a host name of lower-case letters, digits, - and _, or *")
]
ANY_ORIGIN = "*"  # in `cors_origins`


def _check_origin(value: str) -> str:
    if not ORIGIN.fullmatch(value):
        raise ValueError("must be an origin in lower case, such as https://example.org or http://localhost:3000")
    return value


def _check_cors_origin(value: str) -> str:
    return value if value == ANY_ORIGIN else _check_origin(value)


Origin = Annotated[str, AfterValidator(_check_origin)]
CorsOrigin = Annotated[str, AfterValidator(_check_cors_origin)]
Sizes = Literal["exact", "nearest"]


class Settings(BaseModel):
    """Refuses unknown keys, so that a misspelt one is an error and not a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans, texts and infinity, which pydantic takes for numbers; paths and lists are lax for YAML."""
        kind = plain_type(cls.model_fields[str(info.field_name)].annotation)
        if kind in (int, float) and isinstance(value, bool | str):
            raise PydanticKnownError("int_type" if kind is int else "float_type")
        if kind in (int, float) and isinstance(value, float) and not isfinite(value):
            raise PydanticKnownError("finite_number")
        return value


class QueueConfig(Settings):
    """How much may wait and run, for how long, and how long what came of it is kept."""

    max_waiting: int = Field(
        default=256, ge=1, le=100_000, description="Pictures in line; beyond that requests get a 429."
    )
    max_backlog_s: float | None = Field(
        default=None, gt=0, description="Estimated seconds of work in line and in the making; beyond that a 429."
    )
    max_job_cost: float = Field(
        default=4000, gt=0, description="Megapixel steps of one request: width × height × steps × rows × pictures."
    )
    max_waiting_per_owner: int | None = Field(default=None, ge=1, description="Pictures in line of one owner.")
    max_running_per_owner: int | None = Field(default=None, ge=1, description="Pictures in the making of one owner.")
    deadline_s: float = Field(default=3600, gt=0, description="A job that takes longer is given up, seconds.")
    max_deadline_s: float = Field(default=86400, gt=0, description="What a request may ask for at most, seconds.")
    result_ttl_s: float = Field(default=7 * 86400, gt=0, description="How long an ended job is kept, seconds.")
    max_result_bytes: int = Field(
        default=10 * 2**30, ge=0, description="How much the pictures of ended jobs may take; the oldest go first."
    )

    @model_validator(mode="after")
    def _default_within_the_cap(self) -> "QueueConfig":
        if self.deadline_s > self.max_deadline_s:
            raise ValueError(f"deadline_s must be at most max_deadline_s ({self.max_deadline_s:g})")
        return self


class InputsConfig(Settings):
    """Uploaded images: how large one may be, how many bytes are kept, and for how long."""

    max_input_bytes: int = Field(default=20 * 2**20, ge=1, le=MAX_UPLOAD, description="Bytes of one image's file.")
    max_input_pixels: int = Field(
        default=32 * 2**20, ge=1, le=256 * 2**20, description="Pixels of one image: width x height."
    )
    input_ttl_s: float = Field(
        default=86400, gt=0, description="How long an input is kept that no job needs, after its last upload, seconds."
    )
    max_owner_bytes: int = Field(
        default=512 * 2**20,
        ge=LEAST_COUNTED_BYTES,
        description="How much the inputs of one owner may take; then a 429.",
    )
    max_total_bytes: int = Field(
        default=10 * 2**30, ge=LEAST_COUNTED_BYTES, description="How much all inputs may take; then a 507."
    )


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


def default_state_dir() -> Path:
    """Return `$XDG_STATE_HOME/darkroom`, else `~/.local/state/darkroom`."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "darkroom"


class AppConfig(Settings):
    """`args` of the application `generation`."""

    state_dir: Path | None = Field(
        default=None, description="Where pictures and jobs are kept. Default: see `default_state_dir`."
    )
    images_url: str | None = Field(
        default=None, description="Where pictures are kept, as fsspec says it. Default: a folder in `state_dir`."
    )
    database_url: str | None = Field(
        default=None, description="Where jobs are kept, as SQLAlchemy says it. Default: SQLite in `state_dir`."
    )
    api_keys_file: Path | None = Field(
        default=None, description="Who may call: see `python -m ops.keys`. Default: whoever reaches the host."
    )
    allowed_hosts: tuple[HostName, ...] = Field(
        default=(),
        description="Host names that requests may carry where there are no keys, beside IP addresses and localhost. "
        "`*`: any.",
    )
    cors_origins: tuple[CorsOrigin, ...] = Field(
        default=(),
        description="Origins of other sites whose pages may call the API from a browser. `*`: any, if there are keys.",
    )
    public_url: Origin | None = Field(
        default=None,
        description="What addresses of images begin with, if readers know the service by another name than callers. "
        "Default: scheme and `Host` of the request.",
    )
    allow_public: bool = Field(default=False, description="May other machines reach the HTTP host without keys?")
    models: tuple[str, ...] = Field(
        default=("shapes",),
        min_length=1,
        description="The applications of models, by the names that requests use. The first is the default.",
    )
    aliases: Mapping[Annotated[str, Field(min_length=1, max_length=200)], str] = Field(
        default={}, description="Other names that requests may use, each with the model that it stands for."
    )
    sizes: Sizes = Field(
        default="exact",
        description="Of OpenAI's requests. exact: a size that the model does not allow is refused; nearest: the "
        "nearest one is used, with a warning.",
    )
    queue: QueueConfig = QueueConfig()
    inputs: InputsConfig = InputsConfig()

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) < len(models):
            raise ValueError("a model is named twice")
        return models

    @model_validator(mode="after")
    def _any_origin_with_keys_alone(self) -> "AppConfig":
        if ANY_ORIGIN in self.cors_origins and self.api_keys_file is None:
            raise ValueError("cors_origins: * needs an api_keys_file: without keys any page could use the service")
        return self

    @field_validator("aliases")
    @classmethod
    def _names_of_served_models(cls, aliases: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        models = info.data.get("models", ())
        for alias, model in aliases.items():
            if model not in models:
                raise ValueError(f'must stand for one of {", ".join(models)}; "{alias}" stands for "{model}"')
            if alias in models:
                raise ValueError(f'must not have the name of a model; choose another alias than "{alias}"')
        return aliases

    @property
    def state_path(self) -> Path:
        """The folder in use, absolute."""
        return (self.state_dir or default_state_dir()).expanduser().absolute()

    @property
    def keys_path(self) -> Path | None:
        """The file of keys in use, absolute."""
        return self.api_keys_file and self.api_keys_file.expanduser().absolute()

    @property
    def images(self) -> str:
        """The folder or URL of pictures in use."""
        return self.images_url or str(self.state_path / "images")

    @property
    def database(self) -> str:
        """The URL of the database in use."""
        return self.database_url or f"sqlite:///{self.state_path / 'jobs.sqlite'}"


class UiConfig(Settings):
    """`args` of the application `ui`."""

    generation_app: str = Field(default="generation", description="The Serve application that the page is a client of.")
    api_keys_file: Path | None = Field(
        default=None, description="The same as that application's: then the page asks for a key."
    )
    allowed_hosts: tuple[HostName, ...] = Field(default=(), description="The same as that application's.")
    public_url: Origin | None = Field(default=None, description="The same as that application's, for Gradio's clients.")

    @property
    def keys_path(self) -> Path | None:
        """The file of keys in use, absolute."""
        return self.api_keys_file and self.api_keys_file.expanduser().absolute()
