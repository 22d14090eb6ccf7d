"""What brackets and tags in a prompt mean: adapters and weights that are read, and syntax that is not. Pure."""

import re
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from deployments.nested_requests import LoraRequest
from models.errors import InvalidRequest
from models.model_card import ModelCard
from models.parameters import PromptSyntax
from models.prompt_grammar import BREAK, parse, references
from models.spec import Embedding, Lora
from models.validation import first_problem, plain

MAX_QUOTED = 60  # characters
MAX_WEIGHT = 10.0  # of a piece of text, its brackets multiplied; beyond it there is only noise
LORA = re.compile(r"<lora:[^<>]*>")
LORA_NAME = re.compile(r"(<lora:)([^<>:]*)(?=[^<>]*>)")
LORA_PARTS = re.compile(r"<lora:([^<>:]+)(?::([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)))?>")
# Linear in a prompt's length: what may repeat never overlaps with what follows it.
WEIGHTED = {  # what `weighted` reads, and how it is written
    "weights of words": re.compile(  # (a:1.2), (a:2), ((a)); neither (16:9) nor (at 10:30)
        r"\((?:embedding:)?[^():]*:\s*[0-9]{0,2}\.[0-9]+\s*\)|\((?:embedding:)?[^():]*[^():0-9\s]\s*:\s*[0-9]{1,2}\s*\)|\(\([^()]*\)\)"
    ),
    "LoRAs that a prompt names": LORA,
    "breaks between chunks": BREAK,
}
UNSUPPORTED = {  # what it means elsewhere -> how it is written
    "alternating and scheduled words": re.compile(r"\[(?:\bembedding:|[^\[\]|:])*+[|:][^\[\]]*\]"),  # [a|b], [a:b:0.5]
    "adapters of these kinds": re.compile(r"<(?:lyco|hypernet):[^<>]*>"),
}
UNSUPPORTED_IN_PROMPT = {  # there, too, AND is only a word of a negative prompt
    "several prompts in one, joined by AND,": re.compile(r"\bAND\b"),
}
TAG_FORM = "a LoRA is named as <lora:name:weight>, in lower case"
MISSPELT = {  # why it is only text, and what was meant -> how it is written; AUTOMATIC1111's tags have lower case, too
    f"is no tag that is known; {TAG_FORM}": re.compile(r"<(?!(?:lora|lyco|hypernet|embedding):)\s*\w+\s*:[^<>]*>"),
    f"is a tag that is not closed; {TAG_FORM}": re.compile(
        r"<\s*(?:lora|lyco|hypernet)\s*:[^<>]*+(?=<|\Z)", re.IGNORECASE
    ),
    "names no embedding; write embedding:name, and (embedding:name:1.2) for a weight": re.compile(
        r"(?<!\w)embedding:[(\[]+[^()\[\]]*+[)\]]*+"
    ),
}


def unread_syntax(text: str, syntax: PromptSyntax = "plain", field: str = "prompt") -> list[str]:
    """Return the first piece of each kind of syntax in a field's text that is not read, in words that quote it."""
    unsupported = UNSUPPORTED | (UNSUPPORTED_IN_PROMPT if field == "prompt" else {})
    found = [f"{piece}: {meaning} are not supported." for meaning, piece in _pieces(text, unsupported)]
    found += [f"{piece} {reason}." for reason, piece in _pieces(text, MISSPELT)]
    if syntax == "weighted":
        return found
    switchable = [
        f"{piece} is read as plain text; set prompt_syntax to weighted for {meaning}."
        for meaning, piece in _pieces(text, WEIGHTED)
    ]
    return switchable + found


def split_loras(prompt: str) -> tuple[str, tuple[Lora, ...]]:
    """Return a weighted prompt with a space for each `<lora:name:weight>`, and the LoRAs that it names.

    A tag without a weight has 1.

    Raises:
        InvalidRequest: a tag is not written so, its weight is out of bounds, or a name is there twice.
    """
    loras = [_lora(tag) for tag in LORA.findall(prompt)]
    names = [lora.name for lora in loras]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(
            f"prompt: must name each LoRA once; {twice} is there {names.count(twice)} times.", "prompt"
        )
    return LORA.sub(" ", prompt), tuple(loras)


def lora_names(prompt: str) -> list[str]:
    """Return the names of the LoRAs in a weighted prompt, in whatever way each is weighted."""
    return [tag.removesuffix(">").split(":")[1].strip() for tag in LORA.findall(prompt)]


def with_lora_names(prompt: str, names: Mapping[str, str]) -> str:
    """Return a weighted prompt whose tags have other names: old -> new."""
    return LORA_NAME.sub(lambda tag: tag[1] + names.get(tag[2].strip(), tag[2]), prompt)


def named_embeddings(field: str, text: str, syntax: PromptSyntax, card: ModelCard) -> list[Embedding]:
    """Return the embeddings that a text names, with the digests of their files.

    `<x>` names one where the model has a folder of them, unless it is a word of the checkpoint's own tokenizer.

    Raises:
        InvalidRequest: there is no such embedding, or its file cannot be used.
    """
    has_angles = card.embeddings is not None
    found = references(text, syntax)
    names = [each.name for each in found if not each.in_angles or (has_angles and each.name not in card.own_words)]
    return [card.find_embedding(name, field) for name in dict.fromkeys(names)]


def refuse_loras(field: str, text: str) -> None:
    """Raise InvalidRequest if a text names a LoRA."""
    if found := LORA.search(text):
        message = f"{field}: must not name LoRAs, as they change the whole image; move {_quoted(found[0])} to prompt."
        raise InvalidRequest(message, field)


def check_weights(field: str, text: str) -> None:
    """Raise InvalidRequest if a piece of a weighted text has a weight beyond the bounds."""
    for section in parse(text):
        for piece, weight in section:
            if not -MAX_WEIGHT <= weight <= MAX_WEIGHT:
                bounds = f"from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
                message = f"{field}: the weight of {_quoted(piece)} must be {bounds}, got {weight:g}."
                raise InvalidRequest(message, field)


def _pieces(text: str, patterns: Mapping[str, re.Pattern[str]]) -> Iterator[tuple[str, str]]:
    """Yield what each pattern that is in a text means, and the first piece that it matches, in quotes."""
    for meaning, pattern in patterns.items():
        if piece := pattern.search(text):
            yield meaning, _quoted(piece[0].strip())


def _lora(tag: str) -> Lora:
    parts = LORA_PARTS.fullmatch(tag)
    try:
        if parts is None:
            raise ValueError
        weight = float(parts[2] or 1)
    except ValueError:
        message = f"prompt: {_quoted(tag)} must be <lora:name> or <lora:name:weight>, with a number for the weight."
        raise InvalidRequest(message, "prompt") from None
    try:
        lora = LoraRequest(name=parts[1].strip(), weight=plain(weight))
    except ValidationError as error:
        raise InvalidRequest(f"prompt: {_quoted(tag)}: {first_problem(error.errors())[1]}", "prompt") from None
    return Lora(name=lora.name, weight=lora.weight)


def _quoted(text: str) -> str:
    return f"“{text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + '…'}”"
