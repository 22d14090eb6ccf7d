"""Low-rank additions to the modules of a model, each row of a forward with its own.

A bank holds the matrices of all resident LoRAs of a model in one pool of *ranks*: a rank is one column of `down` and
the row of `up` that belongs to it, in every module that any LoRA changes. A row of a forward names the ranks that it
adds, with a weight for each, so LoRAs of any rank, and several at once, are one gather and two matrix products.

Source: Hu et al. 2021 (arXiv:2106.09685); the pool, Sheng et al. 2023 (arXiv:2311.03285).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

OLD_LEVEL = "text_model."  # of modules' names: CLIP's text encoders have it in some classes of transformers
LEAST_BUCKET = 8  # ranks that the additions of a batch are filled up to, or a doubling of it


class LowRank(NamedTuple):
    """What a LoRA adds to one module's weight: up · down. Convolutions have the kernel in `down`."""

    down: Float[Tensor, "rank in_features"]
    up: Float[Tensor, "out_features rank"]


class RowRanks(NamedTuple):
    """What a row of a forward adds: so much of each of these ranks."""

    indices: Int[Tensor, " ranks"]
    weights: Float[Tensor, " ranks"]

    @classmethod
    def joined(cls, parts: Sequence["RowRanks"]) -> "RowRanks":
        """Return the additions of several LoRAs to one row."""
        if not parts:
            return NO_RANKS
        return cls(torch.cat([part.indices for part in parts]), torch.cat([part.weights for part in parts]))


NO_RANKS = RowRanks(torch.zeros(0, dtype=torch.long), torch.zeros(0))


class LoraBank:
    """The additions to one model's modules, for up to `capacity` ranks at a time.

    With `row_ranks`, every forward adds so many ranks to every row of every module that can have any, zero times those
    that it has none of: the forward's structure, and so its bits and its compiled graph, do not depend on who asks.
    """

    def __init__(self, model: nn.Module, capacity: int, *, row_ranks: int | None = None) -> None:
        self._targets = {
            name.removeprefix(OLD_LEVEL): module
            for name, module in model.named_modules()
            if isinstance(module, Changeable)
        }
        self._capacity = capacity
        self._row_ranks = row_ranks
        self._free = list(range(capacity))
        self._additions: dict[str, Addition] = {}
        self._rows = BatchRanks()
        if row_ranks is not None:
            for name in self._targets:
                self._addition(name)

    @property
    def free(self) -> int:
        """Ranks that a LoRA may still take."""
        return len(self._free)

    def problem(self, weights: Mapping[str, LowRank]) -> str | None:
        """Return why a LoRA does not fit the model; None if it does."""
        for name, (down, up) in weights.items():
            module = self._targets.get(name)
            if module is None:
                return f"the model has no {name}"
            wanted = down_features(module), module.weight.shape[0]
            if (found := (down.shape[1], up.shape[0])) != wanted:
                return f"{name} has {wanted[0]} features in and {wanted[1]} out, and the file {found[0]} and {found[1]}"
        return None

    @torch.inference_mode()
    def add(self, weights: Mapping[str, LowRank]) -> RowRanks:
        """Copy a LoRA's matrices into free ranks; return what adds it once. No running row is disturbed."""
        rank = max(len(one.down) for one in weights.values())
        taken = torch.tensor([self._free.pop() for _ in range(rank)])
        for name, addition in self._additions.items() | {(name, self._addition(name)) for name in weights}:
            addition.write(taken, weights.get(name))
        return RowRanks(taken, torch.ones(rank))

    def remove(self, ranks: RowRanks) -> None:
        """Give back the ranks of a LoRA that no row adds any more."""
        self._free += ranks.indices.tolist()

    def example(self, number: int) -> RowRanks:
        """Return ranks to measure and to prove with: as many as a row always adds, others for each number."""
        ranks = self._row_ranks or 0
        generator = torch.Generator().manual_seed(number)
        indices = torch.randint(self._capacity, (ranks,), generator=generator)
        return RowRanks(indices, torch.randn(ranks, generator=generator))

    @contextmanager
    def added_to(self, rows: Sequence[RowRanks]) -> Iterator[None]:
        """Have the model's forwards in this context add to each row what it asks for."""
        self._rows.set(rows, self._row_ranks, next(iter(self._targets.values())).weight)
        try:
            yield
        finally:
            self._rows.clear()

    def _addition(self, name: str) -> "Addition":
        if name not in self._additions:
            self._additions[name] = Addition(self._targets[name], self._capacity, self._rows)
            if self._row_ranks is not None:
                self._additions[name].fill_with_noise()
        return self._additions[name]


