"""What a picture's settings become."""

import io
import json
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.WebPImagePlugin import WebPImageFile

from deployments.schema import MAX_SEED
from gradio_ingress import png_info
from gradio_ingress.restored import settings_here
from models.errors import InvalidRequest
from models.image_file import encode_image
from models.model_card import AdapterCard, EmbeddingCard
from models.parameters import SAMPLERS
from models.public_data import public_data
from models.settings_text import settings_text
from models.spec import Embedding, ImageSpec, InitImage, Lora
from models.vae import Decoded
from tests.fakes import CARD, a_spec

INK, BLUR = Embedding(name="ink", sha256="a" * 64), Embedding(name="blur-v1.2", sha256="b" * 64)
CHALK = Lora(name="chalk", weight=0.5, sha256="f" * 64, tensors_sha256="c" * 64)
SERVED = replace(
    CARD,
    adapters=(AdapterCard(name="chalk", sha256="f" * 64, tensors_sha256="c" * 64), AdapterCard(name="ink")),
    embeddings=tuple(EmbeddingCard(name=each.name, sha256=each.sha256, vectors=2) for each in (INK, BLUR)),
)
NOTHING = "This picture carries no settings."
NO_PICTURE = "This is not a PNG, JPEG or WebP picture that can be read."
DECODED = Decoded(np.zeros((8, 8, 3), np.uint8), tiled=False)
AUTOMATIC = (
    "a castle, (stone:1.2), <lora:walls:1>\nat night\n"
    "Negative prompt: blurry, text\nugly\n"
    "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 1234, Size: 512x768, "
    'Model hash: 6ce0161689, Model: "v1-5, pruned", Lora hashes: "walls: 1a2b, Seed: 9", Clip skip: 2, Version: v1.9.4'
)
# what a text means that does not name them
NONE_SKIPPED = {"guidance_rescale": 0.0, "clip_skip": 0, "prompt_syntax": "weighted"}

characters = st.characters(blacklist_categories=("Cs",), blacklist_characters="\0")
words = st.text(characters, min_size=1).filter(lambda text: text.strip() and "\nNegative prompt:" not in "\n" + text)
specs = st.builds(
    ImageSpec,
    model=st.from_regex(r'["A-Za-z0-9]([A-Za-z0-9._/,:" -]{0,20}["A-Za-z0-9])?', fullmatch=True),
    prompt=words,
    negative_prompt=st.text(characters),
    width=st.integers(64, 2048),
    height=st.integers(64, 2048),
    num_inference_steps=st.integers(1, 150),
    guidance_scale=st.floats(0, 30),
    guidance_rescale=st.floats(0, 1),
    clip_skip=st.integers(0, 32),
    prompt_syntax=st.sampled_from(["plain", "weighted"]),
    sampler=st.sampled_from(SAMPLERS),
    seed=st.integers(0, MAX_SEED),
    output_format=st.just("png"),
)


def a_png(**texts: str) -> bytes:
    info, content = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_itxt(name, text)
    Image.new("RGB", (8, 8)).save(content, "png", pnginfo=info)
    return content.getvalue()


ASCII, UNDEFINED = 2, 7  # types of EXIF values


def with_comment(
    file_format: str, comment: bytes, kind: int = UNDEFINED, order: str = ">", *, in_first_folder: bool = False
) -> bytes:
    """An image whose EXIF has a comment and nothing else, in the byte order of Motorola (>) or Intel (<)."""

    def folder(tag: int, kind: int, count: int, value: int) -> bytes:
        return struct.pack(order + "HHHIII", 1, tag, kind, count, value, 0)

    head = struct.pack(order + "2sHI", b"MM" if order == ">" else b"II", 42, 8)
    folders = b"" if in_first_folder else folder(ExifTags.IFD.Exif, 4, 1, 8 + 18)
    folders += folder(ExifTags.Base.UserComment, kind, len(comment), 8 + len(folders) + 18)
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, file_format, exif=b"Exif\0\0" + head + folders + comment)
    return content.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def after_the_pixels(png: bytes, *chunks: bytes) -> bytes:
    end = chunk(b"IEND", b"")
    return png.removesuffix(end) + b"".join(chunks) + end


