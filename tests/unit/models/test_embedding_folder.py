"""The folder of embeddings: what it lists, and which files are refused with which reason."""

import errno
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from models.adapters.card_folder import COPIED_WITHIN_S
from models.adapters.embedding_file import MAX_BYTES, read_embedding
from models.adapters.embedding_folder import EmbeddingFolder
from models.adapters.resident_embeddings import ResidentEmbeddings
from models.errors import AdapterChanged, UnusableAdapter
from models.model_card import EmbeddingCard
from models.spec import Embedding
from tests.adapters import sum_of, write_embedding
from tests.fakes import CARD

SD = replace(CARD, embedding_widths=(8,), own_words=("style",))  # a prompt has 30 tokens
XL = replace(CARD, embedding_widths=(8, 12))
WHOLE = save({"emb_params": torch.ones(2, 8)})


def aged(path: Path) -> Path:
    """Make a file look as if it had been there for a while."""
    then = time.time() - 2 * COPIED_WITHIN_S
    os.utime(path, (then, then))
    return path


def cards(folder: Path, model=SD) -> list[EmbeddingCard]:
    found = EmbeddingFolder(folder, model)
    found.scan()
    return list(found.cards)


def test_a_card_has_the_sum_of_its_file_and_the_number_of_its_vectors(tmp_path):
    ink = write_embedding(tmp_path / "ink.safetensors", (3, 8))
    blur = write_embedding(tmp_path / "blur-v1.2.safetensors", (8,))
    assert cards(tmp_path) == [
        EmbeddingCard(name="blur-v1.2", sha256=sum_of(blur), vectors=1),
        EmbeddingCard(name="ink", sha256=sum_of(ink), vectors=3),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_vectors_are_read_as_float32_whatever_the_file_holds(tmp_path, dtype):
    tensors = {"clip_g": torch.randn(2, 12).to(dtype), "clip_l": torch.randn(2, 8).to(dtype)}
    save_file(tensors, tmp_path / "ink.safetensors")
    assert cards(tmp_path, XL)[0].problem is None
    first, second = read_embedding(tmp_path / "ink.safetensors").vectors
    assert first.dtype == second.dtype == np.float32
    assert torch.equal(torch.from_numpy(first), tensors["clip_l"].float())
    assert torch.equal(torch.from_numpy(second), tensors["clip_g"].float())


def test_files_appear_change_and_go_without_a_restart(tmp_path):
    folder = EmbeddingFolder(tmp_path, SD)
    path = tmp_path / "ink.safetensors"
    seen = []
    for shape in ((1, 8), (2, 8), None):
        if shape:
            write_embedding(tmp_path / "new", shape)
            os.replace(tmp_path / "new", path)
        else:
            path.unlink()
        folder.scan()
        seen.append([card.vectors for card in folder.cards])
    assert seen == [[1], [2], []]


def test_a_file_that_is_still_being_copied_is_left_out_until_it_is_whole(tmp_path):
    path = tmp_path / "ink.safetensors"
    path.write_bytes(WHOLE[:-10])
    assert cards(tmp_path) == []
    path.write_bytes(WHOLE)
    assert [card.problem for card in cards(tmp_path)] == [None]


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_a_pickle_is_listed_with_the_way_to_convert_it_and_never_opened(tmp_path, suffix, monkeypatch):
    path = aged(write_embedding(tmp_path / f"ink{suffix}", (3, 8)))
    monkeypatch.setattr("pathlib.Path.open", lambda *_: pytest.fail("opened"))
    [card] = cards(tmp_path)
    assert (card.sha256, card.vectors) == ("", 0)
    assert (card.problem or "").startswith(f"is a {suffix} file, which can run code. Convert it to .safetensors")
    monkeypatch.undo()
    path.rename(tmp_path / "ink.safetensors")
    write_embedding(tmp_path / f"ink{suffix}", (3, 8))
    assert [card.problem for card in cards(tmp_path)] == [None]


@pytest.mark.parametrize(
    ("model", "shapes", "problem"),
    [
        (SD, [(2, 12)], "is for text encoders of width 12, not 8."),
        (SD, [(2, 8), (2, 12)], "is for text encoders of width 8 and 12, not 8."),
        (XL, [(2, 8)], "is for text encoders of width 8, not 8 and 12."),
        (XL, [(2, 12), (2, 8)], "is for text encoders of width 12 and 8, not 8 and 12."),
        (SD, [(31, 8)], "has 31 vectors, and a prompt has 30 tokens."),
        (replace(CARD, family="other"), [(2, 8)], "cannot be used: the model takes no embeddings."),
    ],
)
def test_an_embedding_for_another_model_is_listed_with_the_reason(tmp_path, model, shapes, problem):
    write_embedding(tmp_path / "ink.safetensors", *shapes)
    assert [card.problem for card in cards(tmp_path, model)] == [problem]


@pytest.mark.parametrize("name", ["a b", "a:b", "(a)", "a,b", "a.", "a-", "<a>", "x" * 101])
def test_a_name_that_prompts_could_not_carry_must_be_changed(tmp_path, name):
    write_embedding(tmp_path / f"{name}.safetensors", (2, 8))
    assert (cards(tmp_path)[0].problem or "").startswith("must be renamed: a name has up to 100 letters")


def test_a_word_of_the_checkpoints_own_tokenizer_is_no_name(tmp_path):
    write_embedding(tmp_path / "style.safetensors", (2, 8))
    assert cards(tmp_path)[0].problem == "must be renamed: <style> is a word of the checkpoint's own tokenizer."


def header(text: str, data: int = 0) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + bytes(data)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a safetensors file"),
        (b"\0" * 40, "is not a safetensors file"),
        (WHOLE[:-1], "is not a safetensors file"),
        (b"\xff" * 8 + WHOLE[8:], "is not a safetensors file"),
        (header('{"a":{"dtype":"F32","shape":[1024,2621440],"data_offsets":[0,10737418240]}}'), "is not a safetensors"),
        (header('{"a":{"dtype":"F32","shape":[2,8],"data_offsets":[0,-64]}}', 64), "is not a safetensors file"),
        (header('{"a":{"dtype":"F32","shape":[0,8],"data_offsets":[0,0]}}'), "has the shape [0, 8]"),
        (header('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', 4), "has the shape []"),
        (header('{"a":{"dtype":"F32","shape":[1,1,1],"data_offsets":[0,4]}}', 4), "has the shape [1, 1, 1]"),
        (header('{"a":{"dtype":"I64","shape":[1,8],"data_offsets":[0,64]}}', 64), "is I64, and must be one of"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (bytes(MAX_BYTES + 1), f"has more than {MAX_BYTES} bytes"),
        (save({}), "has 0 tensors"),
        (save({"a": torch.ones(2, 8), "b": torch.ones(2, 8)}), "has 2 tensors; an embedding has one, or those of XL"),
        (save({"clip_l": torch.ones(2, 8), "clip_g": torch.ones(3, 12)}), "has 2 and 3 vectors"),
        *(
            (save({"emb_params": torch.tensor([[1.0, value]], dtype=dtype)}), "has numbers that are not finite")
            for value in (float("nan"), float("inf"))
            for dtype in (torch.float32, torch.float16, torch.bfloat16)
        ),
    ],
)
def test_a_file_that_is_no_embedding_is_listed_with_the_reason_and_the_others_stay(tmp_path, content, reason):
    (tmp_path / "bad.safetensors").write_bytes(content)
    aged(tmp_path / "bad.safetensors")
    write_embedding(tmp_path / "ink.safetensors", (2, 8))
    bad, ink = cards(tmp_path)
    assert reason in (bad.problem or "")
    assert ink.problem is None


