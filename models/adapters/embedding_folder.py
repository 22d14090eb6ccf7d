"""The textual inversions beside a model. No torch."""

from dataclasses import replace
from pathlib import Path

from models.adapters.card_folder import CardFolder
from models.adapters.embedding_file import embedding_problem, read_embedding
from models.errors import UnusableAdapter
from models.model_card import EmbeddingCard, ModelCard
from models.prompt_grammar import is_embedding_name

PICKLES = (".pt", ".bin")  # never opened


class EmbeddingFolder(CardFolder[EmbeddingCard]):
    """The embeddings of a folder, as far as the model of `card` can use them."""

    suffixes = (".safetensors", *PICKLES)
    kind = EmbeddingCard

    def __init__(self, folder: Path, card: ModelCard) -> None:
        super().__init__(folder)
        self._card = card

    def describe(self, path: Path) -> EmbeddingCard:
        """Return a file's card. Raises UnusableAdapter, OSError."""
        if path.suffix in PICKLES:
            raise UnusableAdapter(
                f"is a {path.suffix} file, which can run code. Convert it to .safetensors if you trust it: "
                "docs/adapters.md has the command."
            )
        file = read_embedding(path)
        return EmbeddingCard(
            name=path.stem,
            sha256=file.sha256,
            vectors=len(file.vectors[0]),
            problem=self._name_problem(path.stem)
            or embedding_problem(file.vectors, self._card.embedding_widths, self._card.max_tokens),
        )

    def _name_problem(self, name: str) -> str | None:
        if not is_embedding_name(name):
            return "must be renamed: a name has up to 100 letters, digits and _, and between them . + and -."
        if name in self._card.own_words:
            return f"must be renamed: <{name}> is a word of the checkpoint's own tokenizer."
        return None


def with_embeddings(card: ModelCard, folder: Path | None) -> ModelCard:
    """Return a card with the embeddings that its folder holds now, if there is one."""
    if folder is None:
        return card
    found = EmbeddingFolder(folder, card)
    found.scan()
    return replace(card, embeddings=found.cards)
