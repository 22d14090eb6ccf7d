"""One resumable training loop for both networks: AdamW, warm-up and cosine decay, EMA, a loss curve on disk."""

import csv
import math
import tomllib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

HERE = Path(__file__).parent
RUNS = HERE / "runs"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SAVE_EVERY = 250  # steps


def settings(section: str) -> dict[str, Any]:
    """Return one section of settings.toml."""
    return tomllib.loads((HERE / "settings.toml").read_text())[section]


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Rise linearly for `warmup` steps, then fall as a half cosine to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def train(
    name: str,
    module: nn.Module,
    loss_of: Callable[[nn.Module, np.random.Generator, torch.Generator], Tensor],
    chosen: dict[str, Any],
) -> nn.Module:
    """Train `module` by the `seed`, `steps`, `learning_rate` and `ema` of `chosen`; return its average, in eval mode.

    `loss_of(module, choose, noise)` draws its own batch from the two generators, which depend on the step alone, so
    a run that was interrupted continues as if it had not been. The state is kept in `runs/<name>.pt`.
    """
    RUNS.mkdir(exist_ok=True)
    seed, steps, peak, ema = (chosen[key] for key in ("seed", "steps", "learning_rate", "ema"))
    path = RUNS / f"{name}.pt"
    module.to(DEVICE)
    average = deepcopy(module).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    start = 0
    if path.exists():
        saved = torch.load(path, map_location=DEVICE, weights_only=True)
        start = saved["step"]
        for target, key in ((module, "module"), (average, "average"), (optimizer, "optimizer")):
            target.load_state_dict(saved[key])
    with (RUNS / f"{name}.csv").open("a", newline="") as log:
        curve = csv.writer(log)
        bar = tqdm(range(start, steps), initial=start, total=steps, desc=name, mininterval=5)
        smooth = None
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak)
            noise = torch.Generator().manual_seed(seed * 1_000_003 + step)
            loss = loss_of(module, np.random.default_rng([seed, step]), noise)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            decay = min(ema, (step + 1) / (step + 10))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
                    slow.lerp_(fast, 1 - decay)
            value = float(loss.detach())
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            if (step + 1) % 25 == 0:
                curve.writerow([step + 1, f"{smooth:.5f}"])
                bar.set_postfix(loss=f"{smooth:.4f}")
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                log.flush()
                _save(path, step + 1, module, average, optimizer)
    return average


def _save(path: Path, step: int, module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replace the saved state in one rename, so that a kill leaves the old one."""
    state = {"step": step, "module": module.state_dict(), "average": average.state_dict()}
    torch.save(state | {"optimizer": optimizer.state_dict()}, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)
