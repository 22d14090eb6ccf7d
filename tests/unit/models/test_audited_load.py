"""Python's own audit hook watches while a checkpoint is loaded and draws: nothing of it is unpickled or run."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


@pytest.fixture
def poisoned(tiny_sd: Path, tmp_path: Path) -> Path:
    """A checkpoint with a pickle or a module wherever a library might look for one."""
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "checkpoint"))
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "pytorch_model"),
    ):
        (folder / part / f"{name}.bin").write_bytes(pickle.dumps(Evil()))
    for name in ("pipeline.py", "unet/modeling.py", "text_encoder/modeling_clip.py", "tokenizer/tokenization.py"):
        (folder / name).write_text("raise SystemExit('run')")
    (folder / "model.ckpt").write_bytes(pickle.dumps(Evil()))
    return folder


def test_nothing_is_unpickled_or_run_while_three_stages_load_and_draw(poisoned: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.audited_load", poisoned, poisoned / "model.ckpt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "shape": [32, 32, 3],
        "until_it_was_drawn": [],
        "after": ["pickle.find_class builtins print"],  # the hook does see what is unpickled on purpose
    }
