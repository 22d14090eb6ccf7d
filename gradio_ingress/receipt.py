"""A finished picture's receipt: how it came about, and code that makes the same one again. Pure."""

import json
import re
import shlex
from typing import Any
from urllib.parse import quote

from deployments.input_store import PREFIX
from deployments.jobs import ImageResult
from deployments.named_inputs import named_inputs
from deployments.resolution import request_data
from gradio_ingress.controls import label
from models.compression import compression
from models.parameters import SAMPLER_NAMES
from models.public_data import public_data
from models.settings_text import OTHERS, is_default
from models.spec import ImageSpec

KEY = 'os.environ.get("DARKROOM_API_KEY", "unused")'
OPENAIS = ("prompt", "model", "width", "height", "output_format", "output_compression")  # among them as `size`
HUGGING_FACES = ("negative_prompt", "num_inference_steps", "guidance_scale", "seed")  # and `scheduler`, our sampler
DIGEST = re.compile(f"(?:{PREFIX})?([0-9a-f]{{12}})[0-9a-f]{{52}}")  # of which people see as much as of the model's
UNPACK = (
    'import base64, json, sys; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))'
)


def snippets(spec: ImageSpec, address: str) -> dict[str, str]:
    """Return code that makes the picture again, by the name of its client; `address` is the service's, without a path.

    A negative prompt is sent even if it is empty: the model may have one of its own for who leaves it out.
    """
    codes = {"curl": _curl(spec, address), "openai": _openai(spec, address), "InferenceClient": _hf(spec, address)}
    return {name: _sent_before(spec, address) + code for name, code in codes.items()}


def lines(image: ImageResult, queue_s: float | None) -> list[tuple[str, str]]:
    """Return the receipt's rows, name and value. `queue_s` is how long the picture's job waited, if that is known."""
    spec, settings = image.spec, public_data(image.spec)
    rows = f"batch of {image.batch_rows} {'row' if image.batch_rows == 1 else 'rows'}"
    waited = [] if queue_s is None else [("Waited", _time(queue_s))]
    again = [("Attempts", str(image.attempts))] if image.attempts > 1 else []
    size = [("File size", _size(image.size))] if image.size else []  # older jobs do not know it
    return [
        *waited,
        ("Read the prompt", _time(image.encode_s)),
        ("Denoised", f"{_time(image.denoise_s)}, {rows}"),
        ("Decoded", _time(image.decode_s) + (", in tiles" if image.tiled else "")),
        ("Seed", str(image.seed)),
        ("Model", f"{spec.model} · {image.model_digest[:12]}"),
        ("Sampler", SAMPLER_NAMES[spec.sampler]),
        ("Steps", str(spec.num_inference_steps)),
        ("Guidance", f"{spec.guidance_scale:g}" if spec.guided else "off"),
        *((label(field), _in_words(settings[field])) for field in OTHERS if not is_default(spec, field)),
        *([("Embeddings", _in_words(settings["embeddings"]))] if spec.embeddings else []),
        *again,
        *size,
    ]


def _sent_before(spec: ImageSpec, address: str) -> str:
    """What to do before, where the picture began with images: they are of whoever sent them, here of a browser."""
    named = named_inputs(spec).items()
    return "".join(f"# Send the image of {path} to {address}/v1/inputs first: {name}\n" for path, name in named)


def _curl(spec: ImageSpec, address: str) -> str:
    body = _printable(json.dumps(_openai_fields(spec) | _our_fields(spec), ensure_ascii=False))
    return (
        f"curl -sSf {shlex.quote(f'{address}/v1/images/generations')} -H 'Content-Type: application/json' \\\n"
        '  -H "Authorization: Bearer ${DARKROOM_API_KEY:-unused}" \\\n'
        f"  -d {shlex.quote(body)} \\\n"
        f"  | python3 -c {shlex.quote(UNPACK)} \\\n"
        f"  > {_file_name(spec)}\n"
    )


def _openai(spec: ImageSpec, address: str) -> str:
    fields = "".join(f"    {name}={value!r},\n" for name, value in _openai_fields(spec).items())
    extra = "".join(f"        {name!r}: {value!r},\n" for name, value in _our_fields(spec).items())
    return (
        "import base64\nimport os\nfrom pathlib import Path\n\nfrom openai import OpenAI\n\n"
        f"client = OpenAI(base_url={f'{address}/v1'!r}, api_key={KEY})\n"
        f"answer = client.images.generate(\n{fields}    extra_body={{\n{extra}    }},\n)\n"
        f"Path({_file_name(spec)!r}).write_bytes(base64.b64decode(answer.data[0].b64_json))\n"
    )


def _hf(spec: ImageSpec, address: str) -> str:
    """Its client hands out a decoded picture, so it asks for PNG and saves it as the service would have."""
    ours = _our_fields(spec)
    fields = {"width": spec.width, "height": spec.height, "scheduler": ours.pop("sampler")}
    fields |= {name: ours.pop(name) for name in HUGGING_FACES if name in ours}
    fields |= {"extra_body": ours} if ours else {}
    arguments = "".join(f"    {name}={value!r},\n" for name, value in fields.items())
    options = "".join(f", {name}={value!r}" for name, value in compression(spec).items())
    return (
        "import os\n\nfrom huggingface_hub import InferenceClient\n\n"
        f"client = InferenceClient(model={f'{address}/v1/hf/models/{quote(spec.model)}'!r}, token={KEY})\n"
        f"picture = client.text_to_image(\n    {spec.prompt!r},\n{arguments})\n"
        f"picture.save({_file_name(spec)!r}{options})\n"
    )


def _openai_fields(spec: ImageSpec) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": spec.model,
        "prompt": spec.prompt,
        "size": f"{spec.width}x{spec.height}",
        "output_format": spec.output_format,
    }
    return fields if spec.output_format == "png" else fields | {"output_compression": spec.output_compression}


def _our_fields(spec: ImageSpec) -> dict[str, Any]:
    """What OpenAI's clients have no name for."""
    return {name: value for name, value in request_data(spec).items() if name not in OPENAIS}


def _in_words(value: Any) -> str:
    """A setting as people read it: the members of an object, and objects one after the other."""
    if isinstance(value, list):
        return "; ".join(_in_words(each) for each in value)
    if isinstance(value, dict):
        members = value.items()
        return ", ".join(f"{name.replace('_', ' ')} {_in_words(each)}" for name, each in members if each is not None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return DIGEST.sub(r"\1", str(value))


def _file_name(spec: ImageSpec) -> str:
    return f"darkroom-{spec.seed}.{spec.output_format}"


def _printable(text: str) -> str:
    """JSON in which nothing is unseen or turns the line's direction around; Python's `repr` does so by itself."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _time(count_s: float) -> str:
    return f"{1000 * count_s:.0f} ms" if count_s < 0.1 else f"{count_s:.2f} s"


def _size(count: int) -> str:
    """Bytes as people read them."""
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1e3:.0f} kB" if count < 999_500 else f"{count / 1e6:.1f} MB"
