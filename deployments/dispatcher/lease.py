"""The right to draw a picture."""

from dataclasses import dataclass

from models.spec import ImageSpec

Place = tuple[str, int]  # a job's id, and which of its pictures


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to draw one picture of a job; epoch and attempt are the fence against doubles."""

    job_id: str
    index: int
    epoch: int = 0
    attempt: int = 1

    @property
    def place(self) -> Place:
        """The picture, whoever draws it."""
        return self.job_id, self.index

    def file_name(self, extension: str) -> str:
        """Return the name of the picture that this lease leads to, and no other."""
        return f"{self.job_id}-{self.index}-{self.epoch}-{self.attempt}.{extension}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A picture in line."""

    lease: Lease
    owner: str
    spec: ImageSpec
