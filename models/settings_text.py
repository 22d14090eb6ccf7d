"""An image's settings as the AUTOMATIC1111 web UI writes them into a file, so that other tools read them. No torch.

Nested objects are written as JSON. "Clip skip" there is the number of the layer that the text is read from, counted
from the last one. Embeddings are named by the prompts, so only their digests are written. That of a LoRA leaves out the
file's header, that of an embedding does not.

Source: `create_infotext` in AUTOMATIC1111's `modules/processing.py`, `set_hash` in its
`modules/textual_inversion/textual_inversion.py`; `addnet_hash_safetensors` in its `modules/hashes.py`, of which
`extensions-builtin/Lora` writes 12 digits; `quote` and `unquote` in its `infotext_utils.py`;
"CFG Rescale phi" of the extension CFG_Rescale_webui.
"""

import json
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from pydantic_core import from_json

from models.families.registry import FAMILIES
from models.parameters import SAMPLER_NAMES
from models.public_data import public_data
from models.spec import ImageSpec

OF_THE_MODEL = ("embedded_guidance", "family")
APART = (
    *("prompt", "negative_prompt", "width", "height", "output_format", "output_compression", "embeddings"),
    *OF_THE_MODEL,
)
KNOWN = {  # to that web UI: field -> name
    "num_inference_steps": "Steps",
    "sampler": "Sampler",
    "guidance_scale": "CFG scale",
    "seed": "Seed",
    "model": "Model",
}
OTHERS = {  # every other field has its own name
    field.name: field.name.replace("_", " ").capitalize()
    for field in fields(ImageSpec)
    if field.name not in KNOWN and field.name not in APART
}
SETTINGS = KNOWN | OTHERS | {"guidance_rescale": "CFG Rescale phi"}
ALWAYS_WRITTEN = "prompt_syntax"  # as texts of that web UI are weighted and do not say so
LORA_HASHES, EMBEDDING_HASHES = "Lora hashes", "TI hashes"
HASH_DIGITS = 12  # of a SHA-256
DEFAULTS = {field.name: field.default for field in fields(ImageSpec) if field.default is not MISSING}


def settings_text(spec: ImageSpec) -> str:
    """Return prompt, negative prompt and a line of settings; those that are as by default are left out."""
    written = {
        field: name for field, name in SETTINGS.items() if field == ALWAYS_WRITTEN or not is_default(spec, field)
    }
    values = {name: write_value(_value(spec, field)) for field, name in written.items()}
    values["Sampler"] = SAMPLER_NAMES[spec.sampler]
    values["Size"] = f"{spec.width}x{spec.height}"
    loras = {lora.name: lora.tensors_sha256 for lora in spec.loras if lora.tensors_sha256}
    embeddings = {each.name: each.sha256 for each in spec.embeddings}
    for name, sums in ((LORA_HASHES, loras), (EMBEDDING_HASHES, embeddings)):
        if sums:
            values[name] = write_value(", ".join(f"{file}: {digits[:HASH_DIGITS]}" for file, digits in sums.items()))
    values["Model"] = values.pop("Model")  # the last one, as there
    lines = [spec.prompt, f"Negative prompt: {spec.negative_prompt}"] if spec.negative_prompt else [spec.prompt]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in values.items())])


def is_default(spec: ImageSpec, field: str) -> bool:
    """Whether a field has the value that it has in a spec which does not name it."""
    return field in DEFAULTS and getattr(spec, field) == DEFAULTS[field]


def _value(spec: ImageSpec, field: str) -> Any:
    value = getattr(spec, field)
    return FAMILIES[spec.family].last_text_layer + value if field == "clip_skip" else value


def write_value(value: Any) -> str:
    """Return a setting's value as text: nested objects as JSON, and in quotes a text that would end the setting."""
    is_nested = is_dataclass(value) or isinstance(value, list | tuple)
    text = json.dumps(public_data(value), ensure_ascii=False) if is_nested else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text


def read_value(text: str, *, is_nested: bool = False) -> Any:
    """Return the text that `write_value` or AUTOMATIC1111 wrote; of a nested field, the JSON in it.

    What cannot be read so stays as it is.
    """
    text = _parsed(text) if text.startswith('"') else text
    return _parsed(text) if is_nested and isinstance(text, str) else text


def _parsed(text: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        return text.strip('"')
