"""The shapes that clients see: a request, and the job that it becomes.

A field of `GenerationRequest` carries its bounds and words once; HTTP validation, OpenAPI and the page's control come
from it. What a request leaves out is not a default but open: the model's card fills it in.

A field may hold a nested object, or a list of them: a pydantic model in the request, a dataclass in `ImageSpec`, whose
members have the same names. The dataclass may have more, such as a digest.
"""

import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from pydantic import BaseModel, Field, TypeAdapter, field_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema

from deployments import styles
from deployments.nested_requests import MAX_LORAS, HiresRequest, InitRequest, LoraRequest
from deployments.prompt_syntax import check_weights, refuse_loras, split_loras
from deployments.request_body import RequestBody
from deployments.stages import Phase
from deployments.styles import StyleName
from models.errors import InvalidRequest
from models.parameters import MAX_CLIP_SKIP, MAX_SIDE, MAX_STEPS, MIN_SIDE, OutputFormat, PromptSyntax, Sampler
from models.spec import ImageSpec, Lora, ModelCard

MAX_SEED = 2**32 - 1
RANDOM_SEED = -1  # as AUTOMATIC1111's clients write it
MAX_PROMPT = 4000  # characters
MAX_IMAGES = 10  # of a request

Status = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]


def of_model(**described: Any) -> Any:
    """Return a field whose default is the model's: where it is left out or null, the card has its value."""
    extra = described.pop("json_schema_extra", {})
    return Field(None, json_schema_extra={**extra, "default_of": "model"}, **described)


class GenerationRequest(RequestBody):
    """What to draw. Only the prompt is needed; the model's card knows good values for the rest."""

    prompt: str = Field(
        min_length=1,
        max_length=MAX_PROMPT,
        description="What the picture shows.",
        examples=["a red circle on a blue background"],
    )
    negative_prompt: str | None = of_model(max_length=MAX_PROMPT, description="What the picture should not show.")
    prompt_syntax: PromptSyntax | None = of_model(
        description="How both prompts are read. With `weighted`, brackets are weights, as in (red:1.2), BREAK ends a "
        "chunk, and <lora:name:weight> names a LoRA."
    )
    style: StyleName | None = Field(None, description="A preset that adds words to the prompt.")
    model: str | None = Field(None, max_length=200, description="Which model draws. Default: the first one served.")
    width: int | None = of_model(
        ge=MIN_SIDE, le=MAX_SIDE, description="Width in pixels.", json_schema_extra={"step": 8}
    )
    height: int | None = of_model(
        ge=MIN_SIDE, le=MAX_SIDE, description="Height in pixels.", json_schema_extra={"step": 8}
    )
    num_inference_steps: int | None = of_model(
        ge=1, le=MAX_STEPS, description="Denoising steps: more is slower and finer."
    )
    guidance_scale: float | None = of_model(
        ge=0,
        le=30,
        allow_inf_nan=False,
        description="How strictly the picture follows the prompt. Up to 1 switches guidance off.",
        json_schema_extra={"step": 0.5},
    )
    guidance_rescale: float | None = of_model(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much of the contrast that guidance adds is taken back.",
        json_schema_extra={"step": 0.05},
    )
    clip_skip: int | None = of_model(
        ge=0,
        le=MAX_CLIP_SKIP,
        description="Last layers of the text encoder that the prompt skips: 0 for none, where AUTOMATIC1111 writes 1.",
    )
    sampler: Sampler | None = of_model(description="The method that removes the noise.")
    init: InitRequest | None = Field(None, description="An image to begin with.")
    hires: HiresRequest | None = Field(None, description="A second pass at a higher resolution.")
    loras: list[LoraRequest] | None = Field(
        None, max_length=MAX_LORAS, description="LoRAs to generate with, each of another name."
    )
    seed: int | None = Field(
        None,
        ge=RANDOM_SEED,
        le=MAX_SEED,
        description="Same seed, same picture. Left out, or -1: a random one.",
    )
    num_images: int = Field(
        1,
        ge=1,
        le=MAX_IMAGES,
        description="How many pictures. Picture k has seed + k.",
        json_schema_extra={"page_maximum": 4},
    )
    output_format: OutputFormat | None = of_model(description="File format. Each file carries its settings.")
    output_compression: int = Field(
        95,
        ge=0,
        le=100,
        description="Quality of a JPEG or WebP file: less is smaller. A WebP of 100 loses nothing, as PNG.",
        json_schema_extra={"page": False},
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which the job is given up.",
        json_schema_extra={"page": False},
    )

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _plain_text(cls, text: str | None) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError("must not contain the NUL character")
        return text

    @field_validator("loras")
    @classmethod
    def _each_once(cls, loras: list[LoraRequest] | None) -> list[LoraRequest] | None:
        names = [lora.name for lora in loras or ()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"must have each name once; {twice} is there {names.count(twice)} times")
        return loras

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text


class VariationRequest(GenerationRequest):
    """Another version of an image: what to draw without a word."""

    prompt: Literal[""] = ""
    init: InitRequest

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        return text


def fields_but(*others: str) -> dict[str, Any]:
    """Return the fields of a request as `create_model` takes them, but those that a dialect has in another way."""
    return {
        name: (field.annotation, field) for name, field in GenerationRequest.model_fields.items() if name not in others
    }


class Words(NamedTuple):
    """Both texts of a request as the text encoder gets them, and the LoRAs that the prompt names."""

    prompt: str
    negative_prompt: str
    syntax: PromptSyntax
    loras: tuple[Lora, ...] = ()


