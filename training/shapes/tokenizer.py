"""Build the CLIPTokenizer of the shapes model: byte-level BPE whose merges are learnt from our captions.

All 256 byte symbols are in the vocabulary, bare and with the end-of-word mark: a missing one would silently become
`<|endoftext|>` and cut the prompt.
"""

from collections import Counter
from itertools import pairwise

import torch
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from training.shapes.captions import vocabulary

MAX_TOKENS = 77  # start and end included, as every CLIP has it


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Merge the commonest pair of symbols, the last in the alphabet among equals, until each word is one symbol.

    The trainer of `tokenizers` settles ties by chance, so that two runs give two vocabularies.
    """
    spelled = [(*word[:-1], word[-1] + "</w>") for word in words]
    merges = []
    while counts := Counter(pair for symbols in spelled for pair in pairwise(symbols)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        spelled = [_merged(symbols, best) for symbols in spelled]
    return merges


def _merged(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    done: list[str] = []
    for symbol in symbols:
        if done and (done[-1], symbol) == pair:
            done[-1] += symbol
        else:
            done.append(symbol)
    return tuple(done)


def new_tokenizer() -> CLIPTokenizer:
    """Return a tokenizer that reads each caption word as one token and any other text as bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(vocabulary())
    tokens = alphabet + [symbol + "</w>" for symbol in alphabet] + [a + b for a, b in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS
    )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return token ids, int32 [len(texts), MAX_TOKENS], padded and cut as the pipeline does."""
    ids = tokenizer(texts, padding="max_length", truncation=True)["input_ids"]
    return torch.tensor(ids, dtype=torch.int32)
