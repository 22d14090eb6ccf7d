"""What a family promises to those that have no torch, and to those that have."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.families.registry import FAMILIES, PIPELINES
from tests.fakes import a_spec

ROOT = Path(__file__).parents[3]
QUEUED = """
import sys
from dataclasses import replace
from deployments.dispatcher import deployment
from tests.fakes import a_spec

for name in ("sd", "sdxl"):
    spec = a_spec(family=name)
    assert (spec.rows, replace(spec, guidance_scale=1.0).rows) == (2, 1)
print("torch" in sys.modules)
"""


def test_what_a_request_costs_is_known_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", QUEUED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_pipeline_and_every_domain_has_its_components(name: str) -> None:
    family = FAMILIES[name]
    assert {PIPELINES[pipeline] for pipeline in family.pipelines} == {family}
    assert {component.domain for component in family.components.values()} == {"text", "latents", "pixels"}
    assert family.components[family.denoiser].domain == "latents"
    assert family.components[family.vae].domain == "pixels"


@pytest.mark.parametrize("name", FAMILIES)
def test_no_image_has_more_rows_than_its_family_promises(name: str) -> None:
    guided = a_spec(family=name, guidance_scale=7.5, negative_prompt="blue")
    assert guided.rows == FAMILIES[name].image_rows


@pytest.mark.parametrize("name", FAMILIES)
def test_a_component_has_weights_of_a_least_size_or_is_a_tokenizer(name: str) -> None:
    for component in FAMILIES[name].components.values():
        assert bool(component.weights) == (component.least_size is not None)
