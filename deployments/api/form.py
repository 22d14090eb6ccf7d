"""Multipart forms: how they are read, what their texts mean as fields of a body, and what OpenAPI says of them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from deployments.input_intake import InputIntake
from deployments.request_body import RequestBody, plain_type
from deployments.schema import nested_type
from models.errors import InvalidRequest

FORM = "multipart/form-data"
NO_ADDRESSES = "Addresses are not fetched: send the bytes of the image."
MEMBER = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")  # hires[scale]: of an object, as OpenAI's clients send it in a form
Parts = Sequence[tuple[str, str | bytes]]  # name and text, or name and content of a file
Body = TypeVar("Body", bound=RequestBody)


@contextmanager
def counted(request: Request, intake: InputIntake, owner: str) -> Iterator[Request]:
    """Yield a request of an owner's whose body counts among those that arrive (see `InputIntake.coming`)."""
    with intake.coming(owner) as take:

        async def receive() -> Message:
            message = await request.receive()
            take(len(message.get("body", b"")))
            return message

        yield Request(request.scope, receive)


async def read_parts(request: Request, max_files: int, max_fields: int, expected: str) -> Parts:
    """Return the parts of a form. A part with a file name is a file.

    Raises:
        InvalidRequest: it is no form, or has more parts: not what is `expected`.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind.decode("latin-1") != FORM:
        shown = request.headers.get("content-type", "")[:100] or "none"
        raise InvalidRequest(f"Content-Type must be {FORM}, got {shown}. {NO_ADDRESSES}", "Content-Type")
    if options.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise InvalidRequest("Content-Type must have no charset but utf-8.", "Content-Type")
    try:
        form = await request.form(max_files=max_files, max_fields=max_fields)
    except HTTPException:  # Starlette's, with a parser's words
        raise InvalidRequest(f"The body must be {FORM} with {expected}.") from None
    try:
        sent = form.multi_items()
        return [(name, await each.read() if isinstance(each, UploadFile) else each) for name, each in sent]
    finally:
        await form.close()


def read_fields(kind: type[Body], parts: Parts) -> Body:
    """Return the body that the texts of a form are. An object is one text of JSON, or a text for each member.

    Raises:
        InvalidRequest: a field that came twice, or is a file.
        RequestValidationError: as of a JSON body.
    """
    values: dict[str, Any] = {}
    objects: dict[str, dict[str, Any]] = {}
    for name, sent in parts:
        if not isinstance(sent, str):
            rule = "must be text, and no file" if name in kind.model_fields else "is not a known field"
            raise InvalidRequest(f"{name[:100]} {rule}.", name[:100])
        owner, field, member = _place(kind, name)
        holder = values if field == name else objects.setdefault(field, {})
        if member in holder or field in values or name in objects:
            raise InvalidRequest(f"{field[:100]} must be sent once.", field[:100])
        holder[member] = _value(owner, name, member, sent)
    values |= objects
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems, body=values) from None


def _place(kind: type[RequestBody], name: str) -> tuple[type[RequestBody], str, str]:
    """Return the body that the text of a name belongs to, the field of the form and the member of that body.

    Raises:
        InvalidRequest: a member of an object, where it is a field itself.
    """
    parts = MEMBER.fullmatch(name)
    if parts is None:
        return kind, name, name
    field, member = parts.groups()
    nested = nested_type(kind.model_fields[field].annotation) if field in kind.model_fields else None
    if nested is not None and issubclass(nested, RequestBody):
        return nested, field, member
    if member in kind.model_fields:
        raise InvalidRequest(f"{name[:100]} is not a known field: send {member}.", name[:100])
    return kind, name, name


def _value(kind: type[RequestBody], name: str, member: str, text: str) -> Any:
    """Return what a text means in a member: all but text is JSON. Python's clients write True and False."""
    annotation = kind.model_fields[member].annotation if member in kind.model_fields else str
    is_plain = plain_type(annotation) in (bool, int, float)
    if not is_plain and nested_type(annotation) is None:
        return text
    try:
        return json.loads(text.lower() if plain_type(annotation) is bool else text)
    except (ValueError, RecursionError):
        if is_plain:
            return text
        raise InvalidRequest(f"{name} must be JSON.", name) from None


def described(kind: type[RequestBody], files: Mapping[str, str], required: Sequence[str]) -> dict[str, Any]:
    """Return what OpenAPI says of a form with the fields of a body and some files: name -> description."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    binary = {name: {"type": "string", "format": "binary", "description": words} for name, words in files.items()}
    fields = {name: _without_null(each) for name, each in schema["properties"].items() if each.get("type") != "null"}
    form = {
        "type": "object",
        "properties": binary | fields,
        "required": [*required, *schema.get("required", ())],
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}}}}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of a field without the null that no form can have."""
    kinds = [each for each in field.get("anyOf", ()) if each != {"type": "null"}]
    rest = {name: value for name, value in field.items() if name != "anyOf" and (name, value) != ("default", None)}
    if isinstance(rest.get("type"), list):
        rest["type"] = next(each for each in rest["type"] if each != "null")
    return rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})
