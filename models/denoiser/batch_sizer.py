"""How many rows a forward may have, and how many it is filled up to: measured and proved, within the operator's cap."""

import time

import torch

from models.denoiser.model import DenoiserModel
from models.denoiser.step_curve import StepCurve
from models.errors import Unavailable
from models.families.base import Batch, BatchKey

SLOW_S = 4.0  # a forward that takes longer ends the warm-up: larger ones are measured while running
EXPLORED_EVERY = 64  # so often a batch may be as large as the cap allows, lest an old measurement rule for ever


class BatchSizer:
    """The row counts of one denoiser.

    With `batch_invariant`, every forward of a kind has the same number of rows, one that was proved to give a row the
    same bits in every slot and beside any neighbours. With `padded`, forwards are filled up to a power of two, so that
    a compiled model meets few shapes.
    """

    def __init__(
        self, model: DenoiserModel, max_rows: int, *, batch_invariant: bool = False, padded: bool = False
    ) -> None:
        self.least_rows = model.family.image_rows  # so many must fit, or no image does
        self.max_rows = max_rows
        self.curve = StepCurve()
        self._allowed = max_rows  # by the operator; memory may allow less
        self._model = model
        self._batch_invariant = batch_invariant
        self._padded = padded
        self._proved: dict[BatchKey, int] = {}
        self._batches = 0

    def next_rows(self, key: BatchKey) -> int:
        """Rows that the next batch may have."""
        self._batches += 1
        if self._batches % EXPLORED_EVERY == 0 and not self._batch_invariant:
            return self.max_rows
        return self.target_rows(key)

    def target_rows(self, key: BatchKey) -> int:
        """Rows that a batch may have as a rule: beyond, more rows would only be slower one by one."""
        if self._batch_invariant:
            return self._invariant_rows(key)
        return max(self.least_rows, self.curve.best_rows(key.cells, self.max_rows))

    def padded_rows(self, key: BatchKey, rows: int) -> int:
        """Rows that the forward of a batch of `rows` is filled up to."""
        if self._batch_invariant:
            return self._invariant_rows(key)
        if self._padded:
            return next(count for count in self._counts() if count >= rows)
        return rows

    def set_limit(self, max_rows: int) -> None:
        """Take in another cap of the operator's. Fewer rows take no picture out: those beyond wait for their turn.

        Raises:
            ValueError: an image does not fit; or forwards of the present sizes were proved or compiled at start.
        """
        if max_rows == self._allowed:
            return
        if max_rows < self.least_rows:
            needs = f"an image of this model takes {self.least_rows} rows"
            raise ValueError(f"max_rows must be {self.least_rows} or more: {needs}, got {max_rows}.")
        if self.curve.seconds and (self._batch_invariant or self._padded):
            raise ValueError("max_rows: with batch_invariant or compile, another number needs another replica.")
        self._allowed = self.max_rows = max_rows

    def warm_up(self, key: BatchKey) -> None:
        """Measure forwards of 1, 2, 4, … rows of a kind, while they fit; prove or compile what that takes.

        What was measured before is not measured again.
        """
        for rows in self._counts():
            if (rows, key.cells) in self.curve.seconds:
                continue
            batch, padded = self._model.example(key, rows), self.padded_rows(key, rows)
            try:
                self._timed(batch, padded)  # the first one of its shape allocates, or compiles
                seconds = self._timed(batch, padded)
            except torch.OutOfMemoryError:
                if not self.halve(rows):
                    raise
                break
            self.curve.measure(rows, key.cells, seconds)
            if seconds > SLOW_S:
                break

    def halve(self, rows: int) -> bool:
        """Allow half of `rows` from now on; False where that leaves no room for an image."""
        if rows <= self.least_rows:
            return False
        self.max_rows = max(self.least_rows, rows // 2)
        self._proved = {key: proved for key, proved in self._proved.items() if proved <= self.max_rows}
        return True

    def _counts(self) -> list[int]:
        return [*(2**k for k in range(self.max_rows.bit_length()) if 2**k < self.max_rows), self.max_rows]

    def _timed(self, batch: Batch, padded_rows: int) -> float:
        start = time.perf_counter()
        self._model.predict(batch, padded_rows).sum().item()  # waits for the device
        return time.perf_counter() - start

    def _invariant_rows(self, key: BatchKey) -> int:
        """Return the greatest row count that is invariant.

        Raises:
            Unavailable: there is none that an image fits into, so it cannot be promised its bits.
        """
        if key not in self._proved:
            batch = self._model.example(key, self.max_rows)
            rows = next(
                (n for n in range(self.max_rows, self.least_rows - 1, -1) if self._is_invariant(batch, n)), None
            )
            if rows is None:
                raise Unavailable("No row count gives the same bits in every slot: batch_invariant cannot be promised.")
            self._proved[key] = rows
        return self._proved[key]

    def _is_invariant(self, batch: Batch, rows: int) -> bool:
        """Whether rows fit, their outputs follow them to other slots bit for bit and ignore what other slots hold.

        Matrix libraries choose their kernels by shape, and in some of them the order of a sum differs from row to row.
        """
        try:
            return self._keep_their_bits(batch, rows)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return False

    def _keep_their_bits(self, batch: Batch, rows: int) -> bool:
        order = torch.arange(rows)
        expected = self._model.predict(batch.rows(order))
        moved = all(
            torch.equal(self._model.predict(batch.rows(new)), expected[new]) for new in (order.flip(0), order.roll(1))
        )
        return moved and all(
            torch.equal(self._model.predict(batch.rows(torch.full_like(order, slot))), expected[[slot] * rows])
            for slot in (0, rows - 1)
        )
