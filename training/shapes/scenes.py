"""Drawn scenes: the only training data of the shapes model.

A `Scene` says what is in a picture; `draw` turns it into pixels. Every shape is a signed distance function on a unit
canvas (negative inside), so that one definition gives the soft edge that is drawn, the outline of a style, and the
template that `measures` compares a picture with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SIZE = 128  # pixels, both ways

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 220, 50),
    "green": (50, 160, 70),
    "blue": (45, 90, 210),
    "purple": (130, 60, 180),
    "pink": (250, 150, 190),
    "brown": (125, 75, 40),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
}
SIZES: dict[str, float] = {"small": 15.0, "medium": 21.5, "large": 29.0}  # radius in pixels
POSITIONS: dict[str, tuple[int, int]] = {  # the centre, in pixels from the middle of the picture
    "center": (0, 0),
    "left": (-30, 0),
    "right": (30, 0),
    "top": (0, -30),
    "bottom": (0, 30),
}

Field = np.ndarray  # float32 [SIZE, SIZE]


def _circle(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - 1.0


def _square(x: Field, y: Field) -> Field:
    return np.maximum(np.abs(x), np.abs(y)) - 0.86


def _triangle(x: Field, y: Field) -> Field:
    """Pointing up; three half-planes."""
    return np.maximum(y - 0.75, 0.866 * np.abs(x) - 0.5 * y - 0.55)


def _star(x: Field, y: Field) -> Field:
    """Five points: the distance to the one edge that the folded plane has."""
    fold = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fold / 2) % fold - fold / 2)
    radius = np.hypot(x, y)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    tip, notch = np.array([1.12, 0.0]), 0.48 * np.array([np.cos(fold / 2), np.sin(fold / 2)])
    edge = notch - tip
    return ((px - tip[0]) * edge[1] - (py - tip[1]) * edge[0]) / np.hypot(*edge)


def _heart(x: Field, y: Field) -> Field:
    """Two discs above a wedge."""
    lobes = np.hypot(np.abs(x) - 0.46, y + 0.32) - 0.56
    wedge = np.maximum(0.707 * (np.abs(x) + y - 0.93), -y)
    return np.minimum(lobes, wedge)


def _ring(x: Field, y: Field) -> Field:
    return np.abs(np.hypot(x, y) - 0.76) - 0.27


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One object on a plain background. The jitter fields are in pixels and, for `scale`, a factor."""

    shape: str
    colour: str
    background: str
    size: str
    position: str
    style: str
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0


_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5 - SIZE / 2


def distance(shape: str, x: float, y: float, radius: float) -> Field:
    """Signed distance in pixels, float32 [SIZE, SIZE]; (x, y) is the centre, measured from the middle."""
    return SHAPES[shape]((_X - x) / radius, (_Y - y) / radius) * radius


def _cover(d: Field) -> Field:
    """How much of each pixel lies inside, 0 … 1, with an edge one pixel wide."""
    return np.clip(0.5 - d, 0.0, 1.0)[..., None]


def _smooth_noise(rng: np.random.Generator, cells: int) -> Field:
    """Bilinear value noise in −1 … 1 with `cells` cells along a side."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    t = np.linspace(0, cells, SIZE, endpoint=False, dtype=np.float32)
    i, f = t.astype(int), t % 1
    rows = grid[i] * (1 - f)[:, None] + grid[i + 1] * f[:, None]
    return rows[:, i] * (1 - f) + rows[:, i + 1] * f


def _flat(d: Field, colour: np.ndarray, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return background + (colour - background) * _cover(d)


def _cartoon(d: Field, colour: np.ndarray, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An outline outside the shape: black, or whatever shows beside a black or white fill and background."""
    dark, light = (
        any(test(c) for c in (colour, background)) for test in (lambda c: c.max() < 60, lambda c: c.min() > 200)
    )
    ink = np.full(3, 128.0 if dark and light else 235.0 if dark else 15.0, np.float32)
    return _flat(d, colour, background + (ink - background) * _cover(d - 3.0), rng)


def _pixel_art(d: Field, colour: np.ndarray, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blocks of 4 × 4 pixels, each inside or outside."""
    coarse = d.reshape(SIZE // 4, 4, SIZE // 4, 4).mean((1, 3)).repeat(4, 0).repeat(4, 1)
    return _flat(np.where(coarse < 0, -1.0, 1.0), colour, background, rng)


def _watercolor(d: Field, colour: np.ndarray, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wavering edges, uneven paint that gathers at the rim, on paper that is uneven too."""
    d = d + 1.8 * _smooth_noise(rng, 12)
    wash = 1 + 0.10 * _smooth_noise(rng, 6)[..., None]
    paint = colour + (255 - colour) * 0.14 * (1 + _smooth_noise(rng, 10)[..., None])
    rim = np.exp(-np.square((d + 1.5) / 1.5))[..., None]
    paper = (background + (255 - background) * 0.10) * wash
    cover = np.clip(0.5 - d / 2.5, 0.0, 1.0)[..., None]
    return paper + (paint * (1 - 0.22 * rim) - paper) * cover


STYLES: dict[str, Callable[[Field, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "flat": _flat,
    "cartoon": _cartoon,
    "pixel art": _pixel_art,
    "watercolor": _watercolor,
}


def placed(scene: Scene) -> tuple[float, float, float]:
    """Where the object's centre lies, measured from the middle, and its radius, in pixels."""
    x, y = POSITIONS[scene.position]
    return x + scene.dx, y + scene.dy, SIZES[scene.size] * scene.scale


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return the picture, uint8 [SIZE, SIZE, 3]. `rng` is used by styles with texture."""
    colour, background = (np.array(COLOURS[c], np.float32) for c in (scene.colour, scene.background))
    pixels = STYLES[scene.style](distance(scene.shape, *placed(scene)), colour, background, rng)
    return np.clip(pixels.round(), 0, 255).astype(np.uint8)


def _pick(rng: np.random.Generator, names: dict) -> str:
    return list(names)[rng.integers(len(names))]


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw each attribute evenly; object and background differ in colour."""
    colour, background = rng.choice(list(COLOURS), 2, replace=False).tolist()
    return Scene(
        shape=_pick(rng, SHAPES),
        colour=colour,
        background=background,
        size=_pick(rng, SIZES),
        position=_pick(rng, POSITIONS),
        style=_pick(rng, STYLES),
        dx=rng.uniform(-3, 3),
        dy=rng.uniform(-3, 3),
        scale=rng.uniform(0.94, 1.06),
    )


def held_out(scene: Scene) -> bool:
    """Whether training must never see this shape, colour and background together (one combination in ten)."""
    shape, colour, background = (
        list(names).index(name)
        for names, name in ((SHAPES, scene.shape), (COLOURS, scene.colour), (COLOURS, scene.background))
    )
    return (shape * 7 + colour * 3 + background) % 10 == 0


def random_training_scene(rng: np.random.Generator) -> Scene:
    """Draw scenes until one is not held out."""
    while held_out(scene := random_scene(rng)):
        pass
    return scene


ATTRIBUTES: dict[str, list[str]] = {
    "shape": list(SHAPES),
    "colour": list(COLOURS),
    "background": list(COLOURS),
    "size": list(SIZES),
    "position": list(POSITIONS),
    "style": list(STYLES),
}
