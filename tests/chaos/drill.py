"""What every drill gives back, and the requests that they are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.client import Client

ENDS_WITHIN_S = 120  # after the load
DISTINCT = 8  # requests, over and over
SAMPLERS = ("ddim", "euler_ancestral", "dpmpp_2m", "heun")


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


def a_body(number: int) -> dict[str, Any]:
    """One of `DISTINCT` requests."""
    k = number % DISTINCT
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
