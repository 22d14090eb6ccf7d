"""Seconds for one forward of so many rows of a shape, measured while running. No torch."""

from dataclasses import dataclass, field

SMOOTHING = 0.1  # weight of the newest measurement where the one before it was just taken
MOST_SMOOTHING = 0.5  # and where that was long ago: the newest may have been disturbed
UNMEASURED_S = 0.05  # assumed for a row until anything is known
AS_FAST = 0.95  # of the greatest speed measured: what counts as no slower


@dataclass(slots=True)
class StepCurve:
    """Measured times of steps; what was not measured is read off a straight line between or beyond what was."""

    seconds: dict[tuple[int, int], float] = field(default_factory=dict)  # (rows, latent cells) -> seconds
    _steps: int = field(default=0, init=False)
    _measured_at: dict[tuple[int, int], int] = field(default_factory=dict, init=False)  # point -> step

    def measure(self, rows: int, cells: int, seconds: float) -> None:
        """Take in one step.

        What was measured before fades with every step since, so that a row count that is seldom tried is not judged for
        long by what it took in a bad moment, such as a replica's start beside others.
        """
        point = rows, cells
        self._steps += 1
        known = self.seconds.get(point, seconds)
        faded = 1 - (1 - SMOOTHING) ** (self._steps - self._measured_at.get(point, 0))
        self.seconds[point] = known + min(faded, MOST_SMOOTHING) * (seconds - known)
        self._measured_at[point] = self._steps

    def best_rows(self, cells: int, most: int) -> int:
        """Return the fewest rows of those measured that give as many rows a second as any; `most` if none were."""
        speeds = {r: r / s for (r, c), s in self.seconds.items() if c == cells and r <= most}
        fastest = max(speeds.values(), default=0.0)
        return min((rows for rows, speed in speeds.items() if speed >= AS_FAST * fastest), default=most)

    def step_s(self, rows: int, cells: int) -> float:
        """Return the expected seconds of a step of `rows` rows of `cells` latent cells."""
        points = sorted((r, s) for (r, c), s in self.seconds.items() if c == cells)
        if not points:
            nearest = min(self.seconds, key=lambda point: abs(point[1] - cells), default=None)
            if nearest is None:
                return UNMEASURED_S * rows
            return self.step_s(rows, nearest[1]) * cells / nearest[1]
        below = max((p for p in points if p[0] <= rows), default=None)
        above = min((p for p in points if p[0] >= rows), default=None)
        if below and above:
            if below[0] == above[0]:
                return below[1]
            share = (rows - below[0]) / (above[0] - below[0])
            return below[1] + share * (above[1] - below[1])
        edge = below or points[0]
        return edge[1] * rows / edge[0]
