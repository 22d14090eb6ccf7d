"""The adapter files of a model, in words: what they add to a prompt, and which cannot be used. Pure, and HTML."""

from collections.abc import Collection, Iterable, Sequence
from html import escape

from models.model_card import ModelCard
from models.parameters import PromptSyntax
from models.prompt_grammar import escaped, names_something


def trigger_words(card: ModelCard, names: Collection[str], syntax: PromptSyntax) -> str:
    """Return a button for each word that the LoRAs of these names are used with, written for a prompt of a syntax.

    Words that would name adapters themselves are left out: a file is not to choose others.
    """
    chosen = [adapter for adapter in card.adapters or () if adapter.name in names and adapter.problem is None]
    return "".join(
        _chips(f"Words of {adapter.name}", "prompt", _texts(adapter.trigger_words, syntax)) for adapter in chosen
    )


def _texts(words: Iterable[str], syntax: PromptSyntax) -> list[tuple[str, str]]:
    return [(word, escaped(word, syntax)) for word in words if not names_something(word)]


def embeddings(card: ModelCard) -> str:
    """Return a button for each embedding of a model, once for each text that may name it."""
    names = [(each.name, f"<{each.name}>") for each in card.embeddings or () if each.problem is None]
    return _chips("Add to the prompt", "prompt", names) + _chips("Add to the negative prompt", "negative_prompt", names)


def unusable(card: ModelCard) -> list[tuple[str, str]]:
    """Return the files that cannot be used, and why."""
    files = (*(card.adapters or ()), *(card.embeddings or ()))
    return [(file.name, file.problem) for file in files if file.problem is not None]


def title(files: Sequence[tuple[str, str]]) -> str:
    """Return how many files cannot be used."""
    return f"{len(files)} file{'' if len(files) == 1 else 's'} cannot be used"


def _chips(title: str, field: str, words: Iterable[tuple[str, str]]) -> str:
    """Return a group of buttons. Each adds its text to a field of the form: see `page.js`."""
    buttons = "".join(
        f'<button type="button" class="chip" data-word="{escape(text, quote=True)}" data-field="{field}">'
        f"{escape(word)}</button>"
        for word, text in words
    )
    named = f'<p class="chips-title">{escape(title)}</p>'
    group = f'<div class="chips" role="group" aria-label="{escape(title, quote=True)}">{buttons}</div>'
    return named + group if buttons else ""