class BatchRanks:
    """What the rows of the present forward add: none, the rows that add any, or all."""

    def __init__(self) -> None:
        self.chosen: Int[Tensor, " rows"] | None = None  # None: all rows
        self.indices: Int[Tensor, "rows ranks"] | None = None  # None: nothing is added
        self.weights: Float[Tensor, "rows ranks"] | None = None

    def set(self, rows: Sequence[RowRanks], row_ranks: int | None, like: Tensor) -> None:
        """Take in the rows of a forward, on the device and in the dtype of `like`."""
        chosen = [k for k, row in enumerate(rows) if row_ranks is not None or len(row.indices)]
        if not chosen:
            return
        length = row_ranks or bucket(max(len(rows[k].indices) for k in chosen))
        indices = torch.zeros(len(chosen), length, dtype=torch.long)
        weights = torch.zeros(len(chosen), length)
        for slot, k in enumerate(chosen):
            count = len(rows[k].indices)
            indices[slot, :count], weights[slot, :count] = rows[k]
        self.indices, self.weights = indices.to(like.device), weights.to(like.device, like.dtype)
        self.chosen = None if len(chosen) == len(rows) else torch.tensor(chosen, device=like.device)

    def clear(self) -> None:
        """Add nothing from now on."""
        self.chosen = self.indices = self.weights = None


class Addition:
    """The ranks of one module: zeros, until a LoRA writes them."""

    def __init__(self, module: "Changeable", capacity: int, rows: BatchRanks) -> None:
        like = module.weight
        self._rows = rows
        self._down = like.new_zeros(capacity, down_features(module))
        self._up = like.new_zeros(capacity, like.shape[0])
        module.register_forward_hook(self._add)

    def fill_with_noise(self) -> None:
        """Give all ranks numbers, so that what proves bits sees sums. A LoRA overwrites those that it takes."""
        for pool in (self._down, self._up):
            pool.normal_(0, 0.01)

    def write(self, ranks: Int[Tensor, " ranks"], weights: LowRank | None) -> None:
        """Make a LoRA's matrices those of `ranks`; zeros beyond its own rank here, or where it changes nothing."""
        for pool, matrix in ((self._down, weights and weights.down), (self._up, weights and weights.up.T)):
            own = 0 if matrix is None else len(matrix)
            if matrix is not None:
                pool[ranks[:own]] = matrix.to(pool)
            pool[ranks[own:]] = 0

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        rows = self._rows
        if rows.indices is None or rows.weights is None:
            return None
        given = inputs[0] if rows.chosen is None else inputs[0][rows.chosen]
        down, up = self._down[rows.indices], self._up[rows.indices]  # [rows, ranks, features]
        if isinstance(module, nn.Conv2d):
            added = _convolved(module, given, down, up * rows.weights[..., None])
        else:
            flat = given.reshape(len(given), -1, given.shape[-1])
            hidden = torch.bmm(flat, down.mT) * rows.weights[:, None]
            added = torch.bmm(hidden, up).view(*given.shape[:-1], up.shape[-1])
        if rows.chosen is None:
            return output + added
        return output.index_add(0, rows.chosen, added)


Changeable = nn.Linear | nn.Conv2d


def down_features(module: Changeable) -> int:
    """Return the features that a rank's column has: inputs, times the kernel's area."""
    return module.weight[0].numel()


def bucket(ranks: int) -> int:
    """Return how many ranks a batch is filled up to, so that forwards have few shapes."""
    return max(LEAST_BUCKET, 1 << (ranks - 1).bit_length())


def _convolved(
    module: nn.Conv2d, given: Float[Tensor, "N C h w"], down: Float[Tensor, "N K f"], up: Float[Tensor, "N K out"]
) -> Float[Tensor, "N out new_h new_w"]:
    """Return the additions to a convolution: by each row's own kernels, as groups of one, then point by point."""
    count, ranks = down.shape[:2]
    kernels = down.reshape(count * ranks, -1, *module.kernel_size)
    one = given.reshape(1, -1, *given.shape[2:])
    hidden = functional.conv2d(one, kernels, None, module.stride, module.padding, module.dilation, count)
    added = torch.bmm(up.mT, hidden.view(count, ranks, -1))
    return added.view(count, -1, *hidden.shape[2:])
