"""From a request to the specs of its images, nothing left open; and back. Pure."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from deployments import styles
from deployments.nested_requests import MAX_LORAS
from deployments.prompt_syntax import check_weights, named_embeddings, refuse_loras, split_loras
from deployments.schema import MAX_SEED, RANDOM_SEED, GenerationRequest, nested_type
from models.errors import DarkroomError, InvalidRequest
from models.model_card import ModelCard
from models.parameters import PromptSyntax
from models.spec import Embedding, ImageSpec, Lora


class Words(NamedTuple):
    """Both texts of a request as the text encoder gets them, and the adapters that they name."""

    prompt: str
    negative_prompt: str
    syntax: PromptSyntax
    loras: tuple[Lora, ...]
    prompt_embeddings: tuple[Embedding, ...]
    negative_embeddings: tuple[Embedding, ...]

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """Those of the prompt, and then those of the negative prompt alone."""
        return tuple(dict.fromkeys((*self.prompt_embeddings, *self.negative_embeddings)))


def words(request: GenerationRequest, card: ModelCard) -> Words:
    """Return the texts of a request with the words of a style. LoRAs are taken out of a weighted prompt.

    Raises:
        InvalidRequest: the model knows no such style or embedding; or a text has a weight or names a LoRA in a way
            that is not allowed.
    """
    syntax = request.prompt_syntax or card.defaults.get("prompt_syntax", "plain")
    prompt, negative_prompt = styled(request, card)
    loras: tuple[Lora, ...] = ()
    if syntax == "weighted":
        prompt, loras = split_loras(prompt)
        if not prompt.strip():
            raise InvalidRequest("prompt: must have words besides the LoRAs that it names.", "prompt")
        check_weights("prompt", prompt)
    embeddings = named_embeddings("prompt", prompt, syntax, card)
    with default_named(request, card):
        if syntax == "weighted":
            refuse_loras("negative_prompt", negative_prompt)
            check_weights("negative_prompt", negative_prompt)
        negative_embeddings = named_embeddings("negative_prompt", negative_prompt, syntax, card)
    return Words(prompt, negative_prompt, syntax, loras, tuple(embeddings), tuple(negative_embeddings))


@contextmanager
def default_named(request: GenerationRequest, card: ModelCard) -> Iterator[None]:
    """Raise what is raised inside; of a negative prompt that the caller did not send it says that it is the model's."""
    try:
        yield
    except DarkroomError as error:
        if request.negative_prompt is not None or error.param != "negative_prompt":
            raise
        reason = error.message.removeprefix("negative_prompt: ")
        remedy = "Send a negative_prompt of your own, which may be empty."
        raise type(error)(f"The default negative prompt of {card.id}: {reason} {remedy}") from None


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
    chosen["embeddings"] = texts.embeddings
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
