"""Read a textual inversion: the vectors that stand for a word in the embeddings of a text encoder. No torch.

Layouts: one tensor [vectors, width], which AUTOMATIC1111's web UI calls `emb_params` and diffusers by its token; and of
Stable Diffusion XL `clip_l` and `clip_g`. Files are small, so they are read whole, and their sum is of what was read.

Source: `create_embedding_from_data` in AUTOMATIC1111's `modules/textual_inversion/textual_inversion.py`; diffusers
`loaders/textual_inversion.py`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize

from models.checkpoint.configs import one_line
from models.checkpoint.guard import LFS_POINTER
from models.errors import UnusableAdapter

MAX_BYTES = 2**23  # of a file; 75 vectors of XL in float32 are 0.6 MB
XL = ("clip_l", "clip_g")  # of the first text encoder and of the second
TYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4"}

Vectors = tuple[np.ndarray, ...]  # float32 [vectors, width], one for each text encoder


class EmbeddingFile(NamedTuple):
    """A file that was read."""

    sha256: str
    vectors: Vectors


def read_embedding(path: Path) -> EmbeddingFile:
    """Return what a file holds.

    Raises:
        UnusableAdapter: it is no whole safetensors file, in another layout, or has numbers that are not finite.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UnusableAdapter(f"has more than {MAX_BYTES} bytes, and no embedding is so large.")
    return EmbeddingFile(hashlib.sha256(content).hexdigest(), _vectors(content))


def embedding_problem(vectors: Vectors, widths: Sequence[int], max_tokens: int) -> str | None:
    """Return why an embedding is not for text encoders whose tokens have `widths`; None if it is."""
    if not widths:
        return "cannot be used: the model takes no embeddings."
    found = tuple(each.shape[1] for each in vectors)
    if found != tuple(widths):
        return f"is for text encoders of width {_listed(found)}, not {_listed(widths)}."
    if len(vectors[0]) > max_tokens:
        return f"has {len(vectors[0])} vectors, and a prompt has {max_tokens} tokens."
    return None


def _vectors(content: bytes) -> Vectors:
    if content.startswith(LFS_POINTER):
        raise UnusableAdapter("is a Git LFS pointer, not the embedding: run git lfs pull.")
    try:
        tensors = dict(deserialize(content))
    except SafetensorError as error:
        raise UnusableAdapter(f"is not a safetensors file: {one_line(str(error))}") from error
    if len(tensors) == 1:
        names: Sequence[str] = list(tensors)
    elif tensors.keys() == set(XL):
        names = XL
    else:
        raise UnusableAdapter(f"has {len(tensors)} tensors; an embedding has one, or those of XL: {' and '.join(XL)}.")
    vectors = tuple(_matrix(name, tensors[name]) for name in names)
    counts = {len(each) for each in vectors}
    if len(counts) > 1:
        raise UnusableAdapter(f"has {' and '.join(str(len(each)) for each in vectors)} vectors, and must have as many.")
    return vectors


def _matrix(name: str, tensor: Mapping[str, Any]) -> np.ndarray:
    """Return a tensor as a float32 matrix; a single vector is a row of it."""
    shown, kind, shape = one_line(name), tensor["dtype"], tensor["shape"]
    if kind not in TYPES:
        raise UnusableAdapter(f"{shown} is {kind}, and must be one of {', '.join(TYPES)}.")
    if len(shape) not in (1, 2) or 0 in shape:
        raise UnusableAdapter(f"{shown} has the shape {shape}, and must have vectors and their width.")
    values = np.frombuffer(tensor["data"], TYPES[kind])
    if kind == "BF16":  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    values = values.astype(np.float32).reshape(-1, shape[-1])
    if not np.isfinite(values).all():
        raise UnusableAdapter(f"{shown} has numbers that are not finite.")
    return values


def _listed(widths: Sequence[int]) -> str:
    return " and ".join(map(str, widths))
