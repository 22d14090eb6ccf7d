"""The text encoder stage: prompts in, conditioning out, and what of a prompt was not read."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from models.adapters.lora_bank import LoraBank, RowRanks
from models.adapters.resident_embeddings import ResidentEmbeddings
from models.adapters.resident_loras import ResidentLoras
from models.checkpoint.configs import read_json
from models.checkpoint.loading import load_component, parameter_bytes
from models.errors import DarkroomError
from models.families.base import Conditioning, Family, Text, TextComponents
from models.families.registry import FAMILIES
from models.parameters import PromptSyntax
from models.spec import Embedding, ImageSpec, Lora, Tokens

MAX_CACHED_CHUNKS = 256
MAX_CHUNKS = 64  # of a forward
FOLDER_WAS_READ = "its folder was last read. Try again in a few seconds"  # where there is no job yet


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """What the denoiser gets for one image."""

    rows: tuple[Conditioning, ...]  # of each row, as `Family.texts` orders them
    cut: Mapping[str, str] = field(default_factory=dict)  # field of a request -> the end of it that did not fit
    encode_s: float = 0.0  # of the whole batch
    model_digest: str = ""  # of the checkpoint


class ReadTexts(NamedTuple):
    """The texts of an image, of each row, and the ends of them that do not fit, by the fields of a request."""

    texts: tuple[Text, ...]
    cut: Mapping[str, str]


class TextEncoder:
    """The text encoders of a checkpoint with their tokenizers, and the conditioning of the latest texts.

    With `batch_invariant` a text's bits cannot depend on its neighbours.
    """

    def __init__(self, family: Family, components: TextComponents, *, batch_invariant: bool = False) -> None:
        self._family = family
        self._components = components
        self._batch_invariant = batch_invariant
        self._loras: ResidentLoras | None = None
        self._embeddings = ResidentEmbeddings()
        self._cache: OrderedDict[Text, Conditioning] = OrderedDict()
        self.asked = 0  # texts so far
        self.cached = 0  # of them, those that needed no forward

    @property
    def parameter_bytes(self) -> int:
        """What the weights take in memory."""
        return parameter_bytes(
            *(part for part in self._components.loaded.values() if isinstance(part, torch.nn.Module))
        )

    def enable_loras(self, folder: Path, max_rank: int, capacity: int) -> None:
        """Let texts name LoRAs of a folder, of up to `max_rank`; `capacity` ranks of them are kept."""
        models = {name: part for name, part in self._components.loaded.items() if isinstance(part, torch.nn.Module)}
        banks = {name: LoraBank(model, capacity) for name, model in models.items()}
        self._loras = ResidentLoras(folder, banks, lambda path: self._family.read_lora(path, banks.keys()), max_rank)

    def enable_embeddings(self, folder: Path, widths: Sequence[int], max_tokens: int) -> None:
        """Let texts name embeddings of a folder, of so many vectors of the text encoders' `widths`."""
        self._embeddings = ResidentEmbeddings(folder, widths, max_tokens)
        self._components = self._components._replace(embeddings=self._embeddings.vectors)

    def warm_up(self) -> None:
        """Run one forward, so that the first prompt does not wait for what the first forward sets up."""
        with torch.inference_mode():
            self._family.encode(self._components, [Text("")])

    def tokens(
        self, text: str, syntax: PromptSyntax = "plain", embeddings: Sequence[Embedding] = (), field: str = "prompt"
    ) -> Tokens:
        """Count the tokens of a text, which a field holds, and find what lies beyond the last one that is read.

        Raises:
            AdapterChanged, UnusableAdapter: an embedding that the text names.
        """
        self._embeddings.load(embeddings, field, since=FOLDER_WAS_READ)
        found = self._family.count_tokens(self._components, Text(text, syntax=syntax, embeddings=tuple(embeddings)))
        self._embeddings.make_room()
        return found

    @torch.inference_mode()
    def encode(self, specs: Sequence[ImageSpec]) -> list[EncodedPrompt | DarkroomError]:
        """Encode the texts of a batch of images, each text once. An image whose adapter cannot be used is an error."""
        start = time.perf_counter()
        read = [self._read(spec) for spec in specs]
        encoded = self._encode([text for each in read if not isinstance(each, DarkroomError) for text in each.texts])
        seconds = time.perf_counter() - start
        prompts = [
            each if isinstance(each, DarkroomError) else _encoded_prompt(each, encoded, seconds) for each in read
        ]
        self._embeddings.make_room()
        return prompts

    def _read(self, spec: ImageSpec) -> ReadTexts | DarkroomError:
        """Return the texts of an image, whose embeddings are loaded then, each in as many chunks as the longest one."""
        texts = self._family.texts(spec)
        try:
            for text in texts:
                self._embeddings.load(text.embeddings, "prompt" if text.words == spec.prompt else "negative_prompt")
        except DarkroomError as error:
            return error
        tokens = {text.words: self._family.count_tokens(self._components, text) for text in texts}
        chunks = min(max(each.chunks for each in tokens.values()), self._components.max_chunks)
        fields = {"prompt": spec.prompt, "negative_prompt": spec.negative_prompt}
        cut = {name: tokens[words].cut for name, words in fields.items() if words in tokens and tokens[words].cut}
        return ReadTexts(tuple(text._replace(chunks=chunks) for text in texts), cut)

    def _encode(self, texts: Sequence[Text]) -> dict[Text, Conditioning | DarkroomError]:
        """Return the conditioning of `texts`; new ones share a forward."""
        unique = list(dict.fromkeys(texts))
        found: dict[Text, Conditioning | DarkroomError] = {
            text: self._cache[text] for text in unique if text in self._cache
        }
        missing = [text for text in unique if text not in found]
        self.asked += len(unique)
        self.cached += len(found)
        for group in [[text] for text in missing] if self._batch_invariant else self._groups(missing):
            found |= self._encode_group(group)
        for text, row in found.items():
            if not isinstance(row, DarkroomError):
                self._cache[text] = row
                self._cache.move_to_end(text)
        chunks = sum(text.chunks for text in self._cache)
        while chunks > MAX_CACHED_CHUNKS:
            chunks -= self._cache.popitem(last=False)[0].chunks
        return found

    def _groups(self, texts: Sequence[Text]) -> list[list[Text]]:
        """Return texts in groups that share a forward: of so many chunks, and with room for all their LoRAs."""
        groups: list[list[Text]] = []
        for text in texts:
            if groups and self._fit([*groups[-1], text]):
                groups[-1].append(text)
            else:
                groups.append([text])
        return groups

    def _fit(self, texts: Sequence[Text]) -> bool:
        has_room = self._loras is None or self._loras.has_room(_loras_of(texts))
        return has_room and sum(text.chunks for text in texts) <= MAX_CHUNKS

    def _encode_group(self, texts: Sequence[Text]) -> dict[Text, Conditioning | DarkroomError]:
        """Return the conditioning of texts, each with its own LoRAs, in one forward."""
        if self._loras is None or not _loras_of(texts):
            return dict(zip(texts, self._family.encode(self._components, texts), strict=True))
        failed: dict[Text, DarkroomError] = {}
        held: dict[Text, Mapping[str, RowRanks]] = {}
        with ExitStack() as stack:
            for text in texts:
                try:
                    held[text] = self._loras.hold(text.loras)
                    stack.callback(self._loras.release, text.loras)
                except DarkroomError as error:
                    failed[text] = error
            for name, bank in self._loras.banks.items():
                rows = [ranks[name] for text, ranks in held.items() for _ in range(text.chunks)]
                stack.enter_context(bank.added_to(rows))
            encoded = self._family.encode(self._components, list(held)) if held else []
        return failed | dict(zip(held, encoded, strict=True))


