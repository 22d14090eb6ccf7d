"""A field that is declared once is everywhere. New ones are added to the declarations alone, in another process."""

import json
import subprocess
import sys
from typing import Any

import pytest

WITH_NEW_FIELDS = """
import io, json, sys
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from typing import Literal
import models.spec as spec_module
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:  # with a member that no request has
    name: str
    weight: float
    sha256: str = "0a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    input: str
    strength: float
    resize: str


Old = spec_module.ImageSpec
NEW = [
    ("grain", int, field(default=0)),
    ("adapters", tuple[Adapter, ...], field(default=())),
    ("start", Start | None, field(default=None)),
]
spec_module.ImageSpec = ImageSpec = make_dataclass(
    "ImageSpec", NEW, bases=(Old,), frozen=True, slots=True, kw_only=True
)
ImageSpec.__slots__ = tuple(each.name for each in fields(ImageSpec))


class AdapterRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="Which one.")
    weight: float = Field(1.0, ge=-2, le=2, description="How much of it.")


class StartRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str = Field(description="An image.")
    strength: float = Field(0.8, ge=0, le=1)
    resize: Literal["crop", "fill"] = "crop"


import deployments.schema as schema

schema.GenerationRequest = create_model(
    "GenerationRequest",
    __base__=schema.GenerationRequest,
    grain=(int, Field(0, ge=0, le=12, description="How much of it.")),
    adapters=(list[AdapterRequest], Field([], max_length=3, description="Adapters.")),
    start=(StartRequest | None, Field(None, description="Where to start.")),
)

from deployments.api import huggingface
from deployments.api.openai import fields as openai
from deployments.dispatcher.client import DispatcherClient
from deployments.request_errors import read_request
from deployments.jobs import Job, new_job
from deployments.resolution import resolve
from gradio_ingress import controls, png_info, receipt
from gradio_ingress.page import Page
from gradio_ingress.restored import settings_of
from models.errors import InvalidRequest
from models.settings_text import settings_text
from models.image_file import encode_image
from models.vae import Decoded
from ops.openapi import description
from tests.fakes import CARD, a_result
from deployments.dispatcher.lease import Lease
import numpy as np

SENT = {
    "grain": 2,
    "adapters": [{"name": "walls, \\"old\\"", "weight": 0.5}, {"name": "night"}],
    "start": {"input": "ab:c", "strength": 0.25},
}
NAMES = list(SENT)


def new_fields(request):
    return request.model_dump(include={*NAMES})


def refusal(**values):
    try:
        read_request({"prompt": "a circle", **values})
    except InvalidRequest as error:
        return error.message


[spec] = resolve(read_request({"prompt": "a circle", "seed": 7, **SENT}), CARD)
job = new_job([spec], "me", 0.0)
picture = encode_image(Decoded(np.zeros((4, 4, 3), np.uint8), False), spec, "d" * 64)
text = settings_text(spec)
openapi = description()["components"]["schemas"]
hf = huggingface.HFBody.model_validate({"inputs": "a circle", "parameters": SENT})
code = receipt.snippets(spec, "http://a")
page = Page(DispatcherClient(None))
parts = page.parts
filled = parts.filled([CARD], settings_of(spec))
shown = {path: filled.get(control, {}).get("value") for path, control in parts.controls.items()}
found = {
    "spec": {name: asdict(spec)[name] for name in NAMES},
    "stored": TypeAdapter(Job).validate_json(TypeAdapter(Job).dump_json(job)) == job,
    "page": {path: type(control).__name__ for path, control in parts.controls.items()},
    "page's request": new_fields(controls.to_request(controls.read(shown))),
    "OpenAI's dialect": new_fields(openai.to_request(openai.ImagesBody(prompt="a circle", **SENT))),
    "Hugging Face's dialect": new_fields(huggingface.to_request(hf, "shapes", None)),
    "OpenAPI": {name: sorted(set(NAMES) & {*body.get("properties", ())}) for name, body in openapi.items()},
    "Gradio's clients": sorted(set(NAMES) & set(page.client_api.endpoint().__annotations__)),
    "file": {name: png_info.read(picture)[0][name] for name in NAMES},
    "text": text.rpartition("\\n")[2],
    "text that is read": {name: png_info.from_texts({"parameters": text})[0][name] for name in NAMES},
    "notes on damage": png_info.from_texts({"parameters": text.replace("Adapters: ", "Adapters: x")})[1],
    "code": {name: [field in snippet for field in NAMES] for name, snippet in code.items()},
    "receipt": dict(receipt.lines(a_result(spec, Lease(job.id, 0, 0, 1)), None)),
    "refusals": [
        refusal(adapters=[{"name": "a"}, {"name": "b", "weight": 3}]),
        refusal(start={"input": "a", "strenght": 1}),
        refusal(adapters=[{}]),
    ],
}
print(json.dumps(found))
"""
ADAPTERS = [{"name": 'walls, "old"', "weight": 0.5}, {"name": "night", "weight": 1.0}]
NEW = {"grain": 2, "adapters": ADAPTERS, "start": {"input": "ab:c", "strength": 0.25, "resize": "crop"}}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Where the new fields are, and with which values."""
    ran = subprocess.run([sys.executable, "-c", WITH_NEW_FIELDS], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_new_fields_are_in_each_dialect_and_its_description(found: dict[str, Any]) -> None:
    assert found["OpenAI's dialect"] == found["Hugging Face's dialect"] == NEW
    described = {name for name, fields in found["OpenAPI"].items() if fields == sorted(NEW)}
    assert {"GenerationRequest", "ImagesBody", "HFParameters", "ImageSpec"} <= described
    assert found["Gradio's clients"] == sorted(NEW)


def test_new_fields_reach_the_models_and_the_database(found: dict[str, Any]) -> None:
    digests = [adapter | {"sha256": "0a"} for adapter in ADAPTERS]
    assert found["spec"] == NEW | {"adapters": digests}
    assert found["stored"] is True


def test_a_value_of_a_nested_field_is_refused_by_its_path(found: dict[str, Any]) -> None:
    assert found["refusals"] == [
        "adapters[1].weight must be 2 or less, got 3.",
        "start.strenght is not a known field.",
        "adapters[0].name is required.",
    ]


def test_new_fields_have_controls_on_the_page_that_can_be_filled_and_read(found: dict[str, Any]) -> None:
    members = {"name": "Textbox", "weight": "Slider"}
    rows = {f"adapters[{row}].{name}": kind for row in range(3) for name, kind in members.items()}
    start = {"start.input": "Textbox", "start.strength": "Slider", "start.resize": "Dropdown"}
    assert rows | start | {"grain": "Slider"} == {
        path: kind for path, kind in found["page"].items() if path.startswith(tuple(NEW))
    }
    assert found["page's request"] == NEW


def test_new_fields_are_in_files_and_are_read_from_them(found: dict[str, Any]) -> None:
    assert found["file"] == found["text that is read"] == NEW
    [note] = found["notes on damage"]
    assert note.startswith("Adapters “")
    assert note.endswith("could not be read.")


def test_nested_fields_are_json_in_the_text_of_a_file(found: dict[str, Any]) -> None:
    adapters = json.dumps(json.dumps([adapter | {"sha256": "0a"} for adapter in ADAPTERS]))
    start = json.dumps(json.dumps(NEW["start"]))
    new = f"Grain: 2, Adapters: {adapters}, Start: {start}"
    assert found["text"] == (
        f"Steps: 8, Sampler: DDIM, CFG scale: 4.0, Seed: 7, Prompt syntax: plain, {new}, Size: 128x128, Model: shapes"
    )


def test_new_fields_are_in_receipts_and_their_code(found: dict[str, Any]) -> None:
    assert found["code"] == dict.fromkeys(("curl", "openai", "InferenceClient"), [True] * 3)
    said = [found["receipt"][name] for name in ("Grain", "Adapters", "Start")]
    assert said == [
        "2",
        'name walls, "old", weight 0.5, sha256 0a; name night, weight 1.0, sha256 0a',
        "input ab:c, strength 0.25, resize crop",
    ]
