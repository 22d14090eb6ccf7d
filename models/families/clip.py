"""Texts through CLIP's tokenizer and text encoder, which Stable Diffusion and its successors have in common.

An encoder reads chunks of 75 tokens, each between a start and an end. A plain text is one chunk. One of weighted syntax
may be several: they are encoded each alone, and their hidden states are put end to end. Each vector of an embedding
takes the place of one token.

Source: "Infinite prompt length" in AUTOMATIC1111's wiki. Unlike there, a chunk does not end at a comma near its end.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from models.families.base import Text, TextComponents
from models.prompt_grammar import sections, split_at_embeddings
from models.spec import Tokens

if TYPE_CHECKING:
    from models.adapters.embedding_file import Vectors

MIN_MEAN = 0.01  # of hidden states, relative to their magnitude: to restore a smaller one would magnify them


class Vector(NamedTuple):
    """One vector of an embedding, which a token stands for."""

    sha256: str
    index: int


class Run(NamedTuple):
    """Neighbouring tokens of one weight: words, or the embedding that they name."""

    text: str
    weight: float
    sha256: str | None = None


class Token(NamedTuple):
    """A token of a text, and where it stands there: section, run, first character."""

    id: int
    weight: float
    place: tuple[int, int, int]
    vector: Vector | None = None  # that takes the place of its embedding


class Chunk(NamedTuple):
    """One row of an encoder's forward: token ids with start, end and padding."""

    ids: Sequence[int]
    mask: Sequence[int]  # 0 where it is padding
    weights: Sequence[float]  # of each id; empty: all are 1
    clip_skip: int
    vectors: Mapping[int, Vector]  # position -> what takes the place of its id's embedding


def count_tokens(text: TextComponents, tokenizer: str, prompt: Text) -> Tokens:
    """Count the tokens of `prompt` and find what lies beyond the last one that is read.

    A break fills its chunk up, and an embedding of several vectors counts as so many tokens.
    """
    reader = text.loaded[tokenizer]
    is_weighted = prompt.syntax == "weighted"
    size, most = reader.model_max_length - 2, text.max_chunks if is_weighted else 1
    chunks = read_tokens(reader, prompt, text.embeddings)
    beyond = [token for chunk in chunks[most:] for token in chunk]
    cut = _text_from(_runs(reader, prompt), beyond[0].place) if beyond else ""
    count = (len(chunks) - 1) * size + len(chunks[-1])
    return Tokens(count, most * size, cut, len(chunks) if is_weighted else 1)


def read_tokens(tokenizer: Any, text: Text, embeddings: "Mapping[str, Vectors]") -> list[list[Token]]:
    """Return the tokens of each chunk of a text, at least one chunk: a full one or a break begins another.

    An embedding of a weighted text is not split between chunks.
    """
    size = tokenizer.model_max_length - 2
    chunks: list[list[Token]] = []
    for section, runs in enumerate(_runs(tokenizer, text)):
        chunks.append([])
        for number, run in enumerate(runs):
            tokens = list(_tokens(tokenizer, run, (section, number), embeddings))
            if run.sha256 and text.syntax == "weighted" and len(chunks[-1]) + len(tokens) > size:
                chunks.append([])
            for token in tokens:
                if len(chunks[-1]) == size:
                    chunks.append([])
                chunks[-1].append(token)
    return chunks[:-1] if len(chunks) > 1 and not chunks[-1] else chunks


def read_chunks(text: TextComponents, tokenizer: str, texts: Sequence[Text]) -> list[Chunk]:
    """Return the chunks of texts, `Text.chunks` of each, one text after the other.

    Source of plain texts: diffusers `StableDiffusionPipeline.encode_prompt`.
    """
    reader = text.loaded[tokenizer]
    chunks: list[Chunk] = []
    for each in texts:
        if each.syntax == "plain" and not each.embeddings:
            words = expand_embeddings(each.words or "", reader)
            read = reader(words, padding="max_length", truncation=True)
            chunks.append(Chunk(read["input_ids"], read["attention_mask"], (), each.clip_skip, {}))
        else:
            tokens = read_tokens(reader, each, text.embeddings)[: each.chunks]
            tokens += [[]] * (each.chunks - len(tokens))
            chunks += [_framed(reader, chunk, each.clip_skip) for chunk in tokens]
    return chunks


def run_encoder(text: TextComponents, encoder: str, chunks: Sequence[Chunk], *, mask: bool, number: int = 0) -> Any:
    """Return what a text encoder makes of chunks, hidden states included.

    `encoder` is a subfolder, and `number` says which of the checkpoint's it is. With `mask`, padding is hidden where
    the encoder's config wants it so.
    """
    import torch

    model = text.loaded[encoder]
    ids = torch.tensor([chunk.ids for chunk in chunks], device=text.device)
    is_masked = mask and getattr(model.config, "use_attention_mask", False)
    attention = torch.tensor([chunk.mask for chunk in chunks], device=text.device) if is_masked else None
    has_vectors = any(chunk.vectors for chunk in chunks)
    with _vectors_in(text, model, chunks, number) if has_vectors else nullcontext():
        return model(ids, attention_mask=attention, output_hidden_states=True)