def settings(of: ImageSpec) -> dict[str, Any]:
    return {name: value for name, value in asdict(of).items() if name in png_info.FIELDS and value not in (None, ())}


SOUND = [
    a_png(parameters=AUTOMATIC, darkroom=json.dumps(settings(replace(a_spec(), prompt="a star")))),
    with_comment("jpeg", b"UNICODE\0" + AUTOMATIC.encode("utf-16-be")),
    with_comment("webp", b"UNICODE\0" + AUTOMATIC.encode("utf-16-be")),
]


def problem(content: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        png_info.read(content)
    return caught.value.message


@pytest.mark.parametrize("prompt", ['a "red"\ncircle 🙂', "ein Café\x85 in Köln"])
def test_a_picture_of_ours_reads_back_to_its_spec(prompt: str) -> None:
    spec = a_spec(prompt=prompt, negative_prompt="Öl", sampler="dpmpp_2m_karras", guidance_scale=2.5)
    assert png_info.read(encode_image(DECODED, spec, "digest")) == (settings(spec), [])


def test_the_image_that_a_picture_began_with_is_named_in_its_file() -> None:
    init = InitImage(input=f"input_{'0' * 64}", strength=0.5, mask=f"input_{'1' * 64}", paste_back=True)
    assert png_info.read(encode_image(DECODED, a_spec(init=init), "digest"))[0]["init"] == asdict(init)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_a_file_of_ours_in_another_format_reads_back_to_its_spec(output_format: str) -> None:
    spec = a_spec(prompt='a "red"\ncircle 🙂', negative_prompt="שלום", output_format=output_format)
    expected = settings(spec)
    del expected["output_format"]
    assert png_info.read(encode_image(DECODED, spec, "digest")) == (expected, [])


@given(specs)
def test_what_we_write_for_other_tools_reads_back(spec: ImageSpec) -> None:
    expected = settings(spec)
    del expected["output_format"]
    assert png_info.from_texts({"parameters": settings_text(spec)}) == (expected, [])


def test_digests_of_embeddings_are_written_as_automatic1111_writes_them() -> None:
    spec = a_spec(prompt="<ink> and embedding:blur-v1.2", embeddings=(INK, BLUR), loras=(CHALK,))
    text = settings_text(spec)
    hashes = '"chalk: cccccccccccc", TI hashes: "ink: aaaaaaaaaaaa, blur-v1.2: bbbbbbbbbbbb"'
    assert text.endswith(f", Prompt syntax: plain, Size: 128x128, Lora hashes: {hashes}, Model: shapes")
    assert "TI hashes" not in settings_text(a_spec())
    assert png_info.from_texts({"parameters": text}, [SERVED])[1] == []


@pytest.mark.parametrize("kind", ["json", "text"])
def test_a_file_that_is_another_one_here_gives_a_note(kind: str) -> None:
    spec = a_spec(prompt="<ink> and embedding:blur-v1.2", embeddings=(INK, BLUR), loras=(CHALK,))
    texts = {"darkroom": json.dumps(asdict(spec))} if kind == "json" else {"parameters": settings_text(spec)}
    assert png_info.from_texts(texts, [SERVED])[1] == []
    other = replace(
        SERVED,
        adapters=(AdapterCard(name="chalk", sha256="0" * 64),),
        embeddings=(EmbeddingCard(name="ink", sha256="0" * 64),),
    )
    found, notes = png_info.from_texts(texts, [other])
    assert found["prompt"] == spec.prompt
    assert notes == [
        "The LoRA “chalk” is another file here than the picture was made with.",
        "The embedding “ink” is another file here than the picture was made with.",
        "shapes does not have these embeddings: “blur-v1.2”.",
    ]


@pytest.mark.parametrize(
    ("prompt", "restored"),
    [
        ("ink drawing, (blur-v1.2:1.2)", "embedding:ink drawing, (embedding:blur-v1.2:1.2)"),
        ("Ink, inky, pink, ink-v2, <lora:ink:1>", "embedding:ink, inky, pink, ink-v2, <lora:ink:1>"),
        ("a <blur-v1.2> ink, blur-v1.2", "a <blur-v1.2> embedding:ink, blur-v1.2"),
    ],
)
def test_a_bare_name_of_an_embedding_elsewhere_is_named_as_prompts_do_here(prompt: str, restored: str) -> None:
    line = 'Steps: 20, TI hashes: "ink: aaaaaaaaaaaa, blur-v1.2: bbbbbbbbbbbb", Version: v1.9.4'
    text = f"{prompt}\nNegative prompt: bad, ink\n{line}"
    found, notes = png_info.from_texts({"parameters": text}, [SERVED])
    assert (found["prompt"], found["negative_prompt"], notes) == (restored, "bad, embedding:ink", [])
    kept, notes = png_info.from_texts({"parameters": text}, [replace(SERVED, embeddings=())])
    assert (kept["prompt"], kept["negative_prompt"]) == (prompt, "bad, ink")
    assert notes == ["shapes does not have these embeddings: “blur-v1.2”, “ink”."]


@pytest.mark.parametrize("files", [7, "ink", [7, "ink", {}, {"name": 3, "sha256": []}, {"name": "", "sha256": "a"}]])
def test_digests_that_cannot_be_read_change_nothing(files: Any) -> None:
    texts = {"darkroom": json.dumps({"prompt": "a star", "embeddings": files})}
    assert png_info.from_texts(texts, [SERVED]) == ({"prompt_syntax": "plain", "prompt": "a star"}, [])


@pytest.mark.parametrize("hashes", ["a" * 500_000, "a," * 250_000, "a: " * 150_000, "ink: aaaaaaaaaaaa," * 30_000])
def test_no_list_of_embeddings_takes_longer_than_its_length_warrants(hashes: str) -> None:
    start = time.process_time()
    _, notes = png_info.from_texts({"parameters": f'a star\nSteps: 20, TI hashes: "{hashes}"'}, [SERVED])
    assert time.process_time() - start < 2
    assert len(notes) <= 1


def test_our_own_json_wins_over_the_text() -> None:
    found, _ = png_info.read(a_png(darkroom=json.dumps({"prompt": "a star"}), parameters=AUTOMATIC))
    assert found == {"prompt_syntax": "plain", "prompt": "a star"}


@pytest.mark.parametrize("ours", ["", "{", "7", "[]", "[" * 100_000, '{"prompt": "\\ud800"}', '{"width": null}', "{}"])
def test_json_without_settings_leaves_the_word_to_the_text(ours: str) -> None:
    assert png_info.read(a_png(darkroom=ours, parameters=AUTOMATIC))[0]["seed"] == 1234
    assert problem(a_png(darkroom=ours)) == NOTHING


@pytest.mark.parametrize(
    "content",
    [
        a_png(parameters=AUTOMATIC),
        *(
            with_comment(file_format, comment)
            for file_format in ("jpeg", "webp")
            for comment in (
                b"UNICODE\0" + AUTOMATIC.encode("utf-16-be"),
                b"UNICODE\0" + AUTOMATIC.encode("utf-16-le"),
                b"ASCII\0\0\0" + AUTOMATIC.encode() + b"\0\0",
            )
        ),
    ],
)
def test_a_picture_of_automatic1111_is_read_in_every_format(content: bytes) -> None:
    found, notes = png_info.read(content)
    assert found == {
        "prompt": "a castle, (stone:1.2), <lora:walls:1>\nat night",
        "negative_prompt": "blurry, text\nugly",
        "width": 512,
        "height": 768,
        "num_inference_steps": 28,
        "guidance_scale": 6.5,
        "guidance_rescale": 0.0,
        "clip_skip": 1,
        "prompt_syntax": "weighted",
        "sampler": "dpmpp_2m_karras",
        "seed": 1234,
        "model": "v1-5, pruned",
    }
    assert notes == []


@pytest.mark.parametrize(("family", "clip_skip", "layer"), [("sd", 1, 2), ("sd", 11, 12), ("sdxl", 1, 3)])
def test_clip_skip_is_written_as_automatic1111_counts_it_and_read_back(family: str, clip_skip: int, layer: int) -> None:
    text = settings_text(a_spec(family=family, clip_skip=clip_skip, guidance_rescale=0.7))
    assert f", CFG Rescale phi: 0.7, Clip skip: {layer}," in text
    found, notes = png_info.from_texts({"parameters": text}, [replace(CARD, family=family)])
    assert (found["clip_skip"], found["guidance_rescale"], notes) == (clip_skip, 0.7, [])


def test_what_is_clip_skip_2_elsewhere_skips_no_layer_of_xl() -> None:
    text = "a pony\nSteps: 20, Seed: 1, Model: pony, Clip skip: 2"
    cards = [CARD, replace(CARD, id="pony", family="sdxl")]
    by_alias = [CARD, replace(CARD, id="pony-v6", family="sdxl", aliases=("pony",))]
    assert png_info.from_texts({"parameters": text}, by_alias)[0]["clip_skip"] == 0
    assert png_info.from_texts({"parameters": text}, cards)[0]["clip_skip"] == 0
    assert png_info.from_texts({"parameters": text}, cards[:1])[0]["clip_skip"] == 1


def test_a_layer_that_is_no_number_is_left_out_and_named() -> None:
    found, notes = png_info.from_texts({"parameters": "a star\nSteps: 20, Clip skip: all"})
    assert "clip_skip" not in found
    assert notes == ["Clip skip “all” could not be read."]


@pytest.mark.parametrize(
    "comment",
    [
        AUTOMATIC.encode(),
        bytes(8) + AUTOMATIC.encode(),
        b"JIS\0\0\0\0\0" + AUTOMATIC.encode(),
        b"UNICODE\0" + AUTOMATIC.encode(),
        b"UNICODE\0" + AUTOMATIC.encode("utf-8-sig"),
        b"UNICODE\0" + AUTOMATIC.encode("utf-16-be") + b"\0\0",
        b"UNICODE\0" + AUTOMATIC.encode("utf-16-le") + b"\0\0",
        b"UNICODE\0" + AUTOMATIC.encode("utf-16"),
        b"UNICODE\0\xfe\xff" + AUTOMATIC.encode("utf-16-be"),
        b"ASCII\0\0\0" + AUTOMATIC.encode("utf-16-le"),
        AUTOMATIC.encode("utf-16-be"),
    ],
)
@pytest.mark.parametrize("kind", [ASCII, UNDEFINED])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("in_first_folder", [True, False])
def test_a_comment_is_read_whatever_tool_wrote_it(comment: bytes, kind: int, order: str, in_first_folder: bool) -> None:
    content = with_comment("jpeg", comment, kind, order, in_first_folder=in_first_folder)
    assert png_info.read(content) == png_info.read(a_png(parameters=AUTOMATIC))


@pytest.mark.parametrize("kind", [ASCII, UNDEFINED])
@pytest.mark.parametrize("code", [b"", b"UNICODE\0", b"ASCII\0\0\0"])
def test_a_comment_keeps_its_letters(code: bytes, kind: int) -> None:
    text = "ein Café, 東京 🙂\nSteps: 5, Seed: 7"
    assert png_info.read(with_comment("webp", code + text.encode(), kind))[0]["prompt"] == "ein Café, 東京 🙂"
    assert png_info.read(with_comment("webp", "ein Café\nSteps: 5".encode("latin-1")))[0]["prompt"] == "ein Café"


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"tEXt", b"parameters\0" + AUTOMATIC.encode("latin-1")),
        chunk(b"zTXt", b"parameters\0\0" + zlib.compress(AUTOMATIC.encode("latin-1"))),
        chunk(b"iTXt", b"parameters\0\0\0\0\0" + AUTOMATIC.encode()),
    ],
)
def test_text_after_the_pixels_is_read_as_tools_that_rewrite_a_file_leave_it(text: bytes) -> None:
    content = after_the_pixels(a_png(), text, chunk(b"tIME", bytes(7)))
    assert png_info.read(content)[0]["seed"] == 1234
    assert png_info.read(content[:-20])[0]["seed"] == 1234, "cut off at its end"
    assert problem(content[: content.index(text) + 20]) == NOTHING, "cut off within its text"


