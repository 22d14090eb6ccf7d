"""The settings that a picture carries: our own as JSON, else those of AUTOMATIC1111's web UI as text. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from deployments.schema import nested_type
from gradio_ingress import controls
from gradio_ingress.image_texts import STEPS, read_texts
from gradio_ingress.scalar_controls import label, plain
from models.errors import InvalidRequest
from models.parameters import SAMPLER_NAMES
from models.settings_text import SETTINGS, read_value
from models.spec import ImageSpec

FIELDS = tuple(name for name in controls.FIELDS if name in ImageSpec.__slots__)  # that a form has and an image keeps
CHOSEN = ("sampler", "output_format")  # from a list of ours
FINITE = ConfigDict(allow_inf_nan=False)
NESTED = frozenset(name for name in FIELDS if nested_type(controls.FIELDS[name].annotation))
TYPES: Mapping[str, TypeAdapter[Any]] = {  # plain values without bounds
    name: TypeAdapter(plain(controls.FIELDS[name]), config=None if name in NESTED else FINITE) for name in FIELDS
}
SAMPLERS = {name: sampler for sampler, name in SAMPLER_NAMES.items()}
PLAIN_SCHEDULES = ("", "Automatic", "Uniform", "Normal")  # what a sampler does unless told otherwise
SETTING = re.compile(r'(?:^|,)([^:,"]++):( *+"(?:\\.|[^"\\])*+"|[^,]*+)')  # possessive: nothing is tried twice
MAX_TEXT = 2**20  # characters; Pillow reads no more of a PNG's, but any number of EXIF's
APART = ("Sampler", "Size")  # settings that are read in a way of their own
NAMES = {setting: field for field, setting in SETTINGS.items() if setting not in APART}
READ = {*NAMES, *APART, "Schedule type"}
SILENT = {"Model hash", "Version"}  # in every picture, and nothing that could be set


def read(content: bytes) -> tuple[dict[str, Any], list[str]]:
    """Return fields of `GenerationRequest` that a PNG, JPEG or WebP file names, and notes on what could not be used.

    A value has its field's type and is otherwise as the file has it; whether it is allowed is for the form to say.

    Raises:
        InvalidRequest: not such a picture, or one without settings.
    """
    texts = read_texts(content)
    ours, text = texts.get("darkroom", ""), texts.get("parameters", "")
    if len(ours) + len(text) > MAX_TEXT:
        raise InvalidRequest(f"The settings of a picture must be at most {MAX_TEXT} characters.")
    found, notes = _typed(_from_json(ours), strict=True)
    if not found and text.strip():
        found, notes = _from_parameters(text)
    if not found:
        raise InvalidRequest("This picture carries no settings.")
    return found, notes


def _from_json(text: str) -> dict[str, Any]:
    try:
        values = from_json(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _from_parameters(text: str) -> tuple[dict[str, Any], list[str]]:
    """Source: `parse_generation_parameters` in AUTOMATIC1111's `modules/infotext_utils.py`.

    Unlike there, the line of settings is known by its first one, as a prompt may have colons too.
    """
    words, mark, line = ("\n" + text.rstrip()).rpartition("\n" + STEPS)
    if not mark:
        words, line = line, ""
    prompt, _, negative_prompt = words.partition("\nNegative prompt:")
    values = {"prompt": prompt[1:], "negative_prompt": negative_prompt.removeprefix(" ")}
    pairs = SETTING.findall(mark[1:] + line.partition("\n")[0])
    settings = {name.strip(): value.strip() for name, value in pairs}
    settings = {name: read_value(text, is_nested=NAMES.get(name) in NESTED) for name, text in settings.items()}
    values |= {field: settings[name] for name, field in NAMES.items() if name in settings}
    if "Sampler" in settings:
        values["sampler"] = _sampler(settings["Sampler"], settings.get("Schedule type", ""))
    if "Size" in settings:
        values["width"], _, values["height"] = settings["Size"].partition("x")
    found, notes = _typed(values, strict=False)
    unused = ", ".join(name for name in settings if name not in READ | SILENT)
    return found, [*notes, f"Not used: {_cut(unused, 200)}."] if unused else notes


def _sampler(name: str, schedule: str) -> str:
    """Our name of a sampler; theirs where it is none of ours. Since version 1.9 the schedule stands beside it."""
    whole = name if schedule in PLAIN_SCHEDULES else f"{name} {schedule}"
    return SAMPLERS.get(whole, whole)


def _typed(values: Mapping[str, Any], *, strict: bool) -> tuple[dict[str, Any], list[str]]:
    """Those values that have their field's type, and notes on the others. What is all text is read less strictly."""
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name in FIELDS:
        value = values.get(name)
        if value is None or (name == "prompt" and value == ""):
            continue
        try:
            found[name] = _nested(name, value) if name in NESTED else TYPES[name].validate_python(value, strict=strict)
        except ValidationError:
            problem = "is not one of ours" if name in CHOSEN else "could not be read"
            notes.append(f"{label(name)} “{_cut(str(value), 60)}” {problem}.")
    return found, notes


def _nested(name: str, value: Any) -> Any:
    """The objects of a field as a request has them, without members that it does not have. Raises ValidationError."""
    kind = TYPES[name]
    return kind.dump_python(kind.validate_python(value, extra="ignore"), mode="json")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"
