"""What a stage replica holds, and has done since it started."""

from dataclasses import dataclass

SMOOTHING = 0.1  # weight of the newest batch


@dataclass(slots=True)
class StageStats:
    """Counts of pictures and of the batches they came in: requests for the text encoder and the VAE, steps for
    the denoiser."""

    parameter_bytes: int  # of the weights it holds
    pictures: int = 0
    batches: int = 0
    largest: int = 0  # pictures of the largest batch
    picture_s: float = 0.0  # of this replica that a picture takes, of late; 0 until one has been made
    _spent_s: float = 0.0  # since the last batch of pictures

    def count(self, pictures: int) -> None:
        """Take in one batch."""
        self.pictures += pictures
        self.batches += 1
        self.largest = max(self.largest, pictures)

    def spent(self, seconds: float) -> None:
        """Take in what pictures took before the batch that they end in."""
        self._spent_s += seconds

    def took(self, pictures: int, seconds: float) -> None:
        """Take in how long a batch took."""
        share, self._spent_s = (self._spent_s + seconds) / pictures, 0.0
        self.picture_s += (SMOOTHING if self.picture_s else 1.0) * (share - self.picture_s)
