"""LoRA files are hostile input: damaged at random, each is refused with a reason or used, and nothing else happens."""

import json
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from models.adapters.lora_bank import LoraBank
from models.adapters.lora_file import read_lora
from models.adapters.lora_folder import LoraFolder
from models.adapters.resident_loras import ResidentLoras
from models.errors import UnusableAdapter
from models.spec import Lora

pytestmark = pytest.mark.usefixtures("own_cache")
TENSORS = {
    "unet.attn.to_q.lora_A.weight": torch.ones(4, 8),
    "unet.attn.to_q.lora_B.weight": torch.ones(8, 4),
    "unet.conv1.lora_A.weight": torch.ones(2, 8, 3, 3),
    "unet.conv1.lora_B.weight": torch.ones(8, 2, 1, 1),
}
WHOLE = save(TENSORS, {"ss_tag_frequency": '{"a": {"chalk": 3}}', "lora_adapter_metadata": '{"unet.lora_alpha": 4}'})
HUGE = 10 * 2**30
ODD = (0, -1, 1.5, 10**30, None, True, "8", [], {}, float("nan"))
MEMORY = 4 * 2**20  # bytes that one file may take


def bytes_flipped(choose: random.Random) -> bytes:
    data = bytearray(WHOLE)
    for _ in range(choose.randint(1, 20)):
        data[choose.randrange(len(data))] = choose.randrange(256)
    return bytes(data)


def cut_or_longer(choose: random.Random) -> bytes:
    return WHOLE[: choose.randrange(len(WHOLE))] + choose.randbytes(choose.randint(0, 64))


def header_claims_much(choose: random.Random) -> bytes:
    return struct.pack("<Q", choose.choice([2**63, 2**64 - 1, HUGE, len(WHOLE), 0])) + WHOLE[8:]


def entries_changed(choose: random.Random) -> bytes:
    [size] = struct.unpack("<Q", WHOLE[:8])
    header = json.loads(WHOLE[8 : 8 + size])
    for _ in range(choose.randint(1, 3)):
        name = choose.choice(list(header))
        entry = header[name]
        change = choose.randrange(6)
        if change == 0:
            header[name] = choose.choice(ODD)
        elif change == 1:
            header[choose.choice(["", "unet", f"{name}.lora_B.weight", "unet." + "x" * 5000])] = header.pop(name)
        elif name == "__metadata__" or not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
            header["__metadata__"] = {
                key: choose.choice(['{"unet.lora_alpha": "x"}', "[" * 2000, "\0"]) for key in "ab"
            }
        elif change == 2:
            entry["shape"] = [choose.choice([*ODD, HUGE, 8]) for _ in entry["shape"]]
        elif change == 3:
            entry["dtype"] = choose.choice(["F64", "I8", "BOOL", "F8_E4M3", "", *ODD])
        elif change == 4:
            entry["data_offsets"] = choose.choice([[0, HUGE], [-8, 8], [8, 0], [0, 0], *ODD])
        else:
            entry[choose.choice(["shape", "dtype", "data_offsets", "more"])] = choose.choice(ODD)
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + WHOLE[8 + size :]


def numbers_not_finite(choose: random.Random) -> bytes:
    name = choose.choice(list(TENSORS))
    tensor = TENSORS[name].clone()
    tensor.view(-1)[choose.randrange(tensor.numel())] = choose.choice([float("nan"), float("inf"), -float("inf")])
    return save(TENSORS | {name: tensor})


DAMAGES = (bytes_flipped, cut_or_longer, header_claims_much, entries_changed, numbers_not_finite)


class Net(nn.Module):
    """As much of a UNet as the files are for."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"to_q": nn.Linear(8, 8)})
        self.conv1 = nn.Conv2d(8, 8, 3)


def used(folder: LoraFolder, path: Path, data: bytes) -> str | None:
    """Put a file into the folder, and load it if it is listed as usable; return the reason if it is refused."""
    path.write_bytes(data)
    os.utime(path, (0, 0))  # so old that it is not taken for one that is being copied
    folder.scan()
    [card] = folder.cards
    if card.problem is not None:
        return card.problem
    loras = ResidentLoras(path.parent, {"unet": LoraBank(Net(), 8)}, lambda file: read_lora(file, ["unet"]), 8)
    try:
        loras.hold([Lora(name=card.name, weight=1.0, sha256=card.sha256)])
    except UnusableAdapter as error:
        return error.message
    return None


@pytest.fixture
def folder(tmp_path: Path) -> LoraFolder:
    return LoraFolder(tmp_path, lambda header: None)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.nightly)])
def test_a_damaged_file_is_refused_with_a_reason_or_used(
    damage: Callable[[random.Random], bytes], count: int, folder: LoraFolder, tmp_path: Path
) -> None:
    refused = 0
    for seed in range(count):
        tracemalloc.start()
        reason = used(folder, tmp_path / "lora.safetensors", damage(random.Random(seed)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY, f"seed {seed} took {peak} bytes"
        assert reason is None or 0 < len(reason) < 1000, f"seed {seed}: {reason}"
        refused += reason is not None
    assert refused > count / 2
    assert used(folder, tmp_path / "lora.safetensors", WHOLE) is None
