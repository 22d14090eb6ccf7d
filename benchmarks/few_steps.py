"""How many steps each sampler needs: where fewer end further from 50 steps than a single step does.

With the shapes model, as it is (zero SNR) and with the betas of Stable Diffusion as they are. Decibels of pixels
(PSNR) against the same sampler's 50 steps, mean of three prompts; stochastic samplers converge to no image and are left
out. `models.samplers` has the least steps that come of it.
"""

import numpy as np
import torch

from benchmarks.harness import ROOT, finish
from models.samplers import CLASSES, plan_for
from models.sampling import SamplerPlan
from tests.stages import Stages

CONVERGED = 50
STEPS = range(1, 13)
PROMPTS = (
    "a red circle on a blue background",
    "a large green ring on a yellow background",
    "a small red star above a large green ring on a yellow background, watercolor",
)


def images(stages: Stages, sampler: str, steps: int) -> np.ndarray:
    """Return the images of the prompts, [3, H, W, 3]."""
    specs = [stages.spec(prompt, sampler=sampler, num_inference_steps=steps, seed=3) for prompt in PROMPTS]
    return np.stack(stages.pixels(*stages.denoise(*map(stages.state, specs)))).astype(float)


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean PSNR of images."""
    return float(np.mean(10 * np.log10(255**2 / ((one - other) ** 2).mean((1, 2, 3)))))


def is_stochastic(plan: SamplerPlan) -> bool:
    """Whether steps draw noise."""
    return any(plan.draws_noise)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    stages = Stages(ROOT / "models/checkpoints/shapes")
    own = stages.model.scheduler_config
    rows: dict[str, dict[str, object]] = {}
    for betas, config in (("zero SNR", own), ("as they are", own | {"rescale_betas_zero_snr": False})):
        stages.model.scheduler_config = config
        print(f"betas {betas}\n{'sampler':18}{'least':>6}  " + "".join(f"{steps:>6}" for steps in STEPS))
        for sampler in CLASSES:
            if is_stochastic(plan_for(config, sampler, CONVERGED)):
                continue
            converged = images(stages, sampler, CONVERGED)
            found = [decibels(images(stages, sampler, steps), converged) for steps in STEPS]
            least = 1 + max((k for k, db in enumerate(found, 1) if db < found[0]), default=0)
            rows[f"{sampler}, betas {betas}"] = {"least": least, "decibels": [round(db, 1) for db in found]}
            print(f"{sampler:18}{least:6}  " + "".join(f"{db:6.1f}" for db in found), flush=True)
    finish("few_steps", rows)


if __name__ == "__main__":
    main()
