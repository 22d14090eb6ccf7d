"""How large the model of a config is at least, by arithmetic: what a checkpoint's weights must hold. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from models.checkpoint.configs import check_count, leaves, shortened
from models.errors import UnusableCheckpoint

MAX_LEVELS = 8  # of resolution, in UNet and VAE; real ones have 3 or 4
SHOWN = 3  # entries in a message


class Size(NamedTuple):
    """How large a model is."""

    tensors: int  # that have elements
    elements: int


class SizeEntries:
    """The entries of a config that size its model: whole numbers, one or several."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._config = config
        self._read = set[str]()

    def all(self, entry: str, default: int) -> list[int]:
        """Return the numbers of an entry, lists in lists as one; `default` is the library's."""
        value = self._config.get(entry)
        numbers = [default] if value is None else leaves(self._path, value)
        if not numbers or any(type(number) is not int or number < 0 for number in numbers):
            raise UnusableCheckpoint(
                f"{self._path}: {entry} = {shortened(value)} must be a whole number of 0 or more, or a list of such."
            )
        if value is not None:
            self._read.add(entry)
        return numbers

    def one(self, entry: str, default: int) -> int:
        """Return the greatest number of an entry."""
        return max(self.all(entry, default))

    def widths(self, default: int) -> list[int]:
        """Return the channels of each level."""
        widths = self.all("block_out_channels", default)
        check_count(self._path, "block_out_channels", len(widths), MAX_LEVELS)
        return widths

    def greatest(self, layers: bool) -> str:
        """Return the greatest of what was read, of layers or of widths, for a message."""
        found = [entry for entry in self._read if ("layers" in entry) == layers]
        greatest = sorted(found, key=lambda entry: -self.one(entry, 0))[:SHOWN]
        return ", ".join(f"{entry} = {str(self._config[entry])[:40]}" for entry in greatest)


def clip_text_encoder(config: SizeEntries) -> Size:
    """Without biases. Source: transformers `models/clip/modeling_clip.py`."""
    layers, width = config.one("num_hidden_layers", 12), config.one("hidden_size", 512)
    rows = config.one("vocab_size", 49408) + config.one("max_position_embeddings", 77)
    return Size(16 * layers, width * (rows + layers * (4 * width + 2 * config.one("intermediate_size", 2048))))


def unet(config: SizeEntries) -> Size:
    """A block for each layer and each of its transformers, one convolution a layer, and what stands before and after.

    Source: diffusers `models/unets/unet_2d_condition.py`.
    """
    layers, widths = config.all("layers_per_block", 2), config.widths(320)
    depth = max(config.one(f"{order}transformer_layers_per_block", 1) for order in ("", "reverse_"))
    first = widths[0]
    per_level = layers if len(layers) > 1 else layers * len(widths)
    convolutions = 9 * sum(count * width**2 for count, width in zip(per_level, widths, strict=False))
    ends = config.one("conv_in_kernel", 3) ** 2 * config.one("in_channels", 4)
    ends += config.one("conv_out_kernel", 3) ** 2 * config.one("out_channels", 4) + config.one("time_cond_proj_dim", 0)
    time = config.one("time_embedding_dim", 0) or 4 * first
    times = time * (time + config.one("projection_class_embeddings_input_dim", 0))
    texts = config.one("encoder_hid_dim", 0) * config.one("cross_attention_dim", 1280)
    return Size(8 * len(widths) * max(1, *layers) * max(depth, 1), convolutions + ends * first + times + texts)


def vae(config: SizeEntries) -> Size:
    """Two convolutions a layer, in encoder and decoder, and what stands at their ends.

    Source: diffusers `models/autoencoders/vae.py`.
    """
    layers, widths = config.one("layers_per_block", 1), config.widths(64)
    ends = widths[0] * (config.one("in_channels", 3) + config.one("out_channels", 3))
    ends += widths[-1] * config.one("latent_channels", 4)
    return Size(16 * len(widths) * layers, 18 * layers * sum(width**2 for width in widths) + 9 * ends)
