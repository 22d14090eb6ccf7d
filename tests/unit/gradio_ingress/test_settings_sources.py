"""What the settings of each other tool become. Each file's texts are as that tool writes them."""

import io
import json
from typing import Any

import pytest
from PIL import ExifTags, Image

from gradio_ingress import png_info
from models.errors import InvalidRequest

EXPECTED = {
    "prompt": "a lighthouse",
    "negative_prompt": "blurry",
    "width": 512,
    "height": 768,
    "num_inference_steps": 28,
    "guidance_scale": 6.5,
    "sampler": "dpmpp_2m_karras",
    "seed": 1234,
    "model": "castle_1.0",
}
OWN = {  # what one tool's file says beyond that
    "SwarmUI": {"clip_skip": 1},
    "Fooocus": {"clip_skip": 1},
    "InvokeAI": {"guidance_rescale": 0.0, "clip_skip": 2},
    "NovelAI": {"guidance_rescale": 0.2},
    "ComfyUI": {},
}
SWARMUI = {
    "prompt": "a lighthouse",
    "negativeprompt": "blurry",
    "model": "Official/castle_1.0.safetensors",
    "images": 1,
    "seed": 1234,
    "steps": 28,
    "cfgscale": 6.5,
    "clipstopatlayer": -2,
    "aspectratio": "2:3",
    "width": 512,
    "height": 768,
    "sampler": "dpmpp_2m",
    "scheduler": "karras",
    "loras": ["walls"],
    "swarm_version": "0.9.8.1",
}
FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)",
    "base_model": "castle_1.0",
    "base_model_hash": "6ce0161689",
    "clip_skip": 2,
    "full_negative_prompt": ["blurry"],
    "full_prompt": ["a lighthouse", "sharp"],
    "guidance_scale": 6.5,
    "loras": [],
    "metadata_scheme": "fooocus",
    "negative_prompt": "blurry",
    "performance": "Speed",
    "prompt": "a lighthouse",
    "refiner_model": "None",
    "refiner_switch": 0.5,
    "resolution": "(512, 768)",
    "sampler": "dpmpp_2m",
    "scheduler": "karras",
    "seed": "1234",
    "sharpness": 2.0,
    "steps": 28,
    "styles": "['Fooocus Sharp']",
    "vae": "Default (model)",
    "version": "Fooocus v2.5.0",
}
INVOKEAI = {
    "app_version": "5.4.2",
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a lighthouse",
    "negative_prompt": "blurry",
    "width": 512,
    "height": 768,
    "seed": 1234,
    "rand_device": "cpu",
    "cfg_scale": 6.5,
    "cfg_rescale_multiplier": 0,
    "clip_skip": 2,
    "steps": 28,
    "scheduler": "dpmpp_2m_k",
    "model": {"key": "0a", "hash": "blake3:0b", "name": "castle_1.0", "base": "sdxl", "type": "main"},
    "loras": [{"model": {"name": "walls"}, "weight": 0.75}],
    "controlnets": [],
}
NOVELAI = {
    "prompt": "a lighthouse",
    "steps": 28,
    "height": 768,
    "width": 512,
    "scale": 6.5,
    "uncond_scale": 1.0,
    "cfg_rescale": 0.2,
    "seed": 1234,
    "n_samples": 1,
    "noise_schedule": "karras",
    "sampler": "k_dpmpp_2m",
    "sm": False,
    "uc": "blurry",
    "request_type": "PromptGenerateRequest",
}
KSAMPLER = {
    "seed": 1234,
    "steps": 28,
    "cfg": 6.5,
    "sampler_name": "dpmpp_2m",
    "scheduler": "karras",
    "denoise": 1.0,
    "model": ["4", 0],
    "positive": ["6", 0],
    "negative": ["7", 0],
    "latent_image": ["5", 0],
}
COMFYUI = {
    "3": {"class_type": "KSampler", "inputs": KSAMPLER},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15\\castle_1.0.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
}
TEXTS = {
    "SwarmUI": {"parameters": json.dumps({"sui_image_params": SWARMUI, "sui_models": []})},
    "Fooocus": {"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"},
    "InvokeAI": {"invokeai_metadata": json.dumps(INVOKEAI), "invokeai_graph": "{}"},
    "NovelAI": {"Software": "NovelAI", "Source": "castle_1.0", "Comment": json.dumps(NOVELAI)},
    "ComfyUI": {"prompt": json.dumps(COMFYUI), "workflow": "{}"},
}
NOTES = {
    "SwarmUI": ["Not used: loras."],
    "Fooocus": ["Not used: adm_guidance, sharpness, styles."],
    "InvokeAI": ["Not used: loras."],
    "NovelAI": [],
    "ComfyUI": [],
}


