"""The text encoder stage: prompts in, embeddings out, and what of a prompt was not read."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTokenizer

from models.configs import read_json
from models.families.registry import FAMILIES
from models.loading import load, load_component, parameter_bytes
from models.spec import ImageSpec, Tokens

CACHED_TEXTS = 256
ZEROS_ENTRY = "force_zeros_for_empty_prompt"  # of the index; missing, it is the family's


class TextEmbeds(NamedTuple):
    """One text as the UNet takes it, float32 on the CPU."""

    hidden: Float[Tensor, "tokens width"]
    pooled: Float[Tensor, " pooled"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEmbeds:
    """What the denoiser gets for one picture. Unguided pictures have no negative."""

    prompt_embeds: TextEmbeds
    negative_prompt_embeds: TextEmbeds | None
    cut: str = ""  # the end of the prompt that did not fit
    encode_s: float = 0.0  # of the whole batch
    model_digest: str = ""  # of the checkpoint


class TextEncoder:
    """The text encoders of a checkpoint with their tokenizers, and the embeddings of the texts they met last.

    With `batch_invariant` a text's bits cannot depend on its neighbours.
    """

    def __init__(
        self,
        family: str,
        encoders: Sequence[tuple[CLIPTokenizer, nn.Module]],
        device: torch.device,
        *,
        empty_is_zero: bool = False,
        batch_invariant: bool = False,
    ) -> None:
        self._family = FAMILIES[family]
        self._encoders = encoders
        self._device = device
        self._empty_is_zero = empty_is_zero
        self._batch_invariant = batch_invariant
        self._cache: OrderedDict[str, TextEmbeds] = OrderedDict()
        self.asked = 0  # texts so far
        self.cached = 0  # of them, those that needed no forward

    @property
    def parameter_bytes(self) -> int:
        """What the weights take in memory."""
        return parameter_bytes(*(model for _, model in self._encoders))

    def warm_up(self) -> None:
        """Make one forward, so that the first prompt does not wait for what the first forward sets up."""
        with torch.inference_mode():
            self._forward([""])

    def tokens(self, text: str) -> Tokens:
        """Count the tokens of `text` and find what lies beyond the last one that is read.

        An embedding of several vectors counts as so many tokens.
        """
        tokenizer, _ = self._encoders[0]
        limit = tokenizer.model_max_length - 2
        text = _expanded(text, tokenizer)
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = read["offset_mapping"]
        cut = text[offsets[limit][0] :] if len(offsets) > limit else ""
        return Tokens(len(offsets), limit, cut)

    @torch.inference_mode()
    def encode(self, specs: Sequence[ImageSpec]) -> list[PromptEmbeds]:
        """Encode the prompts of a batch, and the negative prompts of those that are guided.

        Each text is encoded once, alone or not, as the pipeline does it: padded to the full length.
        Source: diffusers `StableDiffusionPipeline.encode_prompt`, and the same of `StableDiffusionXLPipeline`.
        """
        start = time.perf_counter()
        embeds = self._embed([text for spec in specs for text in self._texts(spec)])
        seconds = time.perf_counter() - start
        return [
            PromptEmbeds(
                prompt_embeds=embeds[spec.prompt],
                negative_prompt_embeds=self._negative(spec, embeds) if spec.rows == 2 else None,
                cut=self.tokens(spec.prompt).cut,
                encode_s=seconds,
            )
            for spec in specs
        ]

    @staticmethod
    def _texts(spec: ImageSpec) -> tuple[str, ...]:
        return (spec.prompt, spec.negative_prompt) if spec.rows == 2 else (spec.prompt,)

    def _negative(self, spec: ImageSpec, embeds: dict[str, TextEmbeds]) -> TextEmbeds:
        """Some checkpoints were trained with zeros for no prompt: an empty negative prompt is none."""
        hidden, pooled = embeds[spec.negative_prompt]
        if spec.negative_prompt or not self._empty_is_zero:
            return TextEmbeds(hidden, pooled)
        return TextEmbeds(torch.zeros_like(hidden), None if pooled is None else torch.zeros_like(pooled))

    def _embed(self, texts: Sequence[str]) -> dict[str, TextEmbeds]:
        """Return the embeddings of `texts`; new ones share a forward."""
        unique = list(dict.fromkeys(texts))
        found = {text: self._cache[text] for text in unique if text in self._cache}
        missing = [text for text in unique if text not in found]
        self.asked += len(unique)
        self.cached += len(found)
        for group in [[text] for text in missing] if self._batch_invariant else [missing] if missing else []:
            found |= zip(group, self._forward(group), strict=True)
        for text in unique:
            self._cache[text] = found[text]
            self._cache.move_to_end(text)
        while len(self._cache) > CACHED_TEXTS:
            self._cache.popitem(last=False)
        return found

    def _forward(self, texts: list[str]) -> list[TextEmbeds]:
        outputs = []
        for tokenizer, model in self._encoders:
            expanded = [_expanded(text, tokenizer) for text in texts]
            read = tokenizer(expanded, padding="max_length", truncation=True, return_tensors="pt").to(self._device)
            masked = self._family.masks_padding and getattr(model.config, "use_attention_mask", False)
            mask = read.attention_mask if masked else None
            outputs.append(model(read.input_ids, attention_mask=mask, output_hidden_states=True))
        hidden, pooled = self._family.embed(outputs)
        rows = hidden.float().cpu()
        if pooled is None:
            return [TextEmbeds(row.clone(), None) for row in rows]
        return [TextEmbeds(row.clone(), whole.clone()) for row, whole in zip(rows, pooled.float().cpu(), strict=True)]


def _expanded(text: str, tokenizer: CLIPTokenizer) -> str:
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


def load_text_encoder(
    folder: Path,
    family: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    batch_invariant: bool = False,
) -> TextEncoder:
    """Load tokenizers and text encoders of a checkpoint, and nothing else of it.

    Raises:
        UnusableCheckpoint: names the file.
    """
    encoders = []
    for tokenizer, encoder, encoder_class in FAMILIES[family].text_readers:
        model = load_component(getattr(transformers, encoder_class), folder, family, encoder, device, dtype)
        encoders.append((load(CLIPTokenizer, folder / tokenizer), model))
    empty_is_zero = bool(read_json(folder, "model_index.json").get(ZEROS_ENTRY, FAMILIES[family].empty_is_zero))
    return TextEncoder(family, encoders, device, empty_is_zero=empty_is_zero, batch_invariant=batch_invariant)
