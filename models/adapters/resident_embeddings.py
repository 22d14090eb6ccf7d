"""The embeddings that a text encoder has read: loaded when texts name them, and kept while there is room. No torch."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.adapters.embedding_file import Vectors, embedding_problem, read_embedding
from models.errors import AdapterChanged, UnusableAdapter
from models.spec import Embedding

MAX_RESIDENT = 64  # embeddings beyond those in use; 0.6 MB each at most in XL


class ResidentEmbeddings:
    """The vectors of files in `folder`, for text encoders whose tokens have `widths`. Not thread-safe."""

    def __init__(self, folder: Path | None = None, widths: Sequence[int] = (), max_tokens: int = 0) -> None:
        """Without a folder there is none that could be loaded."""
        self._folder = folder
        self._widths = widths
        self._max_tokens = max_tokens
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()  # by digest, the latest last

    @property
    def vectors(self) -> Mapping[str, Vectors]:
        """The vectors of what is loaded, by its digest."""
        return self._vectors

    def load(self, embeddings: Sequence[Embedding], field: str, since: str = "the job was accepted") -> None:
        """Load embeddings, which stay until `make_room`. `field` of a request names them.

        Raises:
            AdapterChanged: a file is not what it was `since` its digest was taken.
            UnusableAdapter: a file cannot be used, or is not for this model.
        """
        for embedding in embeddings:
            if embedding.sha256 not in self._vectors:
                self._vectors[embedding.sha256] = self._read(embedding, field, since)
            self._vectors.move_to_end(embedding.sha256)

    def make_room(self) -> None:
        """Let go of what was used longest ago."""
        while len(self._vectors) > MAX_RESIDENT:
            self._vectors.popitem(last=False)

    def _read(self, embedding: Embedding, field: str, since: str) -> Vectors:
        name = f"{field}: {embedding.name}"
        try:
            path = self._folder and self._folder / f"{embedding.name}.safetensors"
            if path is None or not path.is_file():  # to open a pipe would wait for its writer
                raise AdapterChanged(f"{name} is gone since {since}.", field)
            found = read_embedding(path)
        except OSError as error:
            raise UnusableAdapter(f"{name} cannot be read: {error.strerror}.", field) from error
        except UnusableAdapter as error:
            raise UnusableAdapter(f"{name} {error.message}", field) from error
        if found.sha256 != embedding.sha256:
            raise AdapterChanged(f"{name} has changed since {since}.", field)
        if problem := embedding_problem(found.vectors, self._widths, self._max_tokens):
            raise UnusableAdapter(f"{name} {problem}", field)
        return found.vectors
