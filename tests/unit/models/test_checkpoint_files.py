"""Checkpoints that mean harm, or are not what they are said to be: each is refused, and the file at fault is named."""

import hashlib
import json
import logging
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint.card import read_card
from models.checkpoint.files import LARGEST_JSON
from models.checkpoint.location import locate_parts
from models.denoiser.model import load_denoiser
from models.errors import UnusableCheckpoint

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_sd: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may break."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "checkpoint"))


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(UnusableCheckpoint) as caught:
        read_card(str(folder), **options)
    return caught.value.message


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def sums_of(folder: Path) -> str:
    """What `sha256sum` writes of a folder's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}\n" for p in files)


# -- code


@pytest.mark.parametrize("name", ["unet/evil.bin", "evil.ckpt", "modeling_evil.py", "vae/pytorch_model.pt"])
def test_a_pickle_or_code_beside_the_weights_is_ignored_and_named(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    digest = read_card(str(folder)).digest
    (folder / name).write_bytes(pickle.dumps(print))
    with caplog.at_level(logging.WARNING):
        assert read_card(str(folder)).digest == digest
    assert any(str(folder) in message and name in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("unet/config.json", "auto_map"),
        ("text_encoder/config.json", "_attn_implementation"),
        ("text_encoder/config.json", "attn_implementation"),
        ("tokenizer/tokenizer_config.json", "auto_map"),
        ("model_index.json", "custom_pipeline"),
    ],
)
def test_a_config_that_asks_for_other_code_is_refused(folder: Path, name: str, entry: str) -> None:
    change(folder / name, **{entry: "owner/code"})
    assert refusal(folder).startswith(f"{folder / name}: {entry} ")


@pytest.mark.parametrize(
    ("name", "entry", "value"),
    [
        ("text_encoder/config.json", "transformers_weights", "other.safetensors"),
        ("tokenizer/tokenizer_config.json", "vocab_file", "/elsewhere/vocab.json"),
        ("tokenizer/tokenizer_config.json", "merges_file", "/elsewhere/merges.txt"),
        ("tokenizer/tokenizer_config.json", "tokenizer_file", "/elsewhere/tokenizer.json"),
        ("tokenizer/tokenizer_config.json", "fast_tokenizer_files", ["tokenizer.4.json"]),
    ],
)
def test_a_config_that_names_files_which_no_digest_has_is_refused(
    folder: Path, name: str, entry: str, value: Any
) -> None:
    change(folder / name, **{entry: value})
    assert refusal(folder).startswith(f"{folder / name}: {entry} names files of its own choice")


def test_a_tokenizer_without_its_words_is_refused(folder: Path) -> None:
    for path in (folder / "tokenizer").iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    assert refusal(folder) == f"{folder / 'tokenizer'}: has neither tokenizer.json nor vocab.json with merges.txt."


def test_links_that_lead_to_each_other_are_refused(folder: Path) -> None:
    path = folder / "vae/config.json"
    path.unlink()
    path.symlink_to(folder / "vae/other.json")
    (folder / "vae/other.json").symlink_to(path)
    assert refusal(folder).startswith(f"{path}: cannot be read")


def test_a_manifest_that_is_a_link_to_nothing_is_not_taken_for_none(folder: Path) -> None:
    (folder / "SHA256SUMS").symlink_to(folder / "gone")
    assert refusal(folder) == f"{folder / 'SHA256SUMS'}: missing."


def test_quantised_weights_are_refused_as_what_they_are(folder: Path) -> None:
    change(folder / "unet/config.json", quantization_config={"quant_method": "bitsandbytes"})
    words = "quantization_config asks for quantised weights, which are not read; take the original ones."
    assert refusal(folder) == f"{folder / 'unet/config.json'}: {words}"


def test_a_pipeline_of_the_checkpoints_own_is_refused(folder: Path) -> None:
    change(folder / "model_index.json", _class_name=["pipeline_evil", "Evil"])
    assert refusal(folder).startswith(f"{folder / 'model_index.json'}: ")


# -- files elsewhere


@pytest.mark.parametrize("name", [WEIGHTS, "vae/config.json", "tokenizer/tokenizer.json", "model_index.json"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tiny_sd: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(tiny_sd / name)
    assert refusal(folder).startswith(f"{folder / name}: a link out of the checkpoint, to {tiny_sd}")


def test_a_link_from_the_hubs_cache_to_its_blobs_is_followed(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("a" * 40)
    shutil.copytree(folder, snapshot)
    blob = tmp_path / "models--owner--name" / "blobs" / "b"
    blob.parent.mkdir()
    (snapshot / WEIGHTS).rename(blob)
    (snapshot / WEIGHTS).symlink_to(Path("../../../blobs/b"))
    assert read_card(str(snapshot)).digest == read_card(str(folder)).digest


@pytest.mark.parametrize("shard", ["../../../other.safetensors", "/etc/passwd", "missing.safetensors", 7, None])
def test_an_index_that_names_other_than_the_files_beside_it_is_refused(folder: Path, shard: Any) -> None:
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": shard}}))
    message = refusal(folder)
    assert message.startswith(f"{index}: ")
    assert "beside it" in message


# -- absurd sizes


def header(content: dict[str, Any], length: int | None = None) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04cos\nsystem\n",
        header({}, length=2**63),
        header({}, length=2**40),
        header({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}) + b"\0" * 4,
        header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**50]}}),
        header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"\0" * 400,
    ],
    ids=[
        "empty",
        "pickle",
        "header of 8 EiB",
        "header of 1 TiB",
        "huge shape",
        "beyond the end",
        "longer than it says",
    ],
)
def test_weights_whose_header_does_not_fit_the_file_are_refused(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    assert refusal(folder).startswith(f"{folder / WEIGHTS}: not a safetensors file: ")


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("text_encoder/config.json", {"num_hidden_layers": 10**6}),
        ("text_encoder/config.json", {"max_position_embeddings": 10**12}),
        ("text_encoder/config.json", {"hidden_size": 10**9}),
        ("unet/config.json", {"layers_per_block": 10**5}),
        ("unet/config.json", {"transformer_layers_per_block": [[1, 10**5], 1]}),
        ("unet/config.json", {"block_out_channels": [32] * 10**4}),
        ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 10**4}),
        ("vae/config.json", {"block_out_channels": [10**9, 64]}),
    ],
)
def test_a_config_too_great_for_its_weights_is_refused_before_a_model_is_built(
    folder: Path, name: str, entries: dict[str, Any]
) -> None:
    change(folder / name, **entries)
    assert refusal(folder).startswith(f"{folder / name}: {next(iter(entries))} = ")


@pytest.mark.parametrize(
    "content", ["[" * 10**5, '{"a": ' * 10**5, " " * (LARGEST_JSON + 1)], ids=["deep lists", "deep objects", "long"]
)
def test_a_config_that_is_too_deep_or_too_long_is_refused(folder: Path, content: str) -> None:
    (folder / "unet" / "config.json").write_text(content)
    assert refusal(folder).startswith(f"{folder / 'unet/config.json'}: ")


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("unet/config.json", {"sample_size": "64"}),
        ("vae/config.json", {"block_out_channels": 64}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": None}),
        ("darkroom.json", {"bounds": [1]}),
        ("darkroom.json", {"notices": "misspelt"}),
    ],
)
def test_an_entry_of_the_wrong_kind_is_named_with_its_file(folder: Path, name: str, entries: dict[str, Any]) -> None:
    (folder / "darkroom.json").write_text("{}")
    change(folder / name, **entries)
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: ")
    assert next(iter(entries)) in message


def test_weights_that_lack_a_tensor_of_the_config_are_refused_when_they_are_loaded(folder: Path) -> None:
    change(folder / "unet" / "config.json", layers_per_block=2)
    with pytest.raises(UnusableCheckpoint, match=str(folder / "unet")):
        load_denoiser(folder, "sd", torch.device("cpu"))


# -- the manifest


def test_files_that_a_manifest_lists_are_served_and_others_beside_them_are_nobodys_concern(folder: Path) -> None:
    (folder / "README.md").write_text("words")
    sums = sums_of(folder)
    (folder / "SHA256SUMS").write_text(sums.replace("  ", " *"))
    (folder / "README.md").write_text("other words")
    assert read_card(str(folder)).files == {
        name: total for total, name in (line.split("  ") for line in sums.splitlines()) if name != "README.md"
    }


@pytest.mark.parametrize("name", [WEIGHTS, "vae/config.json", "tokenizer/tokenizer.json"])
def test_a_byte_that_differs_from_the_manifest_is_refused(folder: Path, name: str) -> None:
    (folder / "SHA256SUMS").write_text(sums_of(folder))
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1 if name == WEIGHTS else 0x2A  # in JSON, the newline at the end becomes a space
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


def test_a_manifest_elsewhere_goes_over_the_checkpoints_own(folder: Path, tmp_path: Path) -> None:
    (folder / "SHA256SUMS").write_text(sums_of(folder))
    (tmp_path / "sums").write_text(sums_of(folder).replace("model_index.json", "other.json"))
    assert refusal(folder, manifest=tmp_path / "sums") == f"model_index.json: not in {tmp_path / 'sums'}."


@pytest.mark.parametrize("content", [b"abc", b"\xff", None])
def test_a_manifest_that_cannot_be_read_is_named(folder: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "sums").write_bytes(content)
    assert refusal(folder, manifest=tmp_path / "sums").startswith(f"{tmp_path / 'sums'}: ")


def test_the_folders_own_sums_may_not_lead_out_of_it_nor_be_quoted(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("a-secret\n")
    (folder / "SHA256SUMS").symlink_to(secret)
    assert refusal(folder).startswith(f"{folder / 'SHA256SUMS'}: a link out of the checkpoint")
    said = refusal(folder, manifest=secret)
    assert (said, "a-secret" in said) == (f"{secret}: line 1 is none of sha256sum.", False)


# -- what a replica loads is what the card was read from


def test_a_part_that_has_changed_since_the_card_was_read_is_not_loaded(folder: Path) -> None:
    card = read_card(str(folder))
    for stage in ("text", "latents", "pixels"):
        assert locate_parts(str(folder), card, stage) == folder
    change(folder / "vae" / "config.json", sample_size=16)
    assert locate_parts(str(folder), card, "text") == folder
    for stage in ("latents", "pixels"):  # the denoiser reads from it how many pixels a cell has
        with pytest.raises(UnusableCheckpoint, match=str(folder / "vae" / "config.json")):
            locate_parts(str(folder), card, stage)
