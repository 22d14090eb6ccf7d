"""What becomes of a request: its job, as GET, event streams, the page and the store carry it."""

import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic.json_schema import SkipJsonSchema

from deployments.stages import Phase
from models.public_data import public_data
from models.spec import ImageSpec

Status = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """A finished picture, and its receipt."""

    index: int
    url: str  # a path from the server's root
    name: str  # in the image store
    seed: int
    spec: ImageSpec
    model_digest: str
    encode_s: float
    denoise_s: float
    decode_s: float  # with what the Vae took between passes
    batch_rows: int  # rows of its last forward
    attempts: int
    size: int = 0  # bytes
    tiled: bool = False  # decoded in tiles, as it did not fit into memory whole


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlace:
    """Where a waiting job stands: 1 is next."""

    position: int
    size: int
    eta_s: float  # until it starts
    eta_most_s: float | None = None  # where that is unsure: it may take so long
    end_eta_s: float = 0.0  # until it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the pictures of a running job are, taken together."""

    stage: Phase
    step: int
    steps: int
    eta_s: float  # until it ends
    eta_most_s: float | None = None  # where that is unsure: it may take so long
    batch_rows: int = 0
    batch_images: int = 0  # pictures of that forward, its own among them
    previews: dict[int, str] = field(default_factory=dict)  # image index -> data URL


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None  # the field of the request that caused it


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestamps:
    """Seconds since 1970."""

    created: float
    deadline: float | None = None  # then it is given up
    started: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What has become of a request. GET, event streams, the page and the store all carry this."""

    id: str
    status: Status
    specs: tuple[ImageSpec, ...]
    timestamps: Timestamps
    owner: SkipJsonSchema[str] = field(default="", repr=False)  # for us alone
    link: SkipJsonSchema[str] = field(default="", repr=False)  # a secret that lets others look; empty: there is none
    queue: QueuePlace | None = None
    progress: Progress | None = None
    images: tuple[ImageResult, ...] = ()
    error: JobError | None = None
    warnings: tuple[str, ...] = ()
    version: int = 0  # grows with each change

    @property
    def model(self) -> str:
        """The model that draws it."""
        return self.specs[0].model

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status not in ("queued", "running")

    def shown_to(self, owner: str | None, link: str = "") -> bool:
        """Whether a caller may look: one who is trusted (None), its owner, or who has its link."""
        if owner is None or owner == self.owner:
            return True
        # compare_digest takes no other text than ASCII, and links are ASCII
        return self.link != "" and link.isascii() and hmac.compare_digest(self.link, link)


def new_job(
    specs: list[ImageSpec],
    owner: str,
    now: float,
    deadline_s: float | None = None,
    warnings: tuple[str, ...] = (),
) -> Job:
    """Return a queued job with an id and a link that cannot be guessed."""
    return Job(
        id=f"job_{secrets.token_hex(16)}",
        owner=owner,
        link=secrets.token_urlsafe(16),
        status="queued",
        specs=tuple(specs),
        warnings=warnings,
        timestamps=Timestamps(created=now, deadline=None if deadline_s is None else now + deadline_s),
    )


def job_body(job: Job) -> dict[str, Any]:
    """Return what clients get to see of a job, everywhere the same."""
    return public_data(job)
