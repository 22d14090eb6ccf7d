"""What the applications `generation` and `ui` may have under `args`, each key with its bound. See `model_config` too.

Serve checks it before anything starts.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from deployments.settings import Settings
from models.validation import Matching

MAX_UPLOAD = 32 * 2**20  # bytes; `UPLOAD_TIMEOUT_S` of Serve's proxy is for two such files
LEAST_COUNTED_BYTES = 64 * 2**10  # of an input, so that bounds on bytes are bounds on numbers too
ORIGIN = re.compile(r"https?://([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:\d{1,5})?")


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