@pytest.mark.parametrize(
    ("written", "sampler"),
    [
        ("Euler a", "euler_ancestral"),
        ("Euler a, Schedule type: Automatic", "euler_ancestral"),
        ("Euler, Schedule type: Karras", "euler_karras"),
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M SDE, Schedule type: Uniform", "dpmpp_2m_sde"),
        ("DDIM", "ddim"),
    ],
)
def test_the_names_of_samplers_are_translated(written: str, sampler: str) -> None:
    assert png_info.read(a_png(parameters=f"a star\nSteps: 20, Sampler: {written}, Seed: 1"))[0]["sampler"] == sampler


WALLS = AdapterCard(name="walls", sha256="c" * 64, tensors_sha256="1a2b3c4d5e6f" + "0" * 52)
MOSS = AdapterCard(name="moss", sha256="d" * 64, tensors_sha256="e" * 64)
BROKEN = AdapterCard(name="broken", problem="is for models that attend to text of width 2048, not 128.")
WITH_LORAS = replace(CARD, adapters=(WALLS, MOSS, BROKEN))
OTHER_FILE = "The LoRA “walls” is another file here than the picture was made with."


@pytest.mark.parametrize(
    ("hashes", "expected"),
    [
        ("walls: 1a2b3c4d5e6f", []),
        (
            "moss: 999999999999, walls: 1A2B3C4D5E6F",
            ["The LoRA “moss” is another file here than the picture was made with."],
        ),
        ("walls: 999999999999", [OTHER_FILE]),
        ("walls: cccccccccccc", []),
    ],
)
def test_a_lora_of_automatic1111_is_compared_with_the_served_file(hashes: str, expected: list[str]) -> None:
    text = f'a castle <lora:walls:0.5>\nSteps: 20, Seed: 1, Lora hashes: "{hashes}", Version: v1.9.4'
    found, notes = png_info.from_texts({"parameters": text}, [WITH_LORAS])
    assert (found["prompt"], found["prompt_syntax"]) == ("a castle <lora:walls:0.5>", "weighted")
    assert notes == expected


