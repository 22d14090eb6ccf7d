"""An image's settings as the AUTOMATIC1111 web UI writes them into a file, so that other tools read them. No torch.

Source: `create_infotext` in AUTOMATIC1111's `modules/processing.py`.
"""

from dataclasses import MISSING, fields

from models.parameters import SAMPLER_NAMES
from models.spec import ImageSpec

OF_THE_MODEL = ("embedded_guidance", "family")
APART = ("prompt", "negative_prompt", "width", "height", "output_format", "output_compression", *OF_THE_MODEL)
KNOWN = {  # to that web UI: field -> name
    "num_inference_steps": "Steps",
    "sampler": "Sampler",
    "guidance_scale": "CFG scale",
    "seed": "Seed",
    "model": "Model",
}
SETTINGS = KNOWN | {  # every other field has its own name
    field.name: field.name.replace("_", " ").capitalize()
    for field in fields(ImageSpec)
    if field.name not in KNOWN and field.name not in APART
}
DEFAULTS = {field.name: field.default for field in fields(ImageSpec) if field.default is not MISSING}


def settings_text(spec: ImageSpec) -> str:
    """Return prompt, negative prompt and a line of settings; those that are as by default are left out."""
    values = {name: getattr(spec, field) for field, name in SETTINGS.items() if not _is_default(spec, field)}
    values["Sampler"] = SAMPLER_NAMES[spec.sampler]
    values["Size"] = f"{spec.width}x{spec.height}"
    values["Model"] = values.pop("Model")  # the last one, as there
    lines = [spec.prompt, f"Negative prompt: {spec.negative_prompt}"] if spec.negative_prompt else [spec.prompt]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in values.items())])


def _is_default(spec: ImageSpec, field: str) -> bool:
    return field in DEFAULTS and getattr(spec, field) == DEFAULTS[field]
