"""The adapter files that a picture names, compared with those that are served. Pure."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from deployments.prompt_syntax import lora_names, with_lora_names
from gradio_ingress.controls import TEXTS
from models.model_card import SHOWN_NAMES, ModelCard
from models.parameters import PromptSyntax
from models.prompt_grammar import MAX_NAME, references, with_embedding_names

LEAST_DIGITS = 8  # of a digest by which a file is found under another name


def with_served_files(
    found: Mapping[str, Any], values: Mapping[str, Any], card: ModelCard
) -> tuple[dict[str, Any], list[str]]:
    """Return fields in which adapters are named as they are here, and notes on files that are missing or others here.

    `found` are fields of a request; `values` are the settings that they come from, with the digests of files. A file
    that has another name here is known by its digest. LoRAs that the model lacks are left out of `loras`, and stay in a
    prompt. Elsewhere a bare word may name an embedding. It becomes `embedding:name` if the model has the file.
    """
    found = dict(found)
    syntax = found.get("prompt_syntax") or card.defaults.get("prompt_syntax", "plain")
    return found, [*_name_loras(found, values, syntax, card), *_name_embeddings(found, values, syntax, card)]


def _name_loras(found: dict[str, Any], values: Mapping[str, Any], syntax: PromptSyntax, card: ModelCard) -> list[str]:
    """Name LoRAs as they are here; return notes on those that have another name or are other files or missing."""
    files = {each.name: (each.sha256, each.tensors_sha256) for each in card.adapters or () if each.problem is None}
    digests = _digests(values, "loras", "lora_hashes")
    named = _named_loras(found, syntax)
    here = _names_here({name: digests[name] for name in digests.keys() & named}, files, named)
    if found.get("loras"):
        found["loras"] = [each | {"name": here.get(each["name"], each["name"])} for each in found["loras"]]
    if syntax == "weighted" and found.get("prompt"):
        found["prompt"] = with_lora_names(found["prompt"], here)
    notes = [*_renamed("LoRA", here), *_changed("LoRA", digests, files, here)]
    return [*notes, *_drop_missing_loras(found, syntax, card)]


def _named_loras(found: Mapping[str, Any], syntax: PromptSyntax) -> set[str]:
    names = {each["name"] for each in found.get("loras") or ()}
    return names | {*lora_names(found.get("prompt") or "")} if syntax == "weighted" else names


def _drop_missing_loras(found: dict[str, Any], syntax: PromptSyntax, card: ModelCard) -> Iterator[str]:
    """Leave LoRAs that the model lacks out of `loras`; yield notes on them and on those in the prompt."""
    names = _named_loras(found, syntax)
    problems = {each.name: each.problem for each in card.adapters or ()}
    yield from _missing("LoRAs", names - problems.keys(), card)
    unusable = {name: problem for name, problem in problems.items() if name in names and problem is not None}
    for name, problem in unusable.items():
        yield f"The LoRA “{name}” cannot be used: it {problem}"
    if found.get("loras"):
        found["loras"] = [each for each in found["loras"] if each["name"] in problems.keys() - unusable.keys()]


def _name_embeddings(
    found: dict[str, Any], values: Mapping[str, Any], syntax: PromptSyntax, card: ModelCard
) -> list[str]:
    """Write names of embeddings as prompts name them here; return notes as `_name_loras` does."""
    files = {each.name: (each.sha256,) for each in card.embeddings or () if each.problem is None}
    named = {each.name for field in TEXTS for each in references(found.get(field) or "", syntax)}
    digests = _digests(values, "embeddings")
    here = _names_here(digests, files, named)
    bare = {name: here.get(name, name) for name in digests.keys() - named if name in files or name in here}
    for field in found.keys() & {*TEXTS}:
        found[field] = _with_bare_names(with_embedding_names(found[field], here), bare)
    notes = [*_renamed("embedding", here), *_changed("embedding", digests, files, here)]
    return [*notes, *_missing("embeddings", digests.keys() - files.keys() - here.keys(), card)]


def _names_here(
    digests: Mapping[str, Sequence[str]], files: Mapping[str, Sequence[str]], named: Collection[str]
) -> dict[str, str]:
    """Return the name here of each file that a picture has under another one. `files` have their sums.

    No two files get one name, nor one that is `named` by the picture already.
    """
    by_sum = {digits[:LEAST_DIGITS]: name for name, sums in files.items() for digits in sums if digits}
    here, taken = dict[str, str](), {*named, *digests}
    for name, given in sorted(digests.items()):
        other = by_sum.get(given[0][:LEAST_DIGITS])
        if other is None or other in taken or _is_same(given, files.get(name, ())):
            continue
        if _is_same(given, files[other]):
            here[name] = other
            taken.add(other)
    return here


def _is_same(digests: Sequence[str], sums: Sequence[str]) -> bool:
    """Return whether all that a picture says of a file's sums, which may be shortened, is true of these."""
    return all(any(each.startswith(digest) for each in sums) for digest in digests)


def _renamed(kind: str, here: Mapping[str, str]) -> Iterator[str]:
    for name, other in here.items():
        yield f"The {kind} “{name}” has the name “{other}” here."


def _missing(kind: str, names: Collection[str], card: ModelCard) -> Iterator[str]:
    """Yield a note on files that a model lacks, if there are any."""
    if names:
        listed = ", ".join(f"“{name[:MAX_NAME]}”" for name in sorted(names)[:SHOWN_NAMES])
        yield f"{card.id} does not have these {kind}: {listed}{' and others' * (len(names) > SHOWN_NAMES)}."


def _changed(
    kind: str,
    digests: Mapping[str, Sequence[str]],
    files: Mapping[str, Sequence[str]],
    here: Collection[str],
) -> Iterator[str]:
    """Yield a note for each file that is another one here; those in `here` are served under another name."""
    for name, sums in files.items():
        if name in digests and name not in here and not _is_same(digests[name], sums):
            yield f"The {kind} “{name}” is another file here than the picture was made with."


def _digests(values: Mapping[str, Any], *fields: str) -> dict[str, list[str]]:
    """Return the digests of each file of some fields by its name, as far as a picture has them; some are shortened."""
    found: dict[str, list[str]] = {}
    for field in fields:
        files = values.get(field)
        for file in files if isinstance(files, list | tuple) else ():
            name, digest = (file.get("name"), file.get("sha256")) if isinstance(file, dict) else (None, None)
            if name and isinstance(name, str) and isinstance(digest, str):
                found.setdefault(name[:MAX_NAME], []).append(digest)
    return found


def _with_bare_names(text: str, names: Mapping[str, str]) -> str:
    """Return a text in which words that are names, in either case, become `embedding:name` with the name here.

    Tags stay as they are, and so do longer words.
    """
    if not names:
        return text
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    words = re.compile(rf"<[^<>]*>|(?<![\w:.+-])({longest_first})(?!\w|[.+-]+\w)", re.IGNORECASE)
    written = {name.lower(): f"embedding:{here}" for name, here in names.items()}
    return words.sub(lambda word: written[word[1].lower()] if word[1] else word[0], text)