def _encoded_prompt(
    read: ReadTexts, encoded: Mapping[Text, Conditioning | DarkroomError], seconds: float
) -> EncodedPrompt | DarkroomError:
    rows: list[Conditioning] = []
    for text in read.texts:
        row = encoded[text]
        if isinstance(row, DarkroomError):
            return row
        rows.append(row)
    return EncodedPrompt(rows=tuple(rows), cut=read.cut, encode_s=seconds)


def _loras_of(texts: Sequence[Text]) -> list[Lora]:
    return list(dict.fromkeys(lora for text in texts for lora in text.loras))


def load_text_encoder(
    folder: Path,
    family: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    batch_invariant: bool = False,
    max_prompt_chunks: int = 1,
) -> TextEncoder:
    """Load tokenizers and text encoders of a checkpoint, and nothing else of it.

    A prompt of weighted syntax is read in up to `max_prompt_chunks` chunks.

    Raises:
        UnusableCheckpoint: names the file.
    """
    known = FAMILIES[family]
    loaded = {
        name: load_component(folder, known, name, device, dtype)
        for name, component in known.components.items()
        if component.domain == "text"
    }
    components = TextComponents(loaded, read_json(folder, "model_index.json"), device, max_prompt_chunks)
    return TextEncoder(known, components, batch_invariant=batch_invariant)