@pytest.mark.parametrize(
    ("prompt", "hashes", "restored", "notes"),
    [
        (
            "a castle <lora:bricks:0.5>",
            "bricks: 1a2b3c4d5e6f",
            "a castle <lora:walls:0.5>",
            ["The LoRA “bricks” has the name “walls” here."],
        ),
        ("<lora: bricks >", "bricks: 1A2B3C4D", "<lora:walls>", ["The LoRA “bricks” has the name “walls” here."]),
        ("<lora:bricks>", "bricks: cccccccccccc", "<lora:walls>", ["The LoRA “bricks” has the name “walls” here."]),
        (  # another file has its name here
            "<lora:moss:1>",
            "moss: 1a2b3c4d5e6f",
            "<lora:walls:1>",
            ["The LoRA “moss” has the name “walls” here."],
        ),
        (  # the picture names the other one too
            "<lora:bricks> <lora:walls>",
            "bricks: 1a2b3c4d5e6f",
            "<lora:bricks> <lora:walls>",
            ["shapes does not have these LoRAs: “bricks”."],
        ),
        (  # one file under two names
            "<lora:bricks> <lora:stones>",
            "bricks: 1a2b3c4d5e6f, stones: 1a2b3c4d5e6f",
            "<lora:walls> <lora:stones>",
            ["The LoRA “bricks” has the name “walls” here.", "shapes does not have these LoRAs: “stones”."],
        ),
        ("<lora:bricks>", "bricks: 999999999999", "<lora:bricks>", ["shapes does not have these LoRAs: “bricks”."]),
        ("a castle", "bricks: 1a2b3c4d5e6f", "a castle", []),
    ],
)
def test_a_lora_that_has_another_name_here_is_found_by_its_sum(
    prompt: str, hashes: str, restored: str, notes: list[str]
) -> None:
    text = f'{prompt}\nSteps: 20, Seed: 1, Lora hashes: "{hashes}", Version: v1.9.4'
    found, said = png_info.from_texts({"parameters": text}, [WITH_LORAS])
    assert (found["prompt"], said) == (restored, notes)


