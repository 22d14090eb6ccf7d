"""What a stage replica holds, and has done since it started."""

from dataclasses import dataclass


@dataclass(slots=True)
class Work:
    """Counts of pictures and of the batches they came in: requests for encoder and decoder, steps for the denoiser."""

    parameter_bytes: int  # of the weights it holds
    pictures: int = 0
    batches: int = 0
    largest: int = 0  # pictures of the largest batch

    def count(self, pictures: int) -> None:
        """Take in one batch."""
        self.pictures += pictures
        self.batches += 1
        self.largest = max(self.largest, pictures)
