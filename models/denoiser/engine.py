"""The denoising engine: one thread owns the model and the rows, and advances one batch by one step at a time."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.model import DenoiserModel
from models.denoiser.preview import Preview
from models.denoiser.state import DenoiseState, apply_guidance, next_latents, record_outputs, stack_rows
from models.denoiser.step_batcher import StepBatcher
from models.errors import DarkroomError, InvalidRequest, NonFinite, OutOfMemory, Unavailable
from models.families.base import BatchKey
from models.spec import StepUpdate

logger = logging.getLogger(__name__)

NOT_FINITE = "The picture turned into numbers that are not finite."

Outcome = StepUpdate | DarkroomError
Publish = Callable[[list[tuple[DenoiseState, Outcome]]], None]


class Change(NamedTuple):
    """New settings on their way to the thread."""

    max_rows: int
    preview_interval_s: float
    warm: BatchKey
    made: "Future[None]"


class DenoisingEngine:
    """Continuous batching by the step: a picture joins at any step boundary and leaves at its own last step."""

    def __init__(
        self,
        model: DenoiserModel,
        publish: Publish,
        *,
        sizer: BatchSizer,
        preview: Preview,
        die: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        self._model = model
        self._publish = publish
        self._sizer = sizer
        self._preview = preview
        self._die = die  # ends the process
        self._batcher: StepBatcher[DenoiseState] = StepBatcher(sizer.next_rows)
        self._inbox: SimpleQueue[DenoiseState | Change | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="denoising-engine", daemon=True)
        self._heartbeat = time.monotonic()
        self._rows = 0  # of the last forward
        self._slots = 0  # rows that it was filled up to
        self._images = 0  # pictures of that forward
        self._most_rows = 0  # that it might have had
        self._step_s = 0.0  # what that step took, and all that lies between two steps
        self._stepped_at = time.perf_counter()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; pictures in the making are dropped."""
        self._inbox.put(None)
        self._thread.join()

    def submit(self, state: DenoiseState) -> None:
        """Let a picture join at the next step; callable from any thread."""
        self._inbox.put(state)

    def configure(self, max_rows: int, preview_interval_s: float, warm: BatchKey) -> "Future[None]":
        """Change settings between two steps; callable from any thread.

        Row counts that are new are measured with forwards of the kind `warm`. The future is done when the change is
        made, or has its error: what `BatchSizer.set_limit` and `BatchSizer.warm_up` raise.
        """
        change = Change(max_rows, preview_interval_s, warm, Future())
        self._inbox.put(change)
        return change.made

    def check_health(self, patience_s: float = 60.0) -> None:
        """Raise where the thread has died or has been in one step for longer than `patience_s`.

        Raises:
            Unavailable: the process should be replaced.
        """
        if not self._thread.is_alive():
            raise Unavailable("The denoising thread has died.")
        if len(self._batcher) and time.monotonic() - self._heartbeat > patience_s:
            raise Unavailable(f"The denoising thread has been in one step for over {patience_s:.0f} s.")

    def step(self) -> list[DenoiseState]:
        """Advance one batch by one denoising step; return the finished pictures."""
        batch = self._batcher.next_batch()
        start = time.perf_counter()
        output, batch = self._predict(batch) if batch else (None, [])
        if output is None:
            return []
        record_outputs(batch, apply_guidance(self._model.family, output, batch))
        latents = next_latents(batch)
        sums = latents.sum((1, 2, 3))  # finite only if all that is summed is
        finite = sums.isfinite().tolist()  # here the thread waits for the device, once a step
        self._rows, self._images = len(output), len(batch)
        self._slots = self._sizer.padded_rows(batch[0].key, self._rows)
        now = time.perf_counter()
        self._sizer.curve.measure(self._rows, batch[0].key.cells, now - start)
        self._step_s, self._stepped_at = now - self._stepped_at, now
        self._most_rows = self._sizer.target_rows(batch[0].key)
        previews = [self._preview.due(state) for state in batch]
        self._batcher.advance(batch, latents)
        self._fail([state for state, ok in zip(batch, finite, strict=True) if not ok], NonFinite(NOT_FINITE))
        told = [(state, preview) for state, preview, ok in zip(batch, previews, finite, strict=True) if ok]
        self._publish([(state, self._update(state, preview)) for state, preview in told])
        return [state for state, _ in told if state.finished]

    def _run(self) -> None:
        while self._admit():
            self._heartbeat = time.monotonic()
            with torch.inference_mode():
                self.step()

    def _admit(self) -> bool:
        """Take in what has arrived, waiting for it if there is nothing to do; False to end."""
        while True:
            self._batcher.remove([state for state in self._batcher.states() if state.cancelled])
            try:
                idle = not len(self._batcher)
                arrived = self._inbox.get(block=idle)
                if idle:
                    self._stepped_at = time.perf_counter()
            except Empty:
                return True
            if arrived is None:
                return False
            if isinstance(arrived, Change):
                self._apply_settings(arrived)
            elif not arrived.cancelled:
                self._admit_one(arrived)

    def _apply_settings(self, change: Change) -> None:
        try:
            self._sizer.set_limit(change.max_rows)
            self._sizer.warm_up(change.warm)
        except Exception as error:  # whoever asked for the change gets it; the pictures go on
            change.made.set_exception(error)
            return
        self._preview.interval_s = change.preview_interval_s
        change.made.set_result(None)

    def _admit_one(self, state: DenoiseState) -> None:
        """Let a picture join, or fail it where a forward of its kind can have no rows: no other try would help."""
        try:
            self._sizer.target_rows(state.key)
        except Unavailable as error:
            logger.warning("%s", error)
            size = f"{state.spec.width}x{state.spec.height}"
            message = f"width: batch_invariant cannot be kept at {size}; request another size."
            self._fail([state], InvalidRequest(message, "width"))
            return
        state.joined_at = time.monotonic()
        self._batcher.add(state)

    def _predict(self, batch: list[DenoiseState]) -> tuple[Float[Tensor, "R C h w"] | None, list[DenoiseState]]:
        """Run the model on a batch; where that raises, on each picture alone, so that only the guilty one fails.

        Returns the output with the pictures that it is of; None where there is none this time.
        """
        try:
            inputs = stack_rows(batch)
            return self._model.predict(inputs, self._sizer.padded_rows(batch[0].key, len(inputs.latents))), batch
        except torch.AcceleratorError:
            logger.critical("the device is in a state that only a new process can leave", exc_info=True)
            self._die()
            raise
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            rows = sum(state.rows for state in batch)
            if self._sizer.halve(rows):
                logger.warning("out of memory with %d rows: at most %d from now on", rows, self._sizer.max_rows)
                return None, []
            reason = OutOfMemory("The picture does not fit into the memory of the device.")
        except Exception:
            logger.exception("forward of %d pictures failed", len(batch))
            reason = DarkroomError("The model failed on this picture.")
        if len(batch) == 1:
            self._fail(batch, reason)
            return None, []
        alone = [self._predict([state]) for state in batch]
        survivors = [state for _, states in alone for state in states]
        return torch.cat([out for out, _ in alone if out is not None]) if survivors else None, survivors

    def _fail(self, states: Sequence[DenoiseState], error: DarkroomError) -> None:
        self._batcher.remove(states)
        self._publish([(state, error) for state in states])

    def _update(self, state: DenoiseState, preview: bytes | None) -> StepUpdate:
        """Say where a picture is; a finished one hands over its latents."""
        return StepUpdate(
            step=state.index,
            steps=len(state.plan),
            batch_rows=self._rows,
            batch_images=self._images,
            forward_rows=self._slots,
            most_rows=self._most_rows,
            step_s=self._step_s,
            cut=state.cut,
            encode_s=state.encode_s,
            denoise_s=time.monotonic() - state.joined_at,
            preview=preview,
            latents=state.latents.float().cpu().numpy().copy() if state.finished else None,
        )