@pytest.mark.parametrize("source", ["text", "json", "job"])
def test_a_row_of_ours_whose_lora_has_another_name_here_is_filled_with_that(source: str) -> None:
    bricks = Lora(name="bricks", weight=-0.5, sha256=WALLS.sha256, tensors_sha256=WALLS.tensors_sha256)
    spec = a_spec(loras=(bricks,))
    texts = {"parameters": settings_text(spec)} if source == "text" else {"darkroom": json.dumps(public_data(spec))}
    read = settings_here(spec, [WITH_LORAS]) if source == "job" else png_info.from_texts(texts, [WITH_LORAS])
    assert read[0]["loras"] == [{"name": "walls", "weight": -0.5}]
    assert read[1] == ["The LoRA “bricks” has the name “walls” here."]


def test_a_lora_without_a_sum_is_found_by_no_other_name() -> None:
    no_sum = replace(CARD, adapters=(AdapterCard(name="walls"),))
    _, notes = settings_here(a_spec(loras=(Lora(name="bricks", weight=1.0),)), [no_sum])
    assert notes == ["shapes does not have these LoRAs: “bricks”."]


def test_an_embedding_that_has_another_name_here_is_found_by_its_sum() -> None:
    line = 'Steps: 20, TI hashes: "pen: aaaaaaaaaaaa", Version: v1.9.4'
    for written, restored in (
        ("a pen, Pen", "a embedding:ink, embedding:ink"),
        ("<pen> embedding:pen", "<ink> embedding:ink"),
    ):
        found, notes = png_info.from_texts({"parameters": f"{written}\n{line}"}, [SERVED])
        assert (found["prompt"], notes) == (restored, ["The embedding “pen” has the name “ink” here."])


