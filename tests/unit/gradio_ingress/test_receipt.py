"""A picture's receipt, and the code that makes it again."""

import ast
import inspect
import io
import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from PIL import Image

from deployments.api import huggingface
from deployments.api.openai import fields as openai
from deployments.jobs import ImageResult
from deployments.resolution import resolve
from deployments.schema import GenerationRequest
from gradio_ingress import receipt
from models.image_file import encode_image
from models.spec import Embedding, ImageSpec, InitImage, Lora
from models.vae import Decoded
from tests.fakes import CARD, a_spec

ADDRESS = "https://host"
NASTY = [
    "a \"red\" 'circle'",
    "two\nlines\r\n\ttabbed",
    "$(rm -rf /) `rm` ${HOME} $DARKROOM_API_KEY !! \\ \\n %s {x} ; | & > #",
    "'; rm -rf / #",
    "'''\"\"\"",
    "🙂 שלום \u202egnp.exe\u2066",
    "@/etc/passwd",
    "-d\x1b[31m\x7f\x9b",
]
MODEL_OWN = replace(CARD, defaults=CARD.defaults | {"negative_prompt": "the model's own", "output_format": "webp"})
nasty = pytest.mark.parametrize("words", NASTY)


def a_nasty_spec(words: str, **changes: Any) -> ImageSpec:
    return a_spec(prompt=words, negative_prompt=words[::-1], sampler="euler", guidance_scale=2.5, **changes)


def drawn_again(request: GenerationRequest) -> list[ImageSpec]:
    return resolve(request, MODEL_OWN)


def curl_body(snippet: str) -> dict[str, Any]:
    parts = shlex.split(snippet.replace("\\\n  ", " "))
    return json.loads(parts[parts.index("-d") + 1])


def arguments(snippet: str, method: str) -> tuple[list[Any], dict[str, Any]]:
    """What a call of a snippet is given, all of it literal."""
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
            named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
            return [ast.literal_eval(argument) for argument in node.args], named
    raise AssertionError(f"no call of {method}")


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def a_result(**changes: Any) -> ImageResult:
    known: dict[str, Any] = {
        "index": 0,
        "url": "/v1/files/a.png",
        "name": "a.png",
        "seed": 7,
        "spec": a_spec(sampler="euler_ancestral"),
        "model_digest": "0123456789abcdef" * 4,
        "encode_s": 0.0123,
        "denoise_s": 0.734,
        "decode_s": 0.0996,
        "batch_rows": 4,
        "attempts": 1,
        "size": 24_310,
    }
    return ImageResult(**known | changes)


@nasty
@pytest.mark.parametrize("changes", [{}, {"output_format": "jpeg", "output_compression": 60}])
def test_curl_asks_for_the_same_picture(words: str, changes: dict[str, Any]) -> None:
    spec = a_nasty_spec(words, **changes)
    body = curl_body(receipt.snippets(spec, ADDRESS)["curl"])
    assert drawn_again(openai.to_request(openai.ImagesBody.model_validate(body))) == [spec]


@nasty
def test_a_shell_sends_just_the_json_and_keeps_the_picture(words: str, tmp_path: Path) -> None:
    snippet = receipt.snippets(a_nasty_spec(words), ADDRESS)["curl"]
    fakes = 'curl() { printf \'%s\\n\' "$2" "$6" "${@: -1}"; }\npython3() { cat; }\n'
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    subprocess.run(["bash", "-euc", fakes + snippet], cwd=tmp_path, env=environment, check=True)
    address, key, body = (tmp_path / "darkroom-7.png").read_text(encoding="utf-8").splitlines()
    assert (address, key) == (f"{ADDRESS}/v1/images/generations", "Authorization: Bearer unused")
    assert json.loads(body) == curl_body(snippet)
    assert [path.name for path in tmp_path.iterdir()] == ["darkroom-7.png"]


@nasty
@pytest.mark.parametrize("changes", [{}, {"output_format": "webp", "output_compression": 60}])
def test_openais_client_asks_for_the_same_picture(words: str, changes: dict[str, Any]) -> None:
    spec = a_nasty_spec(words, **changes)
    _, named = arguments(receipt.snippets(spec, ADDRESS)["openai"], "generate")
    body = named | named.pop("extra_body")
    assert drawn_again(openai.to_request(openai.ImagesBody.model_validate(body))) == [spec]


@nasty
def test_hugging_faces_client_asks_for_the_same_picture(words: str) -> None:
    spec = a_nasty_spec(words)
    [prompt], parameters = arguments(receipt.snippets(spec, ADDRESS)["InferenceClient"], "text_to_image")
    inspect.signature(InferenceClient.text_to_image).bind(None, prompt, **parameters)
    body = huggingface.HFBody(inputs=prompt, parameters=parameters | parameters.pop("extra_body"))  # as the client does
    assert drawn_again(huggingface.to_request(body, "shapes", "image/png")) == [spec]


