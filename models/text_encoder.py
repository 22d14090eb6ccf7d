"""The text encoder stage: prompts in, conditioning out, and what of a prompt was not read."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from models.checkpoint.configs import read_json
from models.checkpoint.loading import load_component, parameter_bytes
from models.families.base import Conditioning, Family, Text, TextComponents
from models.families.registry import FAMILIES
from models.spec import ImageSpec, Tokens

CACHED_TEXTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """What the denoiser gets for one image."""

    rows: tuple[Conditioning, ...]  # of each row, as `Family.texts` orders them
    cut: Mapping[str, str] = field(default_factory=dict)  # field of a request -> the end of it that did not fit
    encode_s: float = 0.0  # of the whole batch
    model_digest: str = ""  # of the checkpoint


class TextEncoder:
    """The text encoders of a checkpoint with their tokenizers, and the conditioning of the latest texts.

    With `batch_invariant` a text's bits cannot depend on its neighbours.
    """

    def __init__(self, family: Family, components: TextComponents, *, batch_invariant: bool = False) -> None:
        self._family = family
        self._components = components
        self._batch_invariant = batch_invariant
        self._cache: OrderedDict[Text, Conditioning] = OrderedDict()
        self.asked = 0  # texts so far
        self.cached = 0  # of them, those that needed no forward

    @property
    def parameter_bytes(self) -> int:
        """What the weights take in memory."""
        return parameter_bytes(
            *(part for part in self._components.loaded.values() if isinstance(part, torch.nn.Module))
        )

    def warm_up(self) -> None:
        """Run one forward, so that the first prompt does not wait for what the first forward sets up."""
        with torch.inference_mode():
            self._family.encode(self._components, [Text("")])

    def tokens(self, text: str) -> Tokens:
        """Count the tokens of a text and find what lies beyond the last one that is read."""
        return self._family.count_tokens(self._components, text)

    @torch.inference_mode()
    def encode(self, specs: Sequence[ImageSpec]) -> list[EncodedPrompt]:
        """Encode the texts of a batch of images. Each text is encoded once."""
        start = time.perf_counter()
        texts = [self._family.texts(spec) for spec in specs]
        encoded = self._encode([text for each in texts for text in each])
        seconds = time.perf_counter() - start
        return [
            EncodedPrompt(rows=tuple(encoded[text] for text in each), cut=self._cut(spec, each), encode_s=seconds)
            for spec, each in zip(specs, texts, strict=True)
        ]

    def _cut(self, spec: ImageSpec, texts: Sequence[Text]) -> dict[str, str]:
        """Return the ends of an image's texts that are not read; none of a negative prompt that is not among them."""
        read = {"prompt": spec.prompt}
        if any(text.words == spec.negative_prompt for text in texts):
            read["negative_prompt"] = spec.negative_prompt
        return {name: cut for name, text in read.items() if (cut := self.tokens(text).cut)}

    def _encode(self, texts: Sequence[Text]) -> dict[Text, Conditioning]:
        """Return the conditioning of `texts`; new ones share a forward."""
        unique = list(dict.fromkeys(texts))
        found = {text: self._cache[text] for text in unique if text in self._cache}
        missing = [text for text in unique if text not in found]
        self.asked += len(unique)
        self.cached += len(found)
        for group in [[text] for text in missing] if self._batch_invariant else [missing] if missing else []:
            found |= zip(group, self._family.encode(self._components, group), strict=True)
        for text in unique:
            self._cache[text] = found[text]
            self._cache.move_to_end(text)
        while len(self._cache) > CACHED_TEXTS:
            self._cache.popitem(last=False)
        return found


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
    known = FAMILIES[family]
    loaded = {
        name: load_component(folder, known, name, device, dtype)
        for name, component in known.components.items()
        if component.domain == "text"
    }
    components = TextComponents(loaded, read_json(folder, "model_index.json"), device)
    return TextEncoder(known, components, batch_invariant=batch_invariant)