@contextmanager
def _vectors_in(text: TextComponents, model: Any, chunks: Sequence[Chunk], number: int) -> Iterator[None]:
    """Let the embeddings of chunks take the place of their tokens' as long as the context lasts.

    The matrix of the encoder's own embeddings stays as it is.
    """
    import torch

    places = [(row, position, vector) for row, chunk in enumerate(chunks) for position, vector in chunk.vectors.items()]
    rows, positions = (torch.tensor([place[k] for place in places], device=text.device) for k in (0, 1))
    found = [torch.from_numpy(text.embeddings[each.sha256][number][each.index]) for _, _, each in places]
    vectors = torch.stack(found).to(text.device)

    def replace(module: Any, arguments: Any, output: Any) -> Any:
        return output.index_put((rows, positions), vectors.to(output.dtype))

    hook = model.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def hidden_states(output: Any, chunks: Sequence[Chunk], last_layer: int) -> Any:
    """Return the hidden state of each chunk, [chunks, tokens, width]; `last_layer` counts from the end, as skips do."""
    import torch

    return torch.stack([output.hidden_states[-last_layer - each.clip_skip][k] for k, each in enumerate(chunks)])


def weighted(hidden: Any, chunks: Sequence[Chunk]) -> Any:
    """Return hidden states of chunks, [chunks, tokens, width], each token's times its weight.

    Each chunk then gets its mean back, unless that or the new one is below `MIN_MEAN`. Unlike in AUTOMATIC1111's web UI
    it is the chunk's own mean: there it is the mean of all texts that are encoded together.
    """
    import torch

    rows: list[Any] = []
    for row, chunk in zip(hidden, chunks, strict=True):
        if chunk.weights:
            scaled = row * row.new_tensor(chunk.weights)[:, None]
            means = row.mean(), scaled.mean()
            has_mean = min(map(abs, means)) > MIN_MEAN * scaled.abs().mean()
            row = scaled * (means[0] / means[1]) if has_mean else scaled
        rows.append(row)
    return torch.stack(rows)


def expand_embeddings(text: str, tokenizer: Any) -> str:
    """Return a text in which an embedding of several vectors is all its tokens: `<x>` becomes `<x> <x>_1 <x>_2`.

    Source: diffusers `TextualInversionLoaderMixin.maybe_convert_prompt`, which goes through a set: where names contain
    each other, its text differs from process to process. Here the order is that of the text.
    """
    added = tokenizer.added_tokens_encoder
    for token in dict.fromkeys(tokenizer.tokenize(text)):
        if token in added:
            vectors = (f"{token}_{k}" for k in count(1))
            text = text.replace(token, " ".join([token, *takewhile(added.__contains__, vectors)]))
    return text


def _runs(tokenizer: Any, text: Text) -> list[list[Run]]:
    """Return the runs of each section of a text."""
    digests = {embedding.name: embedding.sha256 for embedding in text.embeddings}
    return [
        [
            Run(part, weight, digests[name]) if name else Run(expand_embeddings(part, tokenizer), weight)
            for words, weight in section
            for part, name in split_at_embeddings(words, digests)
        ]
        for section in sections(text.words or "", text.syntax)
    ]


def _tokens(tokenizer: Any, run: Run, place: tuple[int, int], embeddings: "Mapping[str, Vectors]") -> Iterator[Token]:
    """Yield the tokens of a run. Those of an embedding have an id that means nothing else to an encoder."""
    if run.sha256 is None:
        read = tokenizer(run.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for token, (first, _) in zip(read["input_ids"], read["offset_mapping"], strict=True):
            yield Token(token, run.weight, (*place, first))
    else:
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        placeholder = next(token for token in count() if token not in special)
        for index in range(len(embeddings[run.sha256][0])):
            yield Token(placeholder, run.weight, (*place, 0), Vector(run.sha256, index))


def _framed(tokenizer: Any, tokens: Sequence[Token], clip_skip: int) -> Chunk:
    """Return tokens with start, end and padding, as the tokenizer has them of a plain text."""
    length = tokenizer.model_max_length
    ids = [tokenizer.bos_token_id, *(token.id for token in tokens), tokenizer.eos_token_id]
    padding = length - len(ids)
    mask = [1] * len(ids) + [0] * padding
    weights = [1.0, *(token.weight for token in tokens), *[1.0] * (padding + 1)]
    is_weighted = any(weight != 1 for weight in weights)
    vectors = {position: token.vector for position, token in enumerate(tokens, 1) if token.vector}
    return Chunk(ids + [tokenizer.pad_token_id] * padding, mask, weights if is_weighted else (), clip_skip, vectors)


def _text_from(runs: Sequence[Sequence[Run]], place: tuple[int, int, int]) -> str:
    """Return the text of runs in their sections from a place on, without brackets."""
    section, number, first = place
    beginning, *others = ["".join(run.text for run in each) for each in runs[section:]]
    before = "".join(run.text for run in runs[section][:number])
    return " ".join([beginning[len(before) + first :], *others])