@pytest.mark.parametrize(
    ("output_format", "quality"),
    [("jpeg", 60), ("jpeg", 89), ("jpeg", 90), ("jpeg", 95), ("jpeg", 100), ("webp", 60), ("webp", 100), ("png", 100)],
)
def test_hugging_faces_client_saves_the_pixels_of_the_services_file(output_format: str, quality: int) -> None:
    spec = a_spec(output_format=output_format, output_compression=quality)
    decoded = Decoded(np.random.default_rng(7).integers(0, 256, (64, 64, 3), dtype=np.uint8), tiled=False)
    [name], options = arguments(receipt.snippets(spec, ADDRESS)["InferenceClient"], "save")
    assert name == f"darkroom-7.{output_format}"
    saved = io.BytesIO()
    as_png = encode_image(decoded, replace(spec, output_format="png"), "0")  # which the client asks for and decodes
    Image.open(io.BytesIO(as_png)).save(saved, output_format, **options)
    assert np.array_equal(pixels(saved.getvalue()), pixels(encode_image(decoded, spec, "0")))


def test_an_empty_negative_prompt_is_sent_as_the_model_may_have_its_own() -> None:
    found = receipt.snippets(a_spec(), ADDRESS)
    assert curl_body(found["curl"])["negative_prompt"] == ""
    assert arguments(found["openai"], "generate")[1]["extra_body"]["negative_prompt"] == ""
    assert arguments(found["InferenceClient"], "text_to_image")[1]["negative_prompt"] == ""


def test_a_models_id_is_quoted_in_a_path() -> None:
    snippet = receipt.snippets(a_spec(model="a model?"), ADDRESS)["InferenceClient"]
    assert "'https://host/v1/hf/models/a%20model%3F'" in snippet


@nasty
def test_nothing_unseen_stands_in_code(words: str) -> None:
    for snippet in receipt.snippets(a_nasty_spec(words), ADDRESS).values():
        assert snippet.replace("\n", "").isprintable()


def test_the_key_is_the_environments() -> None:
    for snippet in receipt.snippets(a_spec(), ADDRESS).values():
        assert "DARKROOM_API_KEY" in snippet


def test_a_receipt_says_how_a_picture_came_about() -> None:
    assert receipt.lines(a_result(), queue_s=0.0) == [
        ("Waited", "0 ms"),
        ("Read the prompt", "12 ms"),
        ("Denoised", "0.73 s, batch of 4 rows"),
        ("Decoded", "100 ms"),
        ("Seed", "7"),
        ("Model", "shapes · 0123456789ab"),
        ("Sampler", "Euler a"),
        ("Steps", "8"),
        ("Guidance", "4"),
        ("File size", "24 kB"),
    ]


def test_a_receipt_says_that_an_image_was_decoded_in_tiles() -> None:
    whole, tiled = (dict(receipt.lines(a_result(tiled=tiled), None))["Decoded"] for tiled in (False, True))
    assert tiled == f"{whole}, in tiles"


def test_a_receipt_tells_only_what_is_known_and_unusual() -> None:
    again = dict(receipt.lines(a_result(attempts=2, size=0, batch_rows=1, spec=a_spec(guidance_scale=1.0)), None))
    assert (again["Attempts"], again["Denoised"], again["Guidance"]) == ("2", "0.73 s, batch of 1 row", "off")
    assert not {"Waited", "File size"} & set(again)


def test_a_receipt_names_embeddings_with_short_digests() -> None:
    ink = Embedding(name="ink", sha256="a" * 64)
    shown = dict(receipt.lines(a_result(spec=a_spec(prompt="<ink>", embeddings=(ink,))), None))
    assert shown["Embeddings"] == "name ink, sha256 aaaaaaaaaaaa"
    assert "Embeddings" not in dict(receipt.lines(a_result(), None))


def test_a_receipt_names_objects_as_the_form_does_with_short_digests() -> None:
    image, mask = f"input_{'0123456789abcdef' * 4}", f"input_{'fedcba98' * 8}"
    init = InitImage(input=image, strength=0.5, mask=mask, paste_back=True)
    lora = Lora(name="ink", weight=-0.5, sha256="ab" * 32)
    shown = dict(receipt.lines(a_result(spec=replace(a_spec(), init=init, loras=(lora,))), None))
    assert shown["Image"] == (
        "input 0123456789ab, strength 0.5, resize mode crop, mask fedcba98fedc, mask blur 4, area whole, paste back yes"
    )
    assert shown["LoRAs"] == "name ink, weight -0.5, sha256 abababababab"


@pytest.mark.parametrize(
    ("size", "shown"),
    [(812, "812 bytes"), (1000, "1 kB"), (999_499, "999 kB"), (999_500, "1.0 MB"), (2_340_000, "2.3 MB")],
)
def test_sizes_are_read_by_people(size: int, shown: str) -> None:
    assert dict(receipt.lines(a_result(size=size), None))["File size"] == shown


def test_code_for_a_picture_that_began_with_an_image_says_to_send_that_first() -> None:
    image = "input_" + "0" * 64
    codes = receipt.snippets(replace(a_spec(), init=InitImage(input=image, strength=0.5)), "http://a")
    for code in codes.values():
        assert code.startswith(f"# Send the image of init.input to http://a/v1/inputs first: {image}\n")
    assert not any(code.startswith("#") for code in receipt.snippets(a_spec(), "http://a").values())