def test_no_damage_to_a_file_does_more_than_refuse_it(tmp_path):
    """Each byte of the header, and of the length before it, is changed in some way."""
    path, generator = tmp_path / "ink.safetensors", np.random.default_rng(0)
    refused = 0
    for place in range(len(WHOLE) - 64):
        damaged = bytearray(WHOLE)
        damaged[place] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            [vectors] = read_embedding(path).vectors
            assert np.isfinite(vectors).all()
        except UnusableAdapter:
            refused += 1
    assert refused > 40


def test_a_file_that_may_not_be_read_is_listed_with_the_reason_in_place_of_its_old_card(tmp_path, monkeypatch):
    write_embedding(tmp_path / "ink.safetensors", (3, 8))
    folder = EmbeddingFolder(tmp_path, SD)
    folder.scan()
    assert folder.cards[0].problem is None
    os.utime(tmp_path / "ink.safetensors", (1, 1))
    monkeypatch.setattr("models.adapters.embedding_folder.read_embedding", forbidden)
    folder.scan()
    assert folder.cards[0].problem == "cannot be read: Permission denied."


def forbidden(path: Path) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_file_of_the_future_is_listed_with_its_fault(tmp_path):
    broken = tmp_path / "ink.safetensors"
    broken.write_bytes(b"no embedding")
    os.utime(broken, (2**32, 2**32))
    assert "is not a safetensors file" in str(cards(tmp_path)[0].problem)


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, loop])
def test_what_takes_the_place_of_a_file_is_gone_for_the_jobs_that_name_it(tmp_path, put):
    resident = ResidentEmbeddings(tmp_path, (8,), 30)
    put(tmp_path / "ink.safetensors")
    with pytest.raises(AdapterChanged, match="prompt: ink is gone"):
        resident.load([Embedding(name="ink", sha256="a" * 64)], "prompt")


def test_a_file_that_may_not_be_read_fails_the_jobs_that_name_it_with_the_reason(tmp_path, monkeypatch):
    write_embedding(tmp_path / "ink.safetensors", (3, 8))
    monkeypatch.setattr("models.adapters.resident_embeddings.read_embedding", forbidden)
    with pytest.raises(UnusableAdapter, match=r"prompt: ink cannot be read: Permission denied\."):
        ResidentEmbeddings(tmp_path, (8,), 30).load([Embedding(name="ink", sha256="a" * 64)], "prompt")