def words(request: GenerationRequest, card: ModelCard) -> Words:
    """Return the texts of a request with the words of a style. LoRAs are taken out of a weighted prompt.

    Raises:
        InvalidRequest: the model knows no such style; or a text has a weight or names a LoRA in a way that is not
            allowed.
    """
    syntax = request.prompt_syntax or card.defaults.get("prompt_syntax", "plain")
    prompt, negative_prompt = styled(request, card)
    if syntax == "plain":
        return Words(prompt, negative_prompt, syntax)
    refuse_loras("negative_prompt", negative_prompt)
    prompt, loras = split_loras(prompt)
    for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        check_weights(name, text)
    return Words(prompt, negative_prompt, syntax, loras)


def styled(request: GenerationRequest, card: ModelCard) -> tuple[str, str]:
    """Return prompt and negative prompt with the words of a style.

    Raises:
        InvalidRequest: the model knows no such style.
    """
    negative_prompt = request.negative_prompt
    if negative_prompt is None:
        negative_prompt = str(card.defaults.get("negative_prompt", ""))
    if request.style is None:
        return request.prompt, negative_prompt
    if problem := card.problem("style", request.style, ""):
        raise problem
    return styles.apply(request.style, request.prompt, negative_prompt)


def resolve(request: GenerationRequest, card: ModelCard) -> list[ImageSpec]:
    """Return one spec a picture, nothing left open. Picture k has seed + k.

    Raises:
        InvalidRequest: a field is beyond what the model allows, or the last seed beyond the greatest one.
    """
    sent = request.model_dump(exclude={"style", "seed", "num_images", "deadline_s"})
    chosen = dict(card.defaults)
    chosen |= {name: value for name, value in sent.items() if name in request.model_fields_set}
    chosen |= {name: _spec_value(name, chosen, card) for name in sent.keys() & chosen.keys()}
    chosen["model"] = card.id
    texts = words(request, card)
    chosen["prompt"], chosen["negative_prompt"] = texts.prompt, texts.negative_prompt
    chosen["loras"] = (*chosen.get("loras", ()), *_named_in_prompt(texts.loras, chosen.get("loras", ()), card))
    lossy = "output_compression" in request.model_fields_set and request.output_compression < 100
    if lossy and chosen["output_format"] == "png":
        raise InvalidRequest("output_compression is for jpeg and webp; png loses nothing.", "output_compression")
    seed = request.seed
    if seed is None or seed == RANDOM_SEED:
        seed = secrets.randbelow(MAX_SEED - request.num_images)
    if seed + request.num_images - 1 > MAX_SEED:
        last = MAX_SEED - request.num_images + 1
        raise InvalidRequest(f"seed must be at most {last} for {request.num_images} pictures, got {seed}.", "seed")
    return [card.spec(**chosen, seed=seed + k) for k in range(request.num_images)]


def _named_in_prompt(named: Sequence[Lora], others: Sequence[Lora], card: ModelCard) -> list[Lora]:
    """Return the LoRAs of a prompt with their digests, as far as `loras` of the request has room for them.

    Raises:
        InvalidRequest: there is no such LoRA, it is in `loras` too, or there are too many.
    """
    found = [card.find_lora(lora, "prompt") for lora in named]
    if twice := next((lora.name for lora in named if lora.name in {other.name for other in others}), None):
        raise InvalidRequest(f"prompt: {twice} is in loras too; name it in one of both.", "prompt")
    count = len(named) + len(others)
    if count > MAX_LORAS:
        raise InvalidRequest(
            f"prompt: must name {MAX_LORAS} LoRAs or fewer together with loras, got {count}.", "prompt"
        )
    return found


def nested_type(annotation: Any) -> type[BaseModel] | None:
    """Return the type of the objects that a field holds, one or a list of them; None where it holds plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := nested_type(part))), None)


def request_data(spec: ImageSpec) -> dict[str, Any]:
    """Return the fields of a request that a spec holds, as JSON data, without those that are empty.

    A style's words are in the prompt already. Members that a request does not have, such as a digest, are left out.
    """
    data = {
        name: _request_value(field.annotation, getattr(spec, name))
        for name, field in GenerationRequest.model_fields.items()
        if hasattr(spec, name)
    }
    return {name: value for name, value in data.items() if value not in (None, [])}


def _request_value(annotation: Any, value: Any) -> Any:
    kind = nested_type(annotation)
    if kind is None or value is None:
        return value
    if isinstance(value, list | tuple):
        return [_request_value(kind, each) for each in value]
    return {name: _request_value(of.annotation, getattr(value, name)) for name, of in kind.model_fields.items()}


def _spec_value(name: str, chosen: Mapping[str, Any], card: ModelCard) -> Any:
    """Return a field as a spec has it. Members of a nested object that were left out are the model's, or those of the
    field that they say."""
    value = chosen[name]
    kind = nested_type(GenerationRequest.model_fields[name].annotation)
    if kind is None:
        return value
    if isinstance(value, dict):
        value = {
            each: _default(f"{name}.{each}", kind.model_fields[each], chosen, card) if sent is None else sent
            for each, sent in value.items()
        }
    return _spec_type(name).validate_python(value)


def _default(path: str, member: FieldInfo, chosen: Mapping[str, Any], card: ModelCard) -> Any:
    extra = member.json_schema_extra if isinstance(member.json_schema_extra, dict) else {}
    return card.member_defaults.get(path, chosen.get(str(extra.get("default_of"))))


@cache
def _spec_type(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(ImageSpec)[name])


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
    owner: SkipJsonSchema[str] = ""  # for us alone
    link: SkipJsonSchema[str] = ""  # a secret: who has it may look at the job; empty: nobody has one
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
    body = asdict(job)
    for private in ("owner", "link"):
        del body[private]
    return body
