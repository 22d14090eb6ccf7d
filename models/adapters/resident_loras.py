"""The LoRAs that a stage has in the banks of its models: loaded when they are asked for, kept while there is room."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from models.adapters.lora_bank import NO_RANKS, LoraBank, LowRank, RowRanks
from models.adapters.lora_header import read_lora_header
from models.checkpoint.cache import recorded_sum
from models.errors import AdapterChanged, UnusableAdapter, UnusableCheckpoint
from models.spec import Lora

Ranks = Mapping[str, RowRanks]  # component -> what a row adds to it
Read = Callable[[Path], Mapping[str, Mapping[str, LowRank]]]


class ResidentLoras:
    """The banks of a stage's models by component, and the files in `folder` that fill them.

    A LoRA that is held keeps its ranks; of the others, the one that was held longest ago makes room. Not thread-safe.
    """

    def __init__(self, folder: Path, banks: Mapping[str, LoraBank], read: Read, max_rank: int) -> None:
        self._folder = folder
        self.banks = banks
        self._read = read
        self._max_rank = max_rank
        self._resident: OrderedDict[str, Ranks] = OrderedDict()  # digest -> its ranks, the latest last
        self._held: Counter[str] = Counter()  # digest -> how many images hold it

    def has_room(self, loras: Sequence[Lora]) -> bool:
        """Whether `hold` finds room, however large those are that are not resident."""
        wanted = {lora.sha256 for lora in loras}
        needed = self._max_rank * len(wanted - self._resident.keys())
        idle = [ranks for sha256, ranks in self._resident.items() if sha256 not in wanted and not self._held[sha256]]
        return all(
            bank.free + sum(len(ranks[name].indices) for ranks in idle if name in ranks) >= needed
            for name, bank in self.banks.items()
        )

    def hold(self, loras: Sequence[Lora]) -> dict[str, RowRanks]:
        """Load what is not resident, and return what a row of each component adds. They stay until `release`.

        Raises:
            AdapterChanged: a file is not what it was when the job was accepted.
            UnusableAdapter: a file cannot be used, or is not for this model.
        """
        self._held.update(lora.sha256 for lora in loras)  # all at once: none of them makes room for another
        try:
            for lora in loras:
                if lora.sha256 not in self._resident:
                    self._load(lora)
                self._resident.move_to_end(lora.sha256)
        except BaseException:
            self.release(loras)
            raise
        return {
            name: RowRanks.joined([_weighted(self._resident[lora.sha256].get(name), lora.weight) for lora in loras])
            for name in self.banks
        }

    def release(self, loras: Sequence[Lora]) -> None:
        """Let go of what an image held."""
        self._held.subtract(lora.sha256 for lora in loras)
        self._held += Counter()  # without those that nobody holds

    def _load(self, lora: Lora) -> None:
        path = self._folder / f"{lora.name}.safetensors"
        try:
            if not path.is_file():  # to open a pipe would wait for its writer
                raise AdapterChanged(f"loras: {lora.name} is gone since the job was accepted.", "loras")
            found = recorded_sum(path)
        except OSError as error:
            raise UnusableAdapter(f"loras: {lora.name} cannot be read: {error.strerror}.", "loras") from error
        except UnusableCheckpoint as error:
            raise UnusableAdapter(f"loras: {lora.name} cannot be checked: {error.message}", "loras") from error
        if found != lora.sha256:
            raise AdapterChanged(f"loras: {lora.name} has changed since the job was accepted.", "loras")
        try:
            weights = self._fitting(path)
        except UnusableAdapter as error:
            raise UnusableAdapter(f"loras: {lora.name} {error.message}", "loras") from error
        self._make_room(
            {name: max((len(one.down) for one in own.values()), default=0) for name, own in weights.items()}
        )
        self._resident[lora.sha256] = {name: self.banks[name].add(own) for name, own in weights.items() if own}

    def _fitting(self, path: Path) -> Mapping[str, Mapping[str, LowRank]]:
        if (rank := read_lora_header(path).rank) > self._max_rank:
            raise UnusableAdapter(f"has rank {rank}, the greatest is {self._max_rank}: see max_lora_rank.")
        weights = self._read(path)
        for name, own in weights.items():
            if problem := self.banks[name].problem(own):
                raise UnusableAdapter(f"does not fit {name}: {problem}.")
        return weights

    def _make_room(self, needed: Mapping[str, int]) -> None:
        while any(self.banks[name].free < count for name, count in needed.items()):
            oldest = next(sha256 for sha256 in self._resident if not self._held[sha256])
            for name, ranks in self._resident.pop(oldest).items():
                self.banks[name].remove(ranks)


def _weighted(ranks: RowRanks | None, weight: float) -> RowRanks:
    return NO_RANKS if ranks is None else RowRanks(ranks.indices, ranks.weights * weight)
