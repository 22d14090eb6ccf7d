"""The denoising engine: one thread owns the model and the rows, and advances one batch by one step at a time."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.denoiser.preview import Preview
from models.denoiser.state import DenoiseState, guided, next_latents, remember, stack_rows
from models.denoiser.step_batcher import StepBatcher
from models.denoiser.step_curve import StepCurve
from models.denoiser.unet import UNet
from models.errors import DarkroomError, NonFinite, Unavailable
from models.spec import StepUpdate

logger = logging.getLogger(__name__)

Outcome = StepUpdate | DarkroomError
Publish = Callable[[list[tuple[DenoiseState, Outcome]]], None]


class DenoisingEngine:
    """Continuous batching by the step: a picture joins at any step boundary and leaves at its own last step."""

    def __init__(self, unet: UNet, publish: Publish, *, max_rows: int, preview: Preview) -> None:
        self._unet = unet
        self._publish = publish
        self._preview = preview
        self._batcher: StepBatcher[DenoiseState] = StepBatcher(max_rows)
        self._inbox: SimpleQueue[DenoiseState | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="denoising-engine", daemon=True)
        self._beat = time.monotonic()
        self._rows = 0  # of the last forward
        self.curve = StepCurve()

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

    def check_health(self, patience_s: float = 60.0) -> None:
        """Raise where the thread has died or has been in one step for longer than `patience_s`.

        Raises:
            Unavailable: the process should be replaced.
        """
        if not self._thread.is_alive():
            raise Unavailable("The denoising thread has died.")
        if len(self._batcher) and time.monotonic() - self._beat > patience_s:
            raise Unavailable(f"The denoising thread has been in one step for over {patience_s:.0f} s.")

    def step(self) -> list[DenoiseState]:
        """Advance one batch by one denoising step; return the finished pictures."""
        batch = self._batcher.next_batch()
        if not batch:
            return []
        output, batch = self._predict(batch)
        if output is None:
            return []
        remember(batch, guided(output, batch))
        previews = {id(state): self._preview.due(state) for state in batch}
        finished = self._batcher.advance(batch, next_latents(batch))
        self._publish([(state, self._update(state, previews[id(state)])) for state in batch])
        return finished

    def _run(self) -> None:
        while self._admit():
            self._beat = time.monotonic()
            with torch.inference_mode():
                self.step()

    def _admit(self) -> bool:
        """Take in what has arrived, waiting for it if there is nothing to do; False to end."""
        while True:
            self._batcher.remove([state for state in self._batcher.states() if state.cancelled])
            try:
                arrived = self._inbox.get(block=not len(self._batcher))
            except Empty:
                return True
            if arrived is None:
                return False
            if not arrived.cancelled:
                arrived.joined_at = time.monotonic()
                self._batcher.add(arrived)

    def _predict(self, batch: list[DenoiseState]) -> tuple[Float[Tensor, "R C h w"] | None, list[DenoiseState]]:
        """Run the model on a batch; where that raises, on each picture alone, so that only the guilty one fails.

        Returns the output with the pictures that survived; None where none did.
        """
        start = time.perf_counter()
        try:
            output = self._unet.predict(*stack_rows(batch))
        except Exception:
            logger.exception("forward of %d pictures failed", len(batch))
            if len(batch) == 1:
                self._fail(batch, DarkroomError("The model failed on this picture."))
                return None, []
            alone = [self._predict([state]) for state in batch]
            survivors = [state for _, states in alone for state in states]
            return torch.cat([out for out, _ in alone if out is not None]) if survivors else None, survivors
        self._rows = len(output)
        self.curve.measure(len(output), batch[0].key.cells, time.perf_counter() - start)
        return output, batch

    def _fail(self, states: Sequence[DenoiseState], error: DarkroomError) -> None:
        self._batcher.remove(states)
        self._publish([(state, error) for state in states])

    def _update(self, state: DenoiseState, preview: bytes | None) -> Outcome:
        """Say where a picture is; a finished one hands over its latents, unless they are not finite."""
        latents = state.latents.float().cpu().numpy().copy() if state.finished else None
        if latents is not None and not np.isfinite(latents).all():
            return NonFinite("The picture turned into numbers that are not finite.")
        return StepUpdate(
            step=state.index,
            steps=len(state.plan),
            batch_rows=self._rows,
            cut=state.cut,
            encode_s=state.encode_s,
            denoise_s=time.monotonic() - state.joined_at,
            preview=preview,
            latents=latents,
        )
