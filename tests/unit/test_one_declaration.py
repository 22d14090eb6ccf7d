"""A field that is declared once is everywhere. A new one is added to the declarations alone, in another process."""

import json
import subprocess
import sys
from typing import Any

import pytest

WITH_A_NEW_FIELD = """
import io, json, sys
from dataclasses import asdict, field, fields, make_dataclass
import models.spec as spec_module
from pydantic import Field, create_model

Old = spec_module.ImageSpec
spec_module.ImageSpec = ImageSpec = make_dataclass(
    "ImageSpec", [("clip_skip", int, field(default=0))], bases=(Old,), frozen=True, slots=True, kw_only=True
)
ImageSpec.__slots__ = tuple(each.name for each in fields(ImageSpec))

import deployments.schema as schema

schema.GenerationRequest = create_model(
    "GenerationRequest",
    __base__=schema.GenerationRequest,
    clip_skip=(int, Field(0, ge=0, le=12, description="Layers of the text encoder to leave out.")),
)

from pathlib import Path
from deployments.access import AccessPolicy
from deployments.api import huggingface, openai
from deployments.api.deployment import create_api
from gradio_ingress import client_api, controls, png_info, receipt
from gradio_ingress.controls import to_request
from models.settings_text import settings_text
from models.image_file import encode_image
from models.vae import Decoded
import numpy as np

request = schema.read_request({"prompt": "a circle", "clip_skip": 2})
spec = ImageSpec(
    model="shapes", prompt="a circle", negative_prompt="", width=64, height=64, num_inference_steps=4,
    guidance_scale=4.0, sampler="ddim", seed=7, output_format="png", clip_skip=request.clip_skip,
)
picture = encode_image(Decoded(np.zeros((4, 4, 3), np.uint8), False), spec, "d" * 64)
openapi = create_api(None, None, dict, [], AccessPolicy()).openapi()["components"]["schemas"]
hf = huggingface.HFBody.model_validate({"inputs": "a circle", "parameters": {"clip_skip": 2}})
found = {
    "the page": controls._kind("clip_skip").__name__,
    "the page's request": to_request({"prompt": "a circle", "clip_skip": 2}).clip_skip,
    "OpenAI's dialect": openai.to_request(openai.ImagesBody(prompt="a circle", clip_skip=2)).clip_skip,
    "Hugging Face's dialect": huggingface.to_request(hf, "shapes", None).clip_skip,
    "OpenAPI": sorted(name for name, body in openapi.items() if "clip_skip" in body.get("properties", ())),
    "Gradio's clients": "clip_skip" in client_api.endpoint(None).__annotations__,
    "the settings of a file": png_info.read(picture)[0]["clip_skip"],
    "the text of a file": settings_text(spec).rpartition("\\n")[2],
    "the text that is read": png_info._from_parameters(settings_text(spec))[0]["clip_skip"],
    "receipts": {name: "clip_skip" in code for name, code in receipt.snippets(spec, "http://a").items()},
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Where the new field is."""
    ran = subprocess.run([sys.executable, "-c", WITH_A_NEW_FIELD], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_a_new_field_is_in_each_dialect_and_its_description(found: dict[str, Any]) -> None:
    assert (found["OpenAI's dialect"], found["Hugging Face's dialect"]) == (2, 2)
    assert {"GenerationRequest", "ImagesBody", "HFParameters"} <= set(found["OpenAPI"])
    assert found["Gradio's clients"] is True


def test_a_new_field_has_a_control_on_the_page(found: dict[str, Any]) -> None:
    assert (found["the page"], found["the page's request"]) == ("Slider", 2)


def test_a_new_field_is_in_files_and_is_read_from_them(found: dict[str, Any]) -> None:
    assert found["the settings of a file"] == 2
    text = "Steps: 4, Sampler: DDIM, CFG scale: 4.0, Seed: 7, Clip skip: 2, Size: 64x64, Model: shapes"
    assert (found["the text of a file"], found["the text that is read"]) == (text, 2)


def test_a_new_field_is_in_every_receipts_code(found: dict[str, Any]) -> None:
    assert found["receipts"] == {"curl": True, "openai": True, "InferenceClient": True}
