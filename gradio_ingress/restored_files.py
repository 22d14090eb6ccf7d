"""The adapter files that a picture names, compared with those that are served. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from deployments.prompt_syntax import lora_names
from gradio_ingress.controls import TEXTS
from models.model_card import ModelCard
from models.parameters import PromptSyntax
from models.prompt_grammar import references


def with_served_files(
    found: Mapping[str, Any], values: Mapping[str, Any], card: ModelCard
) -> tuple[dict[str, Any], list[str]]:
    """Return fields in which adapters are named as they are here, and notes on files that are missing or others here.

    `found` are fields of a request; `values` are the settings that they come from, with the digests of files. LoRAs
    that the model lacks are left out of `loras`, and stay in a prompt. Elsewhere a bare word may name an embedding. It
    becomes `embedding:name` if the model has one of this name.
    """
    found, notes = dict(found), list(_changed(values, card))
    syntax = found.get("prompt_syntax") or card.defaults.get("prompt_syntax", "plain")
    notes += _drop_missing_loras(found, syntax, card)
    return found, [*notes, *_name_embeddings(found, values, syntax, card)]


def _drop_missing_loras(found: dict[str, Any], syntax: PromptSyntax, card: ModelCard) -> Iterator[str]:
    """Leave LoRAs that the model lacks out of `loras`; yield a note on each of them and of those in the prompt."""
    cards = {each.name: each for each in card.adapters or ()}
    served = {name for name, each in cards.items() if each.problem is None}
    chosen = [each["name"] for each in found.get("loras") or ()]
    named = lora_names(found.get("prompt") or "") if syntax == "weighted" else []
    for name in dict.fromkeys([*chosen, *named]):
        if name not in served:
            reason = (
                f"cannot be used: it {cards[name].problem}" if name in cards else f"is not among those of {card.id}"
            )
            yield f"The LoRA “{name[:100]}” {reason.removesuffix('.')}."
    if chosen:
        found["loras"] = [each for each in found["loras"] if each["name"] in served]


def _name_embeddings(
    found: dict[str, Any], values: Mapping[str, Any], syntax: PromptSyntax, card: ModelCard
) -> Iterator[str]:
    """Write bare names of embeddings as prompts name them here; yield a note on each that the model lacks."""
    named = {each.name for field in TEXTS for each in references(found.get(field) or "", syntax)}
    served = {each.name for each in card.embeddings or () if each.problem is None}
    for name, _ in _digests(values, "embeddings"):
        if name not in served:
            yield f"{card.id} has no embedding “{name}”" + ("." if name in named else ": its name is plain text.")
        elif name not in named:
            for field in found.keys() & {*TEXTS}:
                found[field] = _bare(name).sub(f"embedding:{name}", found[field])


def _changed(values: Mapping[str, Any], card: ModelCard) -> Iterator[str]:
    """Yield a note for each file that is another one here."""
    loras = {each.name: (each.sha256, each.tensors_sha256) for each in card.adapters or () if each.problem is None}
    embeddings = {each.name: (each.sha256,) for each in card.embeddings or () if each.problem is None}
    notes = [
        f"The {kind} “{name}” is another file here than the picture was made with."
        for field, kind, served in (
            ("loras", "LoRA", loras),
            ("lora_hashes", "LoRA", loras),
            ("embeddings", "embedding", embeddings),
        )
        for name, digest in _digests(values, field)
        if name in served and not any(each.startswith(digest) for each in served[name])
    ]
    yield from dict.fromkeys(notes)


def _digests(values: Mapping[str, Any], field: str) -> Iterator[tuple[str, str]]:
    """Yield name and digest of each file of a field, as far as a picture has them; a digest may be shortened."""
    files = values.get(field)
    for file in files if isinstance(files, list | tuple) else ():
        name, digest = (file.get("name"), file.get("sha256")) if isinstance(file, dict) else (None, None)
        if isinstance(name, str) and isinstance(digest, str) and name and digest:
            yield name[:200], digest


def _bare(name: str) -> re.Pattern[str]:
    """Return where a word stands that is a name, in either case, and no part of another one."""
    return re.compile(rf"(?<![\w:<]){re.escape(name)}(?![\w>]|[.+-]+\w)", re.IGNORECASE)
