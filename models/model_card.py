"""What a model allows and prefers, and the files beside it that requests may name. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, TypeVar

from models.errors import InvalidRequest
from models.families.registry import FAMILIES
from models.hires import Hires, check_scale, check_shape, hires_size, of_pass
from models.near_names import near_names
from models.parameters import MAX_SIDE, MAX_STEPS_BY_SAMPLER
from models.spec import Embedding, ImageSpec, Lora
from models.validation import MAX_VALUE

SHOWN_NAMES = 8
MAX_QUOTED = 100  # characters of a name in a message
LatentRgb = tuple[tuple[float, ...], ...]  # [channels + 1, 3]: a cell's latents to its colour, the last row added


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """A LoRA file beside a model, as requests may name it."""

    name: str  # of the file, without suffix
    sha256: str = ""
    tensors_sha256: str = ""  # of what follows the header: as AUTOMATIC1111 sums LoRAs up
    rank: int = 0
    components: tuple[str, ...] = ()  # that it changes
    title: str = ""  # this and what follows, as the file says
    base: str = ""
    trigger_words: tuple[str, ...] = ()
    problem: str | None = None  # why it cannot be used


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCard:
    """An embedding file beside a model, as prompts may name it."""

    name: str  # of the file, without suffix
    sha256: str = ""
    vectors: int = 0  # tokens of a prompt that it takes
    problem: str | None = None  # why it cannot be used


FileCard = TypeVar("FileCard", AdapterCard, EmbeddingCard)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a checkpoint allows and prefers."""

    id: str
    family: str
    digest: str  # SHA-256 over the files that make the pictures
    defaults: Mapping[str, Any]  # what a request that leaves a field out gets
    bounds: Mapping[str, tuple[int, int]]  # field -> least and greatest value, where narrower than the schema's
    size_multiple: int  # pixels; width and height are multiples of it
    samplers: tuple[str, ...]  # those that work with its scheduler's config
    max_tokens: int  # the prompt's own, without start and end
    embedded_guidance: bool = False  # distilled: the guidance scale is an input, in place of a second row
    member_defaults: Mapping[str, Any] = field(default_factory=dict)  # of nested objects, by path: `init.strength`
    requires: tuple[str, ...] = ()  # paths without which there is no image: a model for inpainting needs `init.mask`
    min_steps: Mapping[str, int] = field(default_factory=dict)  # sampler -> steps below which an image is not finished
    warnings: tuple[str, ...] = ()  # what of the checkpoint is not used, or not as it says
    styles: tuple[str, ...] = ()  # style presets that mean something to the model; empty: all
    notice: str = ""  # a plain word on what the model can draw
    examples: tuple[Mapping[str, Any], ...] = ()
    latent_rgb: LatentRgb = ()  # for previews; empty: there are none
    files: Mapping[str, str] = field(default_factory=dict)  # each file that is read -> its SHA-256
    aliases: tuple[str, ...] = ()  # the operator's other names for it
    text_width: int | None = None  # of the text that the denoiser attends to: a LoRA for another one is foreign
    adapters: tuple[AdapterCard, ...] | None = None  # None: there is no folder of them
    embedding_widths: tuple[int, ...] = ()  # of a token in each text encoder: embeddings of other widths are foreign
    own_words: tuple[str, ...] = ()  # in `<word>`: tokens of the checkpoint's own tokenizer
    embeddings: tuple[EmbeddingCard, ...] | None = None  # None: there is no folder of them

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call the model."""
        return (self.id, *self.aliases)

    def spec(self, **fields: Any) -> ImageSpec:
        """Return the image that `fields` describe, checked, with the size of its second pass.

        Raises:
            InvalidRequest: naming the field and the bound of this model that it breaks.
        """
        spec = ImageSpec(**fields, family=self.family, embedded_guidance=self.embedded_guidance)
        if spec.hires is not None:
            width, height = hires_size((spec.width, spec.height), spec.hires.scale, self.size_multiple)
            spec = replace(spec, hires=replace(spec.hires, width=width, height=height))
        loras = (self.find_lora(lora, f"loras[{index}].name") for index, lora in enumerate(spec.loras))
        return self.check(replace(spec, loras=tuple(loras)))

    def find_lora(self, lora: Lora, path: str) -> Lora:
        """Return a LoRA of a request with the digest of its file. Raises InvalidRequest, which names the path."""
        if self.adapters is None:
            raise InvalidRequest(f"{path}: {self.id} has no adapters: its config names no folder of them.", path)
        card = self._file(self.adapters, "LoRA", lora.name, path)
        changes_text = any(name.startswith("text_encoder") for name in card.components)
        return replace(lora, sha256=card.sha256, tensors_sha256=card.tensors_sha256, changes_text=changes_text)

    def find_embedding(self, name: str, path: str) -> Embedding:
        """Return an embedding by its name, with the digest of its file. Raises InvalidRequest, which names the path."""
        if self.embeddings is None:
            raise InvalidRequest(f"{path}: {self.id} has no embeddings: its config names no folder of them.", path)
        return Embedding(name=name, sha256=self._file(self.embeddings, "embedding", name, path).sha256)

    def _file(self, cards: Sequence[FileCard], kind: str, name: str, path: str) -> FileCard:
        """Return the card of a file that can be used. Raises InvalidRequest, with the nearest names."""
        names = [card.name for card in cards if card.problem is None]
        card = next((card for card in cards if card.name == name), None)
        if card is None:
            near = near_names(name, names) or names[:SHOWN_NAMES]
            message = f"{path}: {self.id} has no {kind} {name[:MAX_QUOTED]!r}. {_listed(near, len(names))}"
            raise InvalidRequest(message, path)
        if card.problem is not None:
            raise InvalidRequest(f"{path}: {name} {card.problem}", path)
        return card

    def warnings_for(self, spec: ImageSpec) -> tuple[str, ...]:
        """Return the warnings of an allowed image, before it is generated."""
        found = []
        least = self.min_steps.get(spec.sampler, 1)
        steps_of = {"num_inference_steps": spec.num_inference_steps}
        if spec.hires is not None:
            steps_of["hires.steps"] = spec.hires.steps
        for name, steps in steps_of.items():
            if steps < least:
                found.append(f"{name}: {spec.sampler} needs {least} or more with this model; {steps} leave noise.")
        if spec.guidance_rescale and not spec.guided:
            scale = f"{spec.guidance_scale:g}"
            found.append(f"guidance_rescale has no effect at guidance_scale {scale}; set guidance_scale above 1.")
        return tuple(found)

    def check(self, spec: ImageSpec) -> ImageSpec:
        """Return `spec` as it is.

        Raises:
            InvalidRequest: naming the field and the bound of this model that it breaks.
        """
        for name in self.bounded_fields:
            if problem := self.problem(name, getattr(spec, name), spec.sampler):
                raise problem
        self._check_init(spec)
        if spec.hires is not None:
            self._check_hires(spec, spec.hires)
        return spec

    @property
    def bounded_fields(self) -> tuple[str, ...]:
        """The fields of an image whose values the model bounds."""
        return tuple(dict.fromkeys((*self.bounds, "width", "height", "sampler", "num_inference_steps")))

    def problem(self, name: str, value: Any, sampler: str) -> InvalidRequest | None:
        """Return how the value of a field breaks a bound of this model, or of `sampler`; None if it does not."""
        allowed = self._allowed(name, value, sampler)
        if allowed is None:
            return None
        got = f", got {value}" if len(str(value)) < MAX_VALUE else ""
        return InvalidRequest(f"{name} must be {allowed}{got}.", name)

    def _allowed(self, name: str, value: Any, sampler: str) -> str | None:
        """Return the values that a field may have, in words; None if `value` is one."""
        least, greatest = self.bounds.get(name, (None, None))
        most = MAX_STEPS_BY_SAMPLER.get(sampler) if name == "num_inference_steps" else None
        if most is not None and value > most and (greatest is None or most < greatest):
            return f"at most {most} for {sampler}"
        if least is not None and greatest is not None and not least <= value <= greatest:
            return f"{least} for {self.id}" if least == greatest else f"from {least} to {greatest} for {self.id}"
        if name in ("width", "height") and value % self.size_multiple:
            return f"a multiple of {self.size_multiple} for {self.id}"
        choices = {"sampler": self.samplers, "style": self.styles}.get(name)
        return f"one of {', '.join(choices)} for {self.id}" if choices and value not in choices else None

    def _check_init(self, spec: ImageSpec) -> None:
        """Check that an image begins with another one where it must, and then has a step left."""
        if "init.mask" in self.requires and (spec.init is None or spec.init.mask is None):
            message = f"init.mask is required: {self.id} makes anew what a mask marks in an image, and nothing else."
            raise InvalidRequest(message, "init.mask")
        steps = spec.num_inference_steps
        if spec.init is not None and FAMILIES[spec.family].begin(spec) == steps:
            least = ceil(1000 / steps) / 1000
            message = (
                f"init.strength must be {least:g} or more: of {steps} steps {spec.init.strength:g} is less than one."
            )
            raise InvalidRequest(message, "init.strength")

    def _check_hires(self, spec: ImageSpec, hires: Hires) -> None:
        """Check that there is a second pass as a request asks for it."""
        width, height = (min(MAX_SIDE, self.bounds.get(name, (0, MAX_SIDE))[1]) for name in ("width", "height"))
        check_scale((spec.width, spec.height), hires.scale, self.size_multiple, (width, height), self.id)
        if spec.init is not None and spec.init.area == "masked":  # both passes are of one part of the input
            check_shape((spec.width, spec.height), hires.scale, self.size_multiple)
        if "init.mask" in self.requires and hires.upscaler == "latent":
            message = f"hires.upscaler must be lanczos for {self.id}, which reads pixels too; got latent."
            raise InvalidRequest(message, "hires.upscaler")
        try:
            if problem := self.problem("num_inference_steps", hires.steps, spec.sampler):
                raise problem
            self._check_init(spec.passes[1])
        except InvalidRequest as error:
            raise of_pass(1, error) from None


def _listed(names: Sequence[str], count: int) -> str:
    if not names:
        return "It has none now."
    return f"{'It has' if len(names) == count else 'Near are'} {', '.join(names)}."


def find_card(cards: Sequence[ModelCard], name: str | None) -> ModelCard | None:
    """Return the card with this id or alias, the first card if `name` is None; None if there is no such card."""
    return next((card for card in cards if name is None or name in card.names), None)
