"""The right to generate an image, and images in the queue."""

from dataclasses import dataclass, field

from models.spec import ImageSpec

ImageKey = tuple[str, int]  # a job's id, and the index of one of its images


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to generate one image of a job; epoch and attempt fence off all other attempts."""

    job_id: str
    index: int
    epoch: int = 0
    attempt: int = 1
    owner: str = field(default="", compare=False)  # of the job, and so of its inputs

    @property
    def key(self) -> ImageKey:
        """The image, whichever attempt generates it."""
        return self.job_id, self.index

    def file_name(self, extension: str) -> str:
        """Return the name of the file of this attempt alone."""
        return f"{self.job_id}-{self.index}-{self.epoch}-{self.attempt}.{extension}"


@dataclass(frozen=True, slots=True)
class QueuedImage:
    """An image in the queue."""

    lease: Lease
    spec: ImageSpec

    @property
    def owner(self) -> str:
        """Whose job it is of."""
        return self.lease.owner
