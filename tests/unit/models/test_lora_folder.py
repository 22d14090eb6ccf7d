"""The folder of adapters: what appears, what is refused, and what is not whole yet."""

import hashlib
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.adapters.card_folder import COPIED_WITHIN_S
from models.adapters.lora_folder import LoraFolder
from models.adapters.lora_header import LoraHeader

pytestmark = pytest.mark.usefixtures("own_cache")
LORA = {"lora_unet_a.lora_down.weight": torch.ones(4, 8), "lora_unet_a.lora_up.weight": torch.ones(8, 4)}


def accept(header: LoraHeader) -> None:
    """No LoRA is foreign."""


@pytest.fixture
def folder(tmp_path: Path) -> LoraFolder:
    save_file(LORA, tmp_path / "chalk.safetensors")
    return LoraFolder(tmp_path, accept)


def names(folder: LoraFolder) -> list[str]:
    folder.scan()
    return [card.name for card in folder.cards]


def aged(path: Path) -> None:
    """Make a file look as if it had been there for a while."""
    then = time.time() - 2 * COPIED_WITHIN_S
    os.utime(path, (then, then))


def test_files_appear_and_go_without_a_restart(folder, tmp_path):
    assert names(folder) == ["chalk"]
    save_file(LORA, tmp_path / "ink.safetensors")
    assert names(folder) == ["chalk", "ink"]
    (tmp_path / "chalk.safetensors").unlink()
    assert names(folder) == ["ink"]


def test_a_card_has_the_sum_of_the_file_and_that_of_its_tensors_alone(folder, tmp_path):
    content = (tmp_path / "chalk.safetensors").read_bytes()
    folder.scan()
    [card] = folder.cards
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    assert len(tensors) == 4 * (4 * 8 + 8 * 4)
    assert card.sha256 == hashlib.sha256(content).hexdigest()
    assert card.tensors_sha256 == hashlib.sha256(tensors).hexdigest()


def test_a_card_says_which_components_a_file_changes(folder, tmp_path):
    assert names(folder) == ["chalk"]
    assert folder.cards[0].components == ("unet",)


def test_a_file_that_is_replaced_has_another_digest(folder, tmp_path):
    folder.scan()
    before = folder.cards[0].sha256
    save_file({name: 2 * tensor for name, tensor in LORA.items()}, tmp_path / "new")
    os.replace(tmp_path / "new", tmp_path / "chalk.safetensors")
    folder.scan()
    assert folder.cards[0].sha256 not in ("", before)


def test_a_file_is_read_once_as_long_as_it_stays_the_same(folder, tmp_path, monkeypatch):
    folder.scan()
    monkeypatch.setattr("models.adapters.lora_folder.read_lora_header", lambda path: pytest.fail(f"read {path} again"))
    folder.scan()


def test_a_file_that_is_still_being_copied_is_left_out_until_it_is_whole(folder, tmp_path):
    whole = (tmp_path / "chalk.safetensors").read_bytes()
    (tmp_path / "copy.safetensors").write_bytes(whole[:-10])
    assert names(folder) == ["chalk"]
    (tmp_path / "copy.safetensors").write_bytes(whole)
    assert names(folder) == ["chalk", "copy"]


def test_a_file_that_stays_broken_is_listed_with_the_reason(folder, tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\0" * 40)
    aged(path)
    folder.scan()
    broken, chalk = folder.cards
    assert (broken.problem or "").startswith("is not a safetensors file: ")
    assert chalk.problem is None


def test_a_header_that_claims_more_than_there_is_takes_no_memory(folder, tmp_path):
    path = tmp_path / "huge.safetensors"
    header = b'{"lora_unet_a.lora_down.weight":{"dtype":"F32","shape":[1024,2621440],"data_offsets":[0,10737418240]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    aged(path)
    folder.scan()
    assert "is not a safetensors file" in (folder.cards[1].problem or "")


def test_a_foreign_lora_is_listed_with_the_reason(tmp_path):
    save_file(LORA, tmp_path / "chalk.safetensors")
    folder = LoraFolder(tmp_path, lambda header: f"is of rank {header.rank}.")
    folder.scan()
    assert folder.cards[0].problem == "is of rank 4."


@pytest.mark.parametrize("name", ["a:b", "a>b", "a,b", " a", "x" * 101])
def test_a_name_that_prompts_could_not_carry_must_be_changed(folder, tmp_path, name):
    save_file(LORA, tmp_path / f"{name}.safetensors")
    folder.scan()
    card = next(card for card in folder.cards if card.name == name)
    assert (card.problem or "").startswith("must be renamed")


def test_hidden_files_and_others_are_no_adapters(folder, tmp_path):
    for name in (".chalk.safetensors", "notes.txt", "chalk.safetensors.part", "\udcff.safetensors", "a\n.safetensors"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")  # which nobody writes to: who opens it waits
    assert names(folder) == ["chalk"]