@pytest.mark.parametrize(
    ("line", "syntax"),
    [
        ("Steps: 20, Size: 128x128, Model: shapes", "plain"),
        ("Steps: 20, Model hash: 0123456789, Model: shapes", "weighted"),
        ("Steps: 20, Model: shapes, Version: v1.9.4", "weighted"),
        ("Steps: 20, Prompt syntax: weighted, Model: shapes", "weighted"),
    ],
)
def test_a_text_without_a_syntax_is_weighted_unless_darkroom_wrote_it(line: str, syntax: str) -> None:
    found, _ = png_info.from_texts({"parameters": f"a (red) circle\n{line}"}, [SERVED])
    assert found["prompt_syntax"] == syntax


def test_json_of_ours_without_a_syntax_is_plain() -> None:
    found, _ = png_info.from_texts({"darkroom": json.dumps({"prompt": "a (red) circle"})}, [SERVED])
    assert found["prompt_syntax"] == "plain"


def test_names_inside_tags_and_longer_words_are_no_bare_names() -> None:
    text = 'ink, pen-ink <lora:my ink:0.8>\nSteps: 20, TI hashes: "ink: aaaaaaaaaaaa", Version: v1.9.4'
    found, _ = png_info.from_texts({"parameters": text}, [SERVED])
    assert found["prompt"] == "embedding:ink, pen-ink <lora:my ink:0.8>"


