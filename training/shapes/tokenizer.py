"""Build the CLIPTokenizer of the shapes model: byte-level BPE whose merges are learnt from our captions.

All 256 byte symbols are in the vocabulary, bare and with the end-of-word mark: a missing one would silently become
`<|endoftext|>` and cut the prompt.
"""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from training.shapes.captions import vocabulary

MAX_TOKENS = 77  # start and end included, as every CLIP has it


def new_tokenizer() -> CLIPTokenizer:
    """Return a tokenizer that reads each caption word as one token and any other text as bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator([word for word in vocabulary() for _ in range(2)], trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = alphabet + [symbol + "</w>" for symbol in alphabet] + [a + b for a, b in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS
    )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return token ids, int32 [len(texts), MAX_TOKENS], padded and cut as the pipeline does."""
    ids = tokenizer(texts, padding="max_length", truncation=True)["input_ids"]
    return torch.tensor(ids, dtype=torch.int32)
