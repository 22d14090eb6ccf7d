"""Texts through CLIP's tokenizer and text encoder, which Stable Diffusion and its successors have in common."""

from collections.abc import Sequence
from itertools import count, takewhile
from typing import Any

from models.families.base import Text, TextComponents
from models.spec import Tokens


def count_tokens(tokenizer: Any, text: str) -> Tokens:
    """Count the tokens of `text` and find what lies beyond the last one that is read.

    An embedding of several vectors counts as so many tokens.
    """
    limit = tokenizer.model_max_length - 2
    text = expand_embeddings(text, tokenizer)
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = read["offset_mapping"]
    cut = text[offsets[limit][0] :] if len(offsets) > limit else ""
    return Tokens(len(offsets), limit, cut)


def run_encoder(text: TextComponents, tokenizer: str, encoder: str, texts: Sequence[Text], *, mask: bool) -> Any:
    """Return what a text encoder makes of texts, hidden states included; each padded to the full length.

    `tokenizer` and `encoder` are subfolders. With `mask`, padding is hidden where the encoder's config wants it so.
    Source: diffusers `StableDiffusionPipeline.encode_prompt`.
    """
    reader, model = text.loaded[tokenizer], text.loaded[encoder]
    expanded = [expand_embeddings(each.words or "", reader) for each in texts]
    read = reader(expanded, padding="max_length", truncation=True, return_tensors="pt").to(text.device)
    is_masked = mask and getattr(model.config, "use_attention_mask", False)
    return model(read.input_ids, attention_mask=read.attention_mask if is_masked else None, output_hidden_states=True)


def hidden_states(output: Any, texts: Sequence[Text], last_layer: int) -> Any:
    """Return the hidden state of each text, [texts, tokens, width]; `last_layer` counts from the end, as skips do."""
    import torch

    return torch.stack([output.hidden_states[-last_layer - each.clip_skip][k] for k, each in enumerate(texts)])


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
