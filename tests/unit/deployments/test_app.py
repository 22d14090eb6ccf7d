"""What building an application costs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
REFUSED = """
import sys
from deployments.app import build_model
from deployments.config import ModelConfig
from models.errors import UnusableCheckpoint

try:
    build_model(ModelConfig(checkpoint=sys.argv[1]))
except UnusableCheckpoint as error:
    print(error, "torch" in sys.modules)
"""


def test_a_checkpoint_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REFUSED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'model_index.json'}: missing. False\n"
