"""The adapter files that a picture names, compared with those that are served. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gradio_ingress.controls import TEXTS
from models.model_card import ModelCard
from models.prompt_grammar import MAX_NAME, references

SHOWN_NAMES = 8


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
    names = _digests(values, "embeddings").keys()
    for name in sorted(names & served - named):
        for field in found.keys() & {*TEXTS}:
            found[field] = _bare(name).sub(f"embedding:{name}", found[field])
    if missing := sorted(names - served):
        listed = ", ".join(f"“{name}”" for name in missing[:SHOWN_NAMES])
        notes.append(f"Embeddings that {card.id} has not: {listed}{' and others' * (len(missing) > SHOWN_NAMES)}.")
    return found, notes


def _changed(values: Mapping[str, Any], card: ModelCard) -> Iterator[str]:
    """Yield a note for each file that is another one here."""
    for field, kind, files in (("loras", "LoRA", card.adapters), ("embeddings", "embedding", card.embeddings)):
        digests = _digests(values, field)
        for file in files or ():
            if file.problem is None and not file.sha256.startswith(digests.get(file.name, "")):
                yield f"The {kind} “{file.name}” is another file here than the picture was made with."


def _digests(values: Mapping[str, Any], field: str) -> dict[str, str]:
    """Return the digest of each file of a field by its name, as far as a picture has them; some are shortened."""
    files = values.get(field)
    found = [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    pairs = ((file.get("name"), file.get("sha256")) for file in found)
    return {
        name[:MAX_NAME]: digest for name, digest in pairs if isinstance(name, str) and isinstance(digest, str) and name
    }


def _bare(name: str) -> re.Pattern[str]:
    """Return where a word stands that is a name, in either case, and no part of another one."""
    return re.compile(rf"(?<![\w:<]){re.escape(name)}(?![\w>]|[.+-]+\w)", re.IGNORECASE)
