"""Texts through CLIP's tokenizer and text encoder, which Stable Diffusion and its successors have in common.

An encoder reads chunks of 75 tokens, each between a start and an end. A plain text is one chunk. One of weighted syntax
may be several: they are encoded each alone, and their hidden states are put end to end.

Source: "Infinite prompt length" in AUTOMATIC1111's wiki. Unlike there, a chunk does not end at a comma near its end.
"""

from collections.abc import Sequence
from itertools import count, takewhile
from typing import Any, NamedTuple

from models.families.base import Text, TextComponents
from models.prompt_grammar import parse
from models.spec import Tokens

LEAST_MEAN = 1e-5  # of hidden states, relative to their magnitude: a layer norm without a bias leaves 1e-8


class Token(NamedTuple):
    """A token of a weighted text, and where it stands there: section, piece, first character."""

    id: int
    weight: float
    place: tuple[int, int, int]


class Chunk(NamedTuple):
    """One row of an encoder's forward: token ids with start, end and padding."""

    ids: Sequence[int]
    mask: Sequence[int]  # 0 where it is padding
    weights: Sequence[float]  # of each id; empty: all are 1
    clip_skip: int


def count_tokens(tokenizer: Any, text: Text, max_chunks: int) -> Tokens:
    """Count the tokens of `text` and find what lies beyond the last one that is read.

    A break fills its chunk up, and an embedding of several vectors counts as so many tokens.
    """
    size = tokenizer.model_max_length - 2
    if text.syntax == "plain":
        words = expand_embeddings(text.words or "", tokenizer)
        read = tokenizer(words, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = read["offset_mapping"]
        cut = words[offsets[size][0] :] if len(offsets) > size else ""
        return Tokens(len(offsets), size, cut)
    chunks = weighted_tokens(tokenizer, text.words or "")
    beyond = [token for chunk in chunks[max_chunks:] for token in chunk]
    cut = _text_from(text.words or "", tokenizer, beyond[0].place) if beyond else ""
    return Tokens((len(chunks) - 1) * size + len(chunks[-1]), max_chunks * size, cut)


def weighted_tokens(tokenizer: Any, words: str) -> list[list[Token]]:
    """Return the tokens of each chunk of a weighted text, at least one chunk: a full one or a break begins another."""
    size = tokenizer.model_max_length - 2
    chunks: list[list[Token]] = []
    for section, pieces in enumerate(parse(words)):
        chunks.append([])
        for number, (text, weight) in enumerate(pieces):
            text = expand_embeddings(text, tokenizer)
            read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            for token, (first, _) in zip(read["input_ids"], read["offset_mapping"], strict=True):
                if len(chunks[-1]) == size:
                    chunks.append([])
                chunks[-1].append(Token(token, weight, (section, number, first)))
    return chunks[:-1] if len(chunks) > 1 and not chunks[-1] else chunks


def read_chunks(tokenizer: Any, texts: Sequence[Text]) -> list[Chunk]:
    """Return the chunks of texts, `Text.chunks` of each, one text after the other.

    Source of plain texts: diffusers `StableDiffusionPipeline.encode_prompt`.
    """
    chunks: list[Chunk] = []
    for text in texts:
        if text.syntax == "plain":
            words = expand_embeddings(text.words or "", tokenizer)
            read = tokenizer(words, padding="max_length", truncation=True)
            chunks.append(Chunk(read["input_ids"], read["attention_mask"], (), text.clip_skip))
        else:
            tokens = weighted_tokens(tokenizer, text.words or "")[: text.chunks]
            tokens += [[]] * (text.chunks - len(tokens))
            chunks += [_framed(tokenizer, chunk, text.clip_skip) for chunk in tokens]
    return chunks


def run_encoder(text: TextComponents, encoder: str, chunks: Sequence[Chunk], *, mask: bool) -> Any:
    """Return what a text encoder makes of chunks, hidden states included.

    `encoder` is a subfolder. With `mask`, padding is hidden where the encoder's config wants it so.
    """
    import torch

    model = text.loaded[encoder]
    ids = torch.tensor([chunk.ids for chunk in chunks], device=text.device)
    is_masked = mask and getattr(model.config, "use_attention_mask", False)
    attention = torch.tensor([chunk.mask for chunk in chunks], device=text.device) if is_masked else None
    return model(ids, attention_mask=attention, output_hidden_states=True)


def hidden_states(output: Any, chunks: Sequence[Chunk], last_layer: int) -> Any:
    """Return the hidden state of each chunk, [chunks, tokens, width]; `last_layer` counts from the end, as skips do."""
    import torch

    return torch.stack([output.hidden_states[-last_layer - each.clip_skip][k] for k, each in enumerate(chunks)])


def weighted(hidden: Any, chunks: Sequence[Chunk]) -> Any:
    """Return hidden states of chunks, [chunks, tokens, width], each token's times its weight.

    Each chunk then gets its mean back, if it has one that is more than rounding. Unlike in AUTOMATIC1111's web UI that
    is its own mean: there it is the mean of all texts that are encoded together.
    """
    import torch

    rows: list[Any] = []
    for row, chunk in zip(hidden, chunks, strict=True):
        if chunk.weights:
            scaled = row * row.new_tensor(chunk.weights)[:, None]
            means = row.mean(), scaled.mean()
            has_mean = min(map(abs, means)) > LEAST_MEAN * scaled.abs().mean()
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


def _framed(tokenizer: Any, tokens: Sequence[Token], clip_skip: int) -> Chunk:
    """Return tokens with start, end and padding, as the tokenizer has them of a plain text."""
    length = tokenizer.model_max_length
    ids = [tokenizer.bos_token_id, *(token.id for token in tokens), tokenizer.eos_token_id]
    padding = length - len(ids)
    mask = [1] * len(ids) + [0] * padding
    weights = [1.0, *(token.weight for token in tokens), *[1.0] * (padding + 1)]
    is_weighted = any(weight != 1 for weight in weights)
    return Chunk(ids + [tokenizer.pad_token_id] * padding, mask, weights if is_weighted else (), clip_skip)


def _text_from(words: str, tokenizer: Any, place: tuple[int, int, int]) -> str:
    """Return the text of a weighted prompt from a place on, without brackets."""
    section, number, first = place
    beginning, *others = parse(words)[section:]
    rest = expand_embeddings(beginning[number].text, tokenizer)[first:]
    rest += "".join(piece.text for piece in beginning[number + 1 :])
    return " ".join([rest, *("".join(piece.text for piece in each) for each in others)])
