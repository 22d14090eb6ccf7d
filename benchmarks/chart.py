"""A plot of a day's scaling, drawn with Pillow: how many Denoisers there were, and what policies cost and attain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (1200, 780)
PAPER, INK, FAINT = "#ffffff", "#222222", "#d8d8d8"
COLOURS = ("#c2410c", "#2563eb", "#8a8a8a")  # of a family of policies
FONT_SIZE = 15
DOT = 5  # radius

Line = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """A part of the picture with its two axes."""

    box: tuple[int, int, int, int]  # left, top, right, bottom
    xs: tuple[float, float]
    ys: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point is drawn."""
        left, top, right, bottom = self.box
        across = (x - self.xs[0]) / (self.xs[1] - self.xs[0])
        up = (y - self.ys[0]) / (self.ys[1] - self.ys[0])
        return left + across * (right - left), bottom - up * (bottom - top)


class Chart:
    """A white picture to draw panels on."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", SIZE, PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._font = ImageFont.load_default(FONT_SIZE)

    def axes(self, panel: Panel, title: str, x_ticks: Mapping[float, str], y_ticks: Mapping[float, str]) -> None:
        left, top, right, bottom = panel.box
        self.say((left, top - 28), title)
        for value, name in x_ticks.items():
            x, _ = panel.at(value, panel.ys[0])
            self._draw.text((x, bottom + 6), name, INK, self._font, "ma")
        for value, name in y_ticks.items():
            _, y = panel.at(panel.xs[0], value)
            self._draw.line([(left, y), (right, y)], FAINT)
            self._draw.text((left - 8, y), name, INK, self._font, "rm")

    def steps(self, panel: Panel, line: Line, colour: str) -> None:
        """Draw what keeps a value until the next point."""
        corners = [panel.at(*line[0])]
        for x, y in line[1:]:
            corners += [(panel.at(x, y)[0], corners[-1][1]), panel.at(x, y)]
        self._draw.line(corners, colour, 2)

    def dot(self, panel: Panel, x: float, y: float, name: str, colour: str) -> None:
        across, down = panel.at(x, y)
        self._draw.ellipse([across - DOT, down - DOT, across + DOT, down + DOT], colour)
        self._draw.text((across + DOT + 3, down), name, colour, self._font, "lm")

    def say(self, where: tuple[float, float], text: str, colour: str = INK) -> None:
        self._draw.text(where, text, colour, self._font)

    def save(self, path: Path) -> None:
        self._image.save(path, optimize=True)


def draw_day(
    path: Path, lines: Mapping[str, Line], dots: Sequence[tuple[str, str, float, float]], within_s: float
) -> None:
    """Draw `lines`, name -> (hour, Denoisers), over `dots`: family, name, GPU-hours, share of pictures in time."""
    chart = Chart()
    most = max(count for line in lines.values() for _, count in line) + 1
    day = Panel((70, 50, 1170, 330), (0, 24), (0, most))
    chart.axes(day, "Denoisers, by the hour", _ticks(range(0, 25, 2), str), _ticks(range(0, int(most) + 1, 2), str))
    for number, (name, line) in reversed(list(enumerate(lines.items()))):
        chart.steps(day, line, COLOURS[number])
        chart.say((300 + 300 * number, 22), name, COLOURS[number])
    dearest = max(dot[2] for dot in dots)
    worth = Panel((70, 420, 1170, 740), (0, 1.1 * dearest), (0, 1))
    title = f"Pictures done within {within_s:g} s, by the GPU-hours of the day"
    hours = _ticks(range(0, int(1.1 * dearest), max(1, round(dearest / 100) * 10)), str)
    chart.axes(worth, title, hours, _ticks([0, 0.2, 0.4, 0.6, 0.8, 1], "{:.0%}".format))
    families = list(dict.fromkeys(family for family, *_ in dots))
    for family, name, cost, share in dots:
        chart.dot(worth, cost, share, name, COLOURS[families.index(family)])
    chart.save(path)


def _ticks(values: Sequence[float], name: Callable[[float], str]) -> dict[float, str]:
    return {value: name(value) for value in values}
