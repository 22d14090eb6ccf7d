"""What all dialects have in common: each field of each body, enumerated from the models that FastAPI reads."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi.routing import APIRoute
from pydantic.fields import FieldInfo

from deployments.api import huggingface, jobs, status
from deployments.api.openai import fields as openai
from deployments.api.openai import generations
from deployments.nested_requests import InitRequest
from deployments.request_body import RequestBody, plain_type
from deployments.schema import GenerationRequest, nested_type
from models.errors import AdapterChanged
from models.validation import field_of
from ops.openapi import description
from tests.image_files import photo, saved
from tests.unit.deployments.api.caller import Api

IMAGE = saved(photo(), "PNG")
PROMPTS = {"prompt": "a circle", "inputs": "a circle"}  # what is required, by its name in a dialect
REQUIRED = {  # of nested objects
    "init": {"input": "input_" + "0" * 64},
    "hires": {"scale": 2.0},
    "loras[0]": {"name": "chalk"},
    "target_size": {"width": 128, "height": 128},
}
FORMS: dict[str, Any] = {"/images/edits": openai.EditBody, "/images/variations": openai.VariationBody}
HF = "/hf/models/shapes"
PYDANTIC = re.compile(
    r"(?i)input should|should have|should match|value error|valid (string|integer|number|boolean|list|dictionary)|"
    r"field required|extra inputs|permitted|type=|pydantic|\^|\$"
)
WRONG: tuple[Any, ...] = (
    "",
    "wrong",
    "x" * 5000,
    "a\0b",
    -(10**9),
    10**400,
    0.5,
    float("nan"),
    float("inf"),
    True,
    [],
    [1],
    {},
    {"wrong": 1},
)


FIRST = "[0]"  # in the name of a list of objects: the object that is meant


class Field(NamedTuple):
    """A field of a body: the route, the path of objects around it, its name and its declaration."""

    route: str
    around: tuple[str, ...]
    name: str
    info: FieldInfo

    def body(self, value: Any) -> dict[str, Any]:
        """A request in which everything is right but this value."""
        required = "inputs" if self.route == HF else "prompt"
        body: dict[str, Any] = {required: PROMPTS[required]}
        inner = body
        for name in self.around:
            new = dict(REQUIRED.get(name, {}))
            listed = name.removesuffix(FIRST)
            inner[listed] = [new] if listed != name else new
            inner = new
        inner[self.name] = value
        return body

    @property
    def path(self) -> str:
        """The field as errors name it."""
        return ".".join((*(name for name in self.around if name != "parameters"), self.name))


def bodies() -> dict[str, type[Any]]:
    """The body of each route that has one, by its path."""
    client: Any = None
    routers = (
        generations.router(client, client),
        jobs.router(client, client),
        huggingface.router(client, client, client),
        status.router(client, dict, [], ""),
    )
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return {
        route.path.replace("{model_id:path}", "shapes"): route.body_field.field_info.annotation
        for route in routes
        if route.body_field is not None
    }


def fields_of(route: str, kind: type[Any], around: tuple[str, ...] = ()) -> Iterator[Field]:
    for name, info in kind.model_fields.items():
        yield Field(route, around, name, info)
        inner = nested_type(info.annotation)
        if inner is not None:
            is_list = plain_type(info.annotation) is not inner
            yield from fields_of(route, inner, (*around, f"{name}{FIRST}" if is_list else name))


BODIES = bodies()
OTHER_BODIES = {"/inputs/{input_id}/extend"}  # that ask for no image
FIELDS = [field for route, kind in BODIES.items() for field in fields_of(route, kind)]
OPTIONAL = [field for field in FIELDS if not field.info.is_required()]
NUMBERS = [field for field in FIELDS if plain_type(field.info.annotation) in (int, float)]


def named(field: Field) -> str:
    return "-".join((field.route, *field.around, field.name))


def takes_json(operation: dict[str, Any]) -> bool:
    return "application/json" in operation.get("requestBody", {}).get("content", {})


def test_each_route_with_a_body_is_here_and_each_object_is_a_request_body() -> None:
    paths = description()["paths"]
    with_body = {path for path, methods in paths.items() if any(map(takes_json, methods.values()))}
    assert {path.replace("{model_id}", "shapes") for path in with_body} - OTHER_BODIES == set(BODIES)
    kinds = [*BODIES.values(), *(found for field in FIELDS if (found := nested_type(field.info.annotation)))]
    assert [kind for kind in kinds if not issubclass(kind, RequestBody)] == []
    assert len(NUMBERS) > 20


@pytest.mark.parametrize("field", OPTIONAL, ids=named)
def test_null_is_the_same_as_leaving_a_field_out(field: Field) -> None:
    kind = BODIES[field.route]
    left_out = kind.model_validate({name: value for name, value in PROMPTS.items() if name in kind.model_fields})
    body = kind.model_validate(field.body(None))
    for name in field.around:
        body = getattr(body, name.removesuffix(FIRST))
        body = body[0] if name.endswith(FIRST) else body
        left_out = type(body)(**REQUIRED.get(name, {}))
    assert getattr(body, field.name) == getattr(left_out, field.name)
    assert field.name not in body.model_fields_set


async def test_a_request_in_which_all_that_is_optional_is_null_gives_an_image(api: Api) -> None:
    for route in BODIES:
        body: dict[str, Any] = {}
        for field in (each for each in OPTIONAL if each.route == route and not each.around):
            body |= field.body(None)
        if route == HF:
            body["parameters"] = {field.name: None for field in OPTIONAL if field.around == ("parameters",)}
        assert (await api.http.post(route, json=body)).status_code in (200, 202), route


def test_openapi_allows_null_in_each_optional_field_and_in_no_other() -> None:
    schemas = description()["components"]["schemas"]
    for field in FIELDS:
        kind = BODIES[field.route]
        for name in field.around:
            kind = nested_type(kind.model_fields[name.removesuffix(FIRST)].annotation)  # type: ignore[assignment]
        described = schemas[kind.__name__]["properties"][field.name]
        allows = {"type": "null"} in described.get("anyOf", [described]) or "null" in described.get("type", ())
        assert allows != field.info.is_required(), named(field)


@pytest.mark.parametrize("field", NUMBERS, ids=named)
async def test_a_boolean_is_no_number(api: Api, field: Field) -> None:
    kind = "an integer" if plain_type(field.info.annotation) is int else "a number"
    for value in (True, False):
        answer = await api.http.post(field.route, json=field.body(value))
        assert answer.status_code == 400
        error = answer.json()["error"]
        message = error if field.route == HF else error["message"]
        assert message == f"{field.path} must be {kind}, got {json.dumps(value)}."
        assert field.route == HF or error["param"] == field.path


@pytest.mark.parametrize("path", ["/jobs", "/images/generations", HF])
async def test_a_seed_of_minus_one_is_random(api: Api, path: str) -> None:
    for _ in range(2):
        body = {"inputs": "a", "parameters": {"seed": -1}} if path == HF else {"prompt": "a", "seed": -1}
        assert (await api.http.post(path, json=body)).status_code in (200, 202)
    while len(api.pipeline.specs) < 2:
        await api.http.get("/queue")
    first, second = (spec.seed for spec in api.pipeline.specs)
    assert min(first, second) >= 0
    assert first != second


async def refusals(api: Api, field: Field) -> list[str]:
    """The messages of the errors that wrong values of a field give."""
    found = []
    for value in WRONG:
        content = json.dumps(field.body(value))
        answer = await api.http.post(field.route, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 202, 400, 404), answer.text
        if answer.status_code >= 400:
            error = answer.json()["error"]
            found.append(error if isinstance(error, str) else error["message"])
    return found


@pytest.mark.parametrize("field", FIELDS, ids=named)
async def test_no_error_has_a_phrase_of_pydantics_or_a_regular_expression(field: Field, tmp_path: Path) -> None:
    messages = await refusals(Api(tmp_path, max_waiting=1000), field)
    assert messages, "none of the values was wrong"
    own_names = {"num_images", "width", "height"} if field.route == "/images/generations" else set()
    own_names |= {"prompt", "sampler"} if field.route == HF else set()
    for message in messages:
        assert not PYDANTIC.search(message), message
        assert field.name in own_names or not own_names & {message.split()[0]}, message
        assert message.endswith((".", "?")), message


@pytest.mark.parametrize("route", FORMS)
async def test_no_error_of_a_form_has_a_phrase_of_pydantics_or_a_name_of_our_own(route: str, tmp_path: Path) -> None:
    api = Api(tmp_path, max_waiting=1000)
    required = {"prompt": "a circle"} if route == "/images/edits" else {}
    for name in FORMS[route].model_fields:
        refused = 0
        for value in ("", "wrong", "x" * 5000, "a\0b", "-1000000000", "1e400", "0.5", "NaN", "true", "[]", "{}"):
            files = {"image": ("a.png", IMAGE)}
            answer = await api.http.post(route, data={**required, name: value}, files=files)
            assert answer.status_code in (200, 400, 404), answer.text
            if answer.status_code >= 400:
                refused += 1
                error = answer.json()["error"]
                assert not PYDANTIC.search(error["message"]), error
                assert field_of(error["param"]) == name, error
                assert error["message"].endswith((".", "?")), error
        assert refused, f"{name}: none of the values was wrong"


DIALECTS = [
    (openai.DIALECT, openai.ImagesBody),
    (openai.EDITS, openai.EditBody),
    (openai.EDITS, openai.VariationBody),
    (huggingface.DIALECT, huggingface.HFBody),
    (huggingface.OF_IMAGE, huggingface.HFBody),
]


def test_an_error_that_ends_a_job_names_the_dialects_field_too() -> None:
    with pytest.raises(AdapterChanged) as caught, huggingface.DIALECT.errors():
        raise AdapterChanged("prompt: ink has changed since the job was accepted.", "prompt")
    assert (caught.value.param, caught.value.message.partition(":")[0]) == ("inputs", "inputs")


@pytest.mark.parametrize(("dialect", "kind"), DIALECTS)
def test_a_dialect_renames_fields_that_exist_and_has_none_of_them_by_both_names(dialect: Any, kind: Any) -> None:
    members = {f"init.{name}" for name in InitRequest.model_fields}
    assert set(dialect.names) <= {*GenerationRequest.model_fields, *members}
    has = set(kind.model_fields)
    if kind is huggingface.HFBody:
        has |= set(huggingface.HFParameters.model_fields) - {"prompt"}  # of an image alone
    assert set(dialect.names.values()) <= {*has, "image", "mask"}  # two are files
    assert not set(dialect.names) & has