def with_exif(file_format: str, **tags: Any) -> bytes:
    exif, content = Image.Exif(), io.BytesIO()
    for name, value in tags.items():
        exif[ExifTags.Base[name]] = value
    Image.new("RGB", (8, 8)).save(content, file_format, exif=exif)
    return content.getvalue()


def comfyui(*, inputs: dict[str, Any] | None = None, **nodes: Any) -> tuple[dict[str, Any], list[str]]:
    graph = COMFYUI | {"3": {"class_type": "KSampler", "inputs": KSAMPLER | (inputs or {})}} | nodes
    return png_info.from_texts({"prompt": json.dumps(graph)})


@pytest.mark.parametrize("tool", TEXTS)
def test_settings_of_each_tool_are_read_and_what_no_field_has_is_named(tool: str) -> None:
    assert png_info.from_texts(TEXTS[tool]) == (EXPECTED | OWN[tool], NOTES[tool])


@pytest.mark.parametrize(
    ("content", "tool"),
    [
        (with_exif("webp", UserComment=TEXTS["Fooocus"]["parameters"]), "Fooocus"),
        (with_exif("jpeg", UserComment=b"UNICODE\0" + TEXTS["SwarmUI"]["parameters"].encode("utf-16-le")), "SwarmUI"),
        (with_exif("jpeg", UserComment=b"UNICODE\0" + TEXTS["SwarmUI"]["parameters"].encode("utf-16-be")), "SwarmUI"),
        (with_exif("webp", Model=f"prompt:{TEXTS['ComfyUI']['prompt']}", Make="workflow:{}"), "ComfyUI"),
    ],
)
def test_settings_of_other_tools_are_read_from_exif(content: bytes, tool: str) -> None:
    assert png_info.read(content) == (EXPECTED | OWN[tool], NOTES[tool])


@pytest.mark.parametrize("text", ['{"a": 1}', '{"sui_image_params": {}}', '{"sui_image_params": 7}', "[1]"])
def test_json_that_is_not_known_is_no_prompt(text: str) -> None:
    with pytest.raises(InvalidRequest, match="No line of settings"):
        png_info.from_texts({"parameters": text})


def test_the_text_of_automatic1111_comes_before_the_graph_beside_it() -> None:
    found, _ = png_info.from_texts(TEXTS["ComfyUI"] | {"parameters": "a star\nSteps: 5"})
    assert found["prompt"] == "a star"


def test_a_sampler_or_schedule_that_darkroom_lacks_is_named() -> None:
    found, notes = comfyui(inputs={"sampler_name": "euler_ancestral", "scheduler": "karras"})
    assert "sampler" not in found
    assert notes == ["Sampler “euler_ancestral_karras” is not one of ours."]


def test_nodes_of_a_graph_that_are_not_read_are_named() -> None:
    found, notes = comfyui(
        inputs={"model": ["10", 0], "denoise": 0.5, "seed": ["11", 0]},
        **{"10": {"class_type": "LoraLoader", "inputs": {}}, "11": {"class_type": "Seed", "inputs": {}}},
    )
    assert found == {name: value for name, value in EXPECTED.items() if name not in ("model", "seed")}
    assert notes == ["Not used: model (not a plain value), seed (not a plain value), denoise, LoraLoader, Seed."]


@pytest.mark.parametrize(
    "graph",
    [{}, {"1": 7}, COMFYUI | {"10": COMFYUI["3"]}, {"3": {"class_type": "KSamplerAdvanced", "inputs": {}}}],
)
def test_a_graph_without_one_plain_sampler_is_named(graph: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="Its texts are: prompt, workflow"):
        png_info.from_texts({"prompt": json.dumps(graph), "workflow": "{}"})


@pytest.mark.parametrize("key", ["parameters", "invokeai_metadata", "Comment", "prompt"])
@pytest.mark.parametrize("value", [None, [], {}, [[]], {"inputs": 7}, "x", float("nan")])
def test_values_of_another_shape_never_break_a_reader(key: str, value: Any) -> None:
    for data in (SWARMUI, FOOOCUS, INVOKEAI, NOVELAI, KSAMPLER):
        odd = dict.fromkeys(data, value)
        for wrapped in (odd, {"sui_image_params": odd}, {"3": {"class_type": "KSampler", "inputs": odd}}):
            texts = {"Software": "NovelAI", key: json.dumps(wrapped)}
            try:
                found, _ = png_info.from_texts(texts)
            except InvalidRequest:
                continue
            assert found
            assert set(found.values()) == {"x"}
