"""Warnings of an accepted request, before it is generated. Pure."""

from collections.abc import Iterator
from dataclasses import replace

from deployments.prompt_syntax import unread_syntax
from deployments.schema import GenerationRequest
from models.families.registry import FAMILIES
from models.model_card import ModelCard
from models.spec import ImageSpec

TRANSPARENT = "init.input is transparent in places, which is white here."


def request_warnings(
    request: GenerationRequest, spec: ImageSpec, card: ModelCard, *, shows_white: bool = False
) -> tuple[str, ...]:
    """Return the warnings of a request that became images like `spec`, each beginning with its field.

    `shows_white`: the image that it begins with is transparent in places, and not as a mask.
    """
    found = *card.warnings_for(spec), *_unused_negative_prompt(request, spec), *_unread_syntax(request, spec)
    return (*found, TRANSPARENT) if shows_white else found


def _unused_negative_prompt(request: GenerationRequest, spec: ImageSpec) -> Iterator[str]:
    if not request.negative_prompt or _reads_negative_prompt(spec):
        return
    if _reads_negative_prompt(replace(spec, guidance_scale=spec.guidance_scale + 2)):
        yield f"negative_prompt has no effect at guidance_scale {spec.guidance_scale:g}; set guidance_scale above 1."
    else:
        yield "negative_prompt has no effect with this model."


def _reads_negative_prompt(spec: ImageSpec) -> bool:
    texts = FAMILIES[spec.family].texts
    return texts(spec) != texts(replace(spec, negative_prompt=""))


def _unread_syntax(request: GenerationRequest, spec: ImageSpec) -> Iterator[str]:
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        for words in unread_syntax(text or "", spec.prompt_syntax, name):
            yield f"{name}: {words}"
