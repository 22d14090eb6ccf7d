"""The adapter files that a picture names, compared with those that are served. Pure."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from deployments.prompt_syntax import lora_names
from gradio_ingress.controls import TEXTS
from models.model_card import SHOWN_NAMES, ModelCard
from models.parameters import PromptSyntax
from models.prompt_grammar import MAX_NAME, references


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
    """Leave LoRAs that the model lacks out of `loras`; yield notes on them and on those in the prompt."""
    names = {each["name"] for each in found.get("loras") or ()}
    if syntax == "weighted":
        names |= {*lora_names(found.get("prompt") or "")}
    problems = {each.name: each.problem for each in card.adapters or ()}
    yield from _missing("LoRAs", names - problems.keys(), card)
    unusable = {name: problem for name, problem in problems.items() if name in names and problem is not None}
    for name, problem in unusable.items():
        yield f"The LoRA “{name}” cannot be used: it {problem}"
    if found.get("loras"):
        found["loras"] = [each for each in found["loras"] if each["name"] in problems.keys() - unusable.keys()]


def _name_embeddings(
    found: dict[str, Any], values: Mapping[str, Any], syntax: PromptSyntax, card: ModelCard
) -> Iterator[str]:
    """Write bare names of embeddings as prompts name them here; yield a note on those that the model lacks."""
    named = {each.name for field in TEXTS for each in references(found.get(field) or "", syntax)}
    served = {each.name for each in card.embeddings or () if each.problem is None}
    names = _digests(values, "embeddings").keys()
    if bare := names & served - named:
        words, written = _bare(bare), {name.lower(): f"embedding:{name}" for name in bare}
        for field in found.keys() & {*TEXTS}:
            found[field] = words.sub(lambda word: written[word[1].lower()] if word[1] else word[0], found[field])
    yield from _missing("embeddings", names - served, card)


def _missing(kind: str, names: Collection[str], card: ModelCard) -> Iterator[str]:
    """Yield a note on files that a model lacks, if there are any."""
    if names:
        listed = ", ".join(f"“{name[:MAX_NAME]}”" for name in sorted(names)[:SHOWN_NAMES])
        yield f"{card.id} does not have these {kind}: {listed}{' and others' * (len(names) > SHOWN_NAMES)}."


def _changed(values: Mapping[str, Any], card: ModelCard) -> Iterator[str]:
    """Yield a note for each file that is another one here."""
    loras, hashes, embeddings = (_digests(values, field) for field in ("loras", "lora_hashes", "embeddings"))
    files = [
        *(("LoRA", each, (each.sha256, each.tensors_sha256), (loras, hashes)) for each in card.adapters or ()),
        *(("embedding", each, (each.sha256,), (embeddings,)) for each in card.embeddings or ()),
    ]
    for kind, file, sums, sources in files:
        given = [digests[file.name] for digests in sources if file.name in digests]
        if file.problem is None and not all(any(each.startswith(digest) for each in sums) for digest in given):
            yield f"The {kind} “{file.name}” is another file here than the picture was made with."


def _digests(values: Mapping[str, Any], field: str) -> dict[str, str]:
    """Return the digest of each file of a field by its name, as far as a picture has them; some are shortened."""
    files = values.get(field)
    found = [file for file in files if isinstance(file, dict)] if isinstance(files, list | tuple) else []
    pairs = ((file.get("name"), file.get("sha256")) for file in found)
    return {
        name[:MAX_NAME]: digest for name, digest in pairs if isinstance(name, str) and isinstance(digest, str) and name
    }


def _bare(names: Collection[str]) -> re.Pattern[str]:
    """Return what matches a tag, or in group 1 a word that is a name, in either case, and no part of another one."""
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"<[^<>]*>|(?<![\w:.+-])({longest_first})(?!\w|[.+-]+\w)", re.IGNORECASE)
