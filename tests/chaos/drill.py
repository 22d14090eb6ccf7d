"""What every drill gives back, and the requests that they are made of."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from deployments.input_store import id_of
from tests.client import Client


def png_of(pixels: np.ndarray) -> bytes:
    """A file of pixels, the same each time."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


ENDS_WITHIN_S = 120  # after the load
DISTINCT = 12  # requests, over and over: eight that begin with noise, four that begin with an image
SAMPLERS = ("ddim", "euler_ancestral", "dpmpp_2m", "heun")
PHOTO = png_of(np.random.default_rng(0).integers(0, 256, (160, 128, 3), np.uint8))
MASK = png_of(np.array([[0], [255]], np.uint8).repeat(64, 0).repeat(128, 1))
INITS = (
    {"input": id_of(PHOTO), "strength": 0.4},
    {"input": id_of(PHOTO), "strength": 0.8, "mask": id_of(MASK)},
    {"input": id_of(PHOTO), "strength": 1.0, "resize_mode": "fit"},
    {"input": id_of(PHOTO), "strength": 0.6, "mask": id_of(MASK), "paste_back": True},
)


@dataclass(frozen=True)
class Outcome:
    """What a drill found: whether the promise held, and the figures.

    `in_time` is what it says of seconds: that is only asked of a machine that does nothing else, by `make chaos`.
    """

    promise: str
    held: bool
    figures: dict[str, Any]
    in_time: bool = True

    @property
    def word(self) -> str:
        """The outcome in a word."""
        if not self.held:
            return "BROKEN"
        return "held" if self.in_time else "LATE"


def upload_inputs(client: Client) -> None:
    """Send what some requests begin with; they are kept for a day."""
    for content in (PHOTO, MASK):
        status, answer = client.post("/v1/inputs", content, "image/png")
        if status not in (200, 201):
            raise RuntimeError(f"{status}: {answer}")


def a_body(number: int) -> dict[str, Any]:
    """One of `DISTINCT` requests."""
    k = number % DISTINCT
    if k >= len(INITS) * 2:
        return a_body(k - len(INITS) * 2) | {"init": INITS[k - len(INITS) * 2]}
    return {
        "prompt": f"a {('red', 'blue')[k % 2]} circle on a white background",
        "seed": k,
        "num_inference_steps": 12 + 4 * (k % 4),
        "sampler": SAMPLERS[k % len(SAMPLERS)],
        "guidance_scale": (1.0, 4.0)[k // 4],
    }


def undisturbed(cluster: Client) -> list[list[str]]:
    """The pixels of each request, drawn while nothing happens."""
    return [cluster.pixels(cluster.drawn(a_body(k))) for k in range(DISTINCT)]


@dataclass(frozen=True)
class Ends:
    """What became of jobs, by their numbers."""

    jobs: dict[int, dict[str, Any] | None]
    lost: list[int]
    begun_again: list[int]
    different: list[int]  # whose pixels are not those of an undisturbed one

    @property
    def why(self) -> list[str]:
        """What the lost ones say of it."""
        ends = (self.jobs[number] for number in self.lost)
        return sorted({str(end and end["error"]) for end in ends})


def ends_of(client: Client, submitted: dict[int, str], expected: list[list[str]]) -> Ends:
    """See each job end, and hold its pixels against those that `undisturbed` found."""
    jobs = {number: client.end_of(job_id, ENDS_WITHIN_S) for number, job_id in submitted.items()}
    found = [(number, end) for number, end in jobs.items() if end is not None]
    return Ends(
        jobs,
        lost=[number for number, end in jobs.items() if end is None or end["status"] != "succeeded"],
        begun_again=[number for number, end in found if end["warnings"]],
        different=[n for n, end in found if end["images"] and client.pixels(end) != expected[n % DISTINCT]],
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a promise."""
    lines = []
    for outcome in outcomes:
        figures = ", ".join(f"{name} {value}" for name, value in outcome.figures.items() if value != [])
        lines.append(f"{outcome.word:8}{outcome.promise}: {figures}")
    return "\n".join(lines)
