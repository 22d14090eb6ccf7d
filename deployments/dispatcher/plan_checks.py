"""Which plans of samplers a model's Denoisers cannot compile, so that no job waits for what cannot be generated."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import Context

from models.errors import DarkroomError, UnsupportedSampler
from models.families.registry import FAMILIES
from models.hires import of_pass
from models.spec import ImageSpec

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

TIMEOUT_S = 1.0
PAUSE_S = 10.0  # after a Denoiser did not answer: one that sleeps takes longer to wake
MAX_KNOWN = 10_000  # plans

Plan = tuple[str, str, int, int, str]  # the model's digest, sampler, steps, the first one, options of timesteps


class PlanChecks:
    """Asks a Denoiser once for each plan, whoever waits for the answer; `compile_plan` is how."""

    def __init__(self, compile_plan: Callable[[ImageSpec], Awaitable[None]]) -> None:
        self._compile_plan = compile_plan
        self._known: dict[Plan, UnsupportedSampler | None] = {}  # why it cannot be compiled, if so
        self._asking: dict[Plan, asyncio.Task[None]] = {}
        self._ask_after = 0.0  # of time.monotonic

    def has_passed(self, spec: ImageSpec, digest: str) -> bool:
        """Return whether a Denoiser has compiled the plans of an image, so that `check` neither waits nor refuses."""
        return all(self._known.get(_plan_of(one, digest), ...) is None for one in spec.passes)

    async def check(self, spec: ImageSpec, digest: str) -> None:
        """Check that the sampler of an image works in its steps, with the model of a digest.

        Where no Denoiser answers, the one that generates the image raises the same error.

        Raises:
            UnsupportedSampler: no image of this sampler and number of steps can be generated.
        """
        for number, one in enumerate(spec.passes):
            plan = _plan_of(one, digest)
            if plan not in self._known and time.monotonic() >= self._ask_after:
                await self._answer(plan, one)
            refusal = self._known.get(plan)
            if refusal is not None:
                raise of_pass(number, UnsupportedSampler(*refusal.args))

    async def _answer(self, plan: Plan, spec: ImageSpec) -> None:
        """Wait for the one call about a plan. It outlives each caller, so it runs in no request's context: with a
        request that is cut, Serve cancels the calls made in that request's."""
        if plan not in self._asking:
            asking = self._asking[plan] = asyncio.create_task(self._ask(plan, spec), context=Context())
            asking.add_done_callback(lambda _: self._asking.pop(plan))
        await asyncio.shield(self._asking[plan])

    async def _ask(self, plan: Plan, spec: ImageSpec) -> None:
        refusal: UnsupportedSampler | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._compile_plan(spec)
        except UnsupportedSampler as error:
            refusal = error
        except (DarkroomError, TimeoutError) as error:
            logger.debug("no Denoiser compiles a plan: %r", error)
            self._ask_after = time.monotonic() + PAUSE_S
            return
        if len(self._known) == MAX_KNOWN:
            self._known.clear()
        self._known[plan] = refusal


def _plan_of(spec: ImageSpec, digest: str) -> Plan:
    family = FAMILIES[spec.family]
    options = json.dumps(family.timestep_options(spec), sort_keys=True)
    return digest, spec.sampler, spec.num_inference_steps, family.begin(spec), options
