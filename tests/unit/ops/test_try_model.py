"""`python -m ops.try_model`: what an operator tries a new checkpoint with."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.checkpoint.card import read_card
from ops.try_model import main
from tests.adapters import write_embedding
from tests.stages import Stages


def test_it_prints_the_card_and_each_stage_and_writes_image_and_latents(tiny_sd, tmp_path, capsys) -> None:
    out, latents = tmp_path / "image.png", tmp_path / "latents.npy"
    words = ["--prompt", "a star", "--negative-prompt", "blue", "--seed", "5", "--size", "64x64"]
    settings = ["--set", "num_inference_steps=3", "--set", "guidance_scale=4.5"]
    assert main([str(tiny_sd), *words, *settings, "--out", str(out), "--latents", str(latents)]) == 0
    said = capsys.readouterr().out
    for line in (
        "tiny-sd: family sd",
        "bounds: width 16 to 64, height 16 to 64, clip_skip 0 to 3; sizes are multiples of 2 pixels",
        "samplers: ddim, ",
        "defaults: ",
        "text encoder: loaded",
    ):
        assert line in said
    assert "denoiser: loaded in" in said
    assert "VAE: loaded in" in said
    stages = Stages(tiny_sd)
    spec = stages.spec(
        "a star", negative_prompt="blue", seed=5, width=64, height=64, num_inference_steps=3, guidance_scale=4.5
    )
    assert np.array_equal(np.load(latents), stages.latents(spec))
    image = Image.open(out)
    assert np.array_equal(np.asarray(image), stages.picture(spec))
    assert json.loads(image.text["darkroom"])["negative_prompt"] == "blue"


def test_a_file_name_chooses_the_format(tiny_sd, tmp_path) -> None:
    out = tmp_path / "image.jpg"
    assert main([str(tiny_sd), "--set", "num_inference_steps=1", "--out", str(out)]) == 0
    assert Image.open(out).format == "JPEG"


def test_prompts_name_embeddings_of_a_folder_as_they_do_when_it_is_served(tiny_sd, tmp_path, capsys) -> None:
    [width] = read_card(str(tiny_sd)).embedding_widths
    write_embedding(tmp_path / "ink.safetensors", (2, width))
    (tmp_path / "old.pt").write_bytes(b"never opened")
    os.utime(tmp_path / "old.pt", (0, 0))  # so that it is not one that is still being copied
    out, latents = tmp_path / "image.png", [tmp_path / "with.npy", tmp_path / "without.npy"]
    common = ["--set", "num_inference_steps=2", "--seed", "5", "--out", str(out)]
    of_folder = ["--embeddings", str(tmp_path)]
    assert main([str(tiny_sd), *common, *of_folder, "--prompt", "a <ink>", "--latents", str(latents[0])]) == 0
    said = capsys.readouterr().out
    assert "embeddings: ink\n" in said
    assert "warning: embedding old is a .pt file" in said
    assert [each["name"] for each in json.loads(Image.open(out).text["darkroom"])["embeddings"]] == ["ink"]
    assert main([str(tiny_sd), *common, "--prompt", "a <ink>", "--latents", str(latents[1])]) == 0
    assert not np.array_equal(*map(np.load, latents))
    assert main([str(tiny_sd), *common, *of_folder, "--prompt", "a <inc>"]) == 1
    assert "prompt: tiny-sd has no embedding 'inc'. It has ink." in capsys.readouterr().err
    assert main([str(tiny_sd), *common, "--embeddings", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"--embeddings: {tmp_path / 'nowhere'}: no such folder.\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--set", "sampler=magic"], "sampler must be one of ddim, "),
        (["--size", "64x65"], "height must be from 16 to 64 for tiny-sd, got 65."),
        (["--set", "steps=4"], "steps is not a known field."),
    ],
)
def test_what_cannot_be_asked_for_ends_with_status_1_and_the_reason(tiny_sd, options, reason, capsys) -> None:
    assert main([str(tiny_sd), *options]) == 1
    assert reason in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_served_ends_with_status_1_and_the_reason(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'model_index.json'}: missing.\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "large"], "for example 1024x768"),
        (["--set", "seed"], "for example guidance_scale=5"),
        (["--set", "num_images=2"], "must be a field of one image"),
        (["--out", "image.gif"], "must end in png, jpeg, webp or jpg."),
        (["--out", "nowhere/image.png"], "its folder cannot be written to."),
        (["--latents", "nowhere/latents.npy"], "its folder cannot be written to."),
        (["--device", "cuda"], "there is no CUDA device here"),
    ],
)
def test_a_command_line_that_cannot_be_used_is_refused_before_any_work(tiny_sd, options, words, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tiny_sd), *options])
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_a_value_that_is_no_yaml_is_taken_as_text(tiny_sd, tmp_path) -> None:
    out = tmp_path / "image.png"
    assert main([str(tiny_sd), "--set", "prompt=[a circle", "--set", "num_inference_steps=1", "--out", str(out)]) == 0
    assert json.loads(Image.open(out).text["darkroom"])["prompt"] == "[a circle"