def test_loras_that_are_not_served_stay_in_the_prompt_and_are_named() -> None:
    text = "a castle <lora:moat:0.5:0.7> <lora:broken>\nSteps: 20, Seed: 1"
    found, notes = png_info.from_texts({"parameters": text}, [WITH_LORAS])
    assert found["prompt"] == "a castle <lora:moat:0.5:0.7> <lora:broken>"
    assert notes == [
        "shapes does not have these LoRAs: “moat”.",
        "The LoRA “broken” cannot be used: it is for models that attend to text of width 2048, not 128.",
    ]


@pytest.mark.parametrize("texts", ["text", "json"])
def test_our_own_loras_come_back_with_their_weights_without_those_that_have_gone(texts: str) -> None:
    walls = Lora(name="walls", weight=-0.5, sha256=WALLS.sha256, tensors_sha256=WALLS.tensors_sha256)
    gone = Lora(name="moat", weight=1.0, sha256="a" * 64, tensors_sha256="b" * 64)
    spec = a_spec(prompt="a (red:1.2) circle", loras=(walls, gone))
    text = settings_text(spec)
    assert 'Lora hashes: "walls: 1a2b3c4d5e6f, moat: bbbbbbbbbbbb"' in text
    written = {"parameters": text} if texts == "text" else {"darkroom": json.dumps(asdict(spec))}
    found, notes = png_info.from_texts(written, [WITH_LORAS])
    assert found["loras"] == [{"name": "walls", "weight": -0.5}]
    assert found["prompt_syntax"] == "plain"
    assert notes == ["shapes does not have these LoRAs: “moat”."]


def test_a_lora_of_ours_that_is_another_file_now_is_named_once() -> None:
    spec = a_spec(loras=(Lora(name="walls", weight=1.0, sha256="9" * 64, tensors_sha256="8" * 64),))
    found, notes = png_info.from_texts({"parameters": settings_text(spec)}, [WITH_LORAS])
    assert (found["loras"], notes) == ([{"name": "walls", "weight": 1.0}], [OTHER_FILE])


def test_the_sum_of_a_lora_whose_job_knew_none_is_not_written() -> None:
    assert "Lora hashes" not in settings_text(a_spec(loras=(Lora(name="walls", weight=1.0, sha256="9" * 64),)))


def test_an_image_of_a_job_comes_back_with_the_same_notes_as_its_file() -> None:
    loras = (Lora(name="walls", weight=0.5, sha256="9" * 64), Lora(name="moat", weight=1.0, sha256="8" * 64))
    data, notes = settings_here(a_spec(loras=loras), [WITH_LORAS])
    assert data["loras"] == [{"name": "walls", "weight": 0.5}]
    assert notes == [OTHER_FILE, "shapes does not have these LoRAs: “moat”."]


def test_what_cannot_be_used_is_noted() -> None:
    found, notes = png_info.read(
        a_png(
            parameters="a star\nSteps: many, Sampler: Restart, CFG scale: nan, Seed: -1, Size: 512, Hires upscale: "
            + '"'
            + "x" * 999
        )
    )
    assert found == {"prompt": "a star", "negative_prompt": "", "width": 512, "seed": -1} | NONE_SKIPPED
    assert notes == [
        "Height “” could not be read.",
        "Inference steps “many” could not be read.",
        "Guidance scale “nan” could not be read.",
        "Sampler “Restart” is not one of ours.",
        "Not used: Hires upscale.",
    ]


@pytest.mark.parametrize("value", ["64", True, 64.5, [64], {"64": 64}])
def test_a_value_of_another_type_is_noted(value: Any) -> None:
    found, notes = png_info.read(a_png(darkroom=json.dumps({"prompt": "a star", "width": value, "output_format": 1})))
    assert found == {"prompt_syntax": "plain", "prompt": "a star"}
    assert notes == [f"Width “{value}” could not be read.", "Output format “1” is not one of ours."]


def test_a_long_value_is_noted_in_short() -> None:
    _, [note] = png_info.read(a_png(darkroom=json.dumps({"seed": 1, "sampler": "x" * 999})))
    assert note == f"Sampler “{'x' * 60}…” is not one of ours."


