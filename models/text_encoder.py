"""The text encoder stage: prompts in, embeddings out, and what of a prompt was not read."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from models.loading import load_stage, parameter_bytes
from models.spec import ImageSpec

CACHED_TEXTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEmbeds:
    """What the denoiser gets for one picture. Unguided pictures have no negative."""

    prompt_embeds: Float[Tensor, "tokens width"]
    negative_prompt_embeds: Float[Tensor, "tokens width"] | None
    pooled: Float[Tensor, " pooled"] | None = None
    cut: str = ""  # the end of the prompt that did not fit
    encode_s: float = 0.0  # of the whole batch


@dataclass(frozen=True, slots=True)
class Tokens:
    """How a text is read: `count` tokens of at most `limit`, start and end not counted; `cut` is what was not read."""

    count: int
    limit: int
    cut: str


class TextEncoder:
    """A CLIP text model with its tokenizer, and the embeddings of the texts it met last."""

    def __init__(self, tokenizer: CLIPTokenizer, model: nn.Module, device: torch.device) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._device = device
        self._cache: OrderedDict[str, Float[Tensor, "tokens width"]] = OrderedDict()

    @property
    def parameter_bytes(self) -> int:
        """What the weights take in memory."""
        return parameter_bytes(self._model)

    def tokens(self, text: str) -> Tokens:
        """Count the tokens of `text` and find what lies beyond the last one that is read."""
        limit = self._tokenizer.model_max_length - 2
        read = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = read["offset_mapping"]
        cut = text[offsets[limit][0] :] if len(offsets) > limit else ""
        return Tokens(len(offsets), limit, cut)

    @torch.inference_mode()
    def encode(self, specs: Sequence[ImageSpec]) -> list[PromptEmbeds]:
        """Encode the prompts of a batch, and the negative prompts of those that are guided.

        Each text is encoded once, alone or not, as the pipeline does it: padded to the full length, last hidden state.
        Source: diffusers `StableDiffusionPipeline.encode_prompt`.
        """
        start = time.perf_counter()
        embeds = self._embed([text for spec in specs for text in self._texts(spec)])
        seconds = time.perf_counter() - start
        return [
            PromptEmbeds(
                prompt_embeds=embeds[spec.prompt],
                negative_prompt_embeds=embeds[spec.negative_prompt] if spec.guided else None,
                cut=self.tokens(spec.prompt).cut,
                encode_s=seconds,
            )
            for spec in specs
        ]

    @staticmethod
    def _texts(spec: ImageSpec) -> tuple[str, ...]:
        return (spec.prompt, spec.negative_prompt) if spec.guided else (spec.prompt,)

    def _embed(self, texts: Sequence[str]) -> dict[str, Float[Tensor, "tokens width"]]:
        """Return an embedding, float32 on the CPU, for each of `texts`; new ones share one forward."""
        unique = list(dict.fromkeys(texts))
        found = {text: self._cache[text] for text in unique if text in self._cache}
        missing = [text for text in unique if text not in found]
        if missing:
            ids = self._tokenizer(missing, padding="max_length", truncation=True, return_tensors="pt").input_ids
            hidden = self._model(ids.to(self._device))[0].float().cpu()
            found |= {text: row.clone() for text, row in zip(missing, hidden, strict=True)}
        for text in unique:
            self._cache[text] = found[text]
            self._cache.move_to_end(text)
        while len(self._cache) > CACHED_TEXTS:
            self._cache.popitem(last=False)
        return found


def load_text_encoder(folder: Path, device: torch.device) -> TextEncoder:
    """Load tokenizer and text encoder of a checkpoint, and nothing else of it.

    Raises:
        UnusableCheckpoint: names the file.
    """
    tokenizer = load_stage(CLIPTokenizer, folder / "tokenizer")
    model = load_stage(CLIPTextModel, folder / "text_encoder", weights=True)
    return TextEncoder(tokenizer, model.to(device).eval(), device)
