"""The adapter files that a picture names, compared with those that are served. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gradio_ingress.controls import TEXTS
from models.model_card import ModelCard
from models.prompt_grammar import references


def with_served_files(
    found: Mapping[str, Any], values: Mapping[str, Any], card: ModelCard
) -> tuple[dict[str, Any], list[str]]:
    """Return fields in which each embedding is named as prompts name it here, and notes on files that are others here.

    `found` are fields of a request; `values` are the settings that they come from, with the digests of files. Elsewhere
    a bare word may name an embedding. It becomes `embedding:name` if the model has one of this name.
    """
    found, notes = dict(found), list(_changed(values, card))
    syntax = found.get("prompt_syntax") or card.defaults.get("prompt_syntax", "plain")
    named = {each.name for field in TEXTS for each in references(found.get(field) or "", syntax)}
    served = {each.name for each in card.embeddings or () if each.problem is None}
    for name, _ in _digests(values, "embeddings"):
        if name not in served:
            notes.append(
                f"{card.id} has no embedding “{name}”" + ("." if name in named else ": its name is plain text.")
            )
        elif name not in named:
            for field in found.keys() & {*TEXTS}:
                found[field] = _bare(name).sub(f"embedding:{name}", found[field])
    return found, notes


def _changed(values: Mapping[str, Any], card: ModelCard) -> Iterator[str]:
    """Yield a note for each file that is another one here."""
    for field, kind, files in (("loras", "LoRA", card.adapters), ("embeddings", "embedding", card.embeddings)):
        served = {file.name: file.sha256 for file in files or () if file.problem is None}
        for name, digest in _digests(values, field):
            if name in served and not served[name].startswith(digest):
                yield f"The {kind} “{name}” is another file here than the picture was made with."


def _digests(values: Mapping[str, Any], field: str) -> Iterator[tuple[str, str]]:
    """Yield name and digest of each file of a field, as far as a picture has them; a digest may be shortened."""
    files = values.get(field)
    for file in files if isinstance(files, list) else ():
        name, digest = (file.get("name"), file.get("sha256")) if isinstance(file, dict) else (None, None)
        if isinstance(name, str) and isinstance(digest, str) and name and digest:
            yield name[:200], digest


def _bare(name: str) -> re.Pattern[str]:
    """Return where a word stands that is a name, in either case, and no part of another one."""
    return re.compile(rf"(?<![\w:<]){re.escape(name)}(?![\w>]|[.+-]+\w)", re.IGNORECASE)