@pytest.mark.parametrize(
    "text", ["None", "a star: red, big: yes", "a star. Negative prompt: a moon. Steps: 20, Seed: 1"]
)
def test_a_text_without_a_line_of_settings_restores_nothing_and_is_quoted(text: str) -> None:
    assert problem(a_png(parameters=text)) == (
        f"No line of settings (“Steps: …”) was found in this picture's text: “{text}”."
    )


def test_settings_without_a_prompt_are_read() -> None:
    assert png_info.read(a_png(parameters="\nNegative prompt: a\nSteps: 2"))[0] == {
        "negative_prompt": "a",
        "num_inference_steps": 2,
        **NONE_SKIPPED,
    }
    assert problem(a_png(parameters=" \n")) == NOTHING


def test_texts_that_are_not_read_are_named() -> None:
    texts = {"sd-metadata": '{"image": {}}', "Dream": "a star -s50"}
    assert (
        problem(a_png(**texts)) == "This picture carries no settings that are read. Its texts are: sd-metadata, Dream."
    )


@pytest.mark.parametrize(
    "part",
    [',a:"\\', ",", ",a:", " ", ',a:"', '\\"', "a", ',"', ',a: "x', '"', ":", "\nSteps: ", "{", "[", "1"],
)
@pytest.mark.parametrize("lead", ["", ",a:", ',a:"', ',a:"\\'])
def test_the_time_to_read_settings_grows_no_faster_than_they_do(lead: str, part: str) -> None:
    """A million characters, which would take minutes where something was tried again at each."""
    since = time.thread_time()
    png_info.from_texts({"parameters": f"a star\nSteps: 5{lead}" + part * (1_000_000 // len(part)) + "x"})
    with suppress(InvalidRequest):
        png_info.from_texts({"darkroom": '{"seed":' + part * (1_000_000 // len(part))})
    assert time.thread_time() - since < 20


def test_settings_that_are_too_long_are_refused() -> None:
    comment = b"ASCII\0\0\0a star\nSteps: 5" + b", a: b" * 200_000
    assert "at most 1048576 characters" in problem(with_comment("webp", comment))


def test_lines_after_the_settings_are_no_settings() -> None:
    found, notes = png_info.read(a_png(parameters="a star\nSteps: 5, Seed: 7\nTemplate: a {star|moon}, Seed: 8"))
    assert (found["prompt"], found["seed"], notes) == ("a star", 7, [])


@pytest.mark.parametrize("comment", [b"", b"ASCII\0\0\0Screenshot", b"UNICODE\0\xd8\x00\xd8", b"\0" * 9])
def test_a_cameras_comment_is_no_prompt(comment: bytes) -> None:
    assert problem(with_comment("jpeg", comment)) == NOTHING


@pytest.mark.parametrize("sound", SOUND)
def test_a_picture_is_never_decoded(sound: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> None:
        raise AssertionError

    for kind in (PngImageFile, JpegImageFile, WebPImageFile):
        monkeypatch.setattr(kind, "load", decode)
    assert png_info.read(sound)[0]["prompt"]


def test_a_picture_with_more_pixels_than_memory_is_refused() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
    assert problem(a_png()[:8] + header + a_png()[33:]) == NO_PICTURE


def test_a_text_that_unpacks_without_end_is_refused() -> None:
    info, content = PngInfo(), io.BytesIO()
    info.add_itxt("parameters", "a" * 2_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(content, "png", pnginfo=info)
    assert problem(content.getvalue()) == NO_PICTURE


@given(st.binary())
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    assert problem(content) == NO_PICTURE


@given(st.sampled_from(SOUND), st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4))), st.integers(0, 4000))
def test_a_damaged_picture_is_read_or_refused(sound: bytes, damage: list[tuple[int, bytes]], end: int) -> None:
    content = bytearray(sound)
    for place, garbage in damage:
        content[place : place + len(garbage)] = garbage
    with suppress(InvalidRequest):
        png_info.read(bytes(content[:end]))
