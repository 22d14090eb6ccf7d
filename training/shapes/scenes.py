"""Drawn scenes: the only training data of the shapes model.

A `Scene` says what is in a picture; `draw` turns it into pixels. Lengths are in pixels, places in pixels from the
picture's middle.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.shapes.outlines import SHAPES, SIZE, Field, X, Y, distance

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 26),
    "yellow": (250, 220, 50),
    "green": (50, 160, 70),
    "blue": (45, 90, 210),
    "purple": (130, 60, 180),
    "pink": (250, 150, 190),
    "brown": (125, 75, 40),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
}
SIZES: dict[str, float] = {"small": 14.5, "medium": 20.0, "large": 27.5}  # radius
POSITIONS: dict[str, tuple[int, int]] = {
    "center": (0, 0),
    "left": (-26, 0),
    "right": (26, 0),
    "top": (0, -26),
    "bottom": (0, 26),
}
RELATIONS: dict[str, tuple[int, int]] = {  # where the first of two objects lies, seen from the second
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}

Pixels = np.ndarray  # float32 [SIZE, SIZE, 3], 0 … 255


def shade(colour: str) -> np.ndarray:
    """The second tone of a patterned background: darker, or lighter where the colour is dark already. float32 [3]."""
    tone = np.array(COLOURS[colour], np.float32)
    return tone + 55 if colour == "black" else tone * 0.78


PATTERNS: dict[str, Field] = {  # how much of the second tone shows
    "plain": np.zeros((SIZE, SIZE), np.float32),
    "striped": ((X + SIZE) % 16 < 8).astype(np.float32),
    "dotted": np.clip(3.9 - np.hypot((X + SIZE) % 16 - 8, (Y + SIZE) % 16 - 8), 0, 1),
    "gradient": (Y + SIZE / 2) / SIZE,
}


def ground(colour: str, pattern: str) -> Pixels:
    """The background alone."""
    tone = np.array(COLOURS[colour], np.float32)
    return tone + (shade(colour) - tone) * PATTERNS[pattern][..., None]


def cover(d: Field) -> Field:
    """How much of each pixel lies inside, 0 … 1, with an edge one pixel wide."""
    return np.clip(0.5 - d, 0.0, 1.0)[..., None]


def smooth_noise(rng: np.random.Generator, cells: int) -> Field:
    """Bilinear value noise in −1 … 1 with `cells` cells along a side."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    t = np.linspace(0, cells, SIZE, endpoint=False, dtype=np.float32)
    i, f = t.astype(int), t % 1
    rows = grid[i] * (1 - f)[:, None] + grid[i + 1] * f[:, None]
    return rows[:, i] * (1 - f) + rows[:, i + 1] * f


def _flat(d: Field, colour: np.ndarray, picture: Pixels, rng: np.random.Generator) -> Pixels:
    return picture + (colour - picture) * cover(d)


def ink(colour: np.ndarray, picture: Pixels) -> np.ndarray:
    """The tone of an outline: black, or whatever shows beside a black or white fill and background. float32 [3]."""
    around = np.median(picture.reshape(-1, 3), 0)
    dark, light = (any(test(c) for c in (colour, around)) for test in (lambda c: c.max() < 80, lambda c: c.min() > 185))
    return np.full(3, 128.0 if dark and light else 235.0 if dark else 15.0, np.float32)


def _cartoon(d: Field, colour: np.ndarray, picture: Pixels, rng: np.random.Generator) -> Pixels:
    """An outline outside the shape."""
    return _flat(d, colour, picture + (ink(colour, picture) - picture) * cover(d - 3.0), rng)


def blocks(field: np.ndarray, side: int = 4) -> np.ndarray:
    """Average over squares of `side` pixels."""
    cells = SIZE // side
    means = field.reshape(cells, side, cells, side, *field.shape[2:]).mean((1, 3))
    return means.repeat(side, 0).repeat(side, 1)


def _pixel_art(d: Field, colour: np.ndarray, picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Blocks of 4 × 4 pixels, each inside or outside."""
    return _flat(np.where(blocks(d) < 0, -1.0, 1.0), colour, blocks(picture), rng)


def _watercolor(d: Field, colour: np.ndarray, picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Wavering edges, uneven paint that gathers at the rim."""
    paint = colour + (255 - colour) * 0.14 * (1 + smooth_noise(rng, 10)[..., None])
    return _watercolor_edge(d + 1.4 * smooth_noise(rng, 12), paint, picture)


def _watercolor_edge(d: Field, paint: Pixels, picture: Pixels) -> Pixels:
    rim = np.exp(-np.square((d + 1.5) / 1.5))[..., None]
    wet = np.clip(0.5 - d / 2.5, 0.0, 1.0)[..., None]
    return picture + (paint * (1 - 0.22 * rim) - picture) * wet


def _neon(d: Field, colour: np.ndarray, picture: Pixels, rng: np.random.Generator) -> Pixels:
    """A tube of light along the edge, glowing both ways."""
    away = np.abs(d)[..., None] - 2.0
    glow = picture + (colour - picture) * 0.42 * np.exp(-np.maximum(away, 0.0) / 3)
    return glow + (colour - glow) * cover(away[..., 0])


def _line_drawing(d: Field, colour: np.ndarray, picture: Pixels, rng: np.random.Generator) -> Pixels:
    """The edge alone, as a line four pixels wide."""
    return _flat(np.abs(d) - 2.0, colour, picture, rng)


STYLES: dict[str, Callable[[Field, np.ndarray, Pixels, np.random.Generator], Pixels]] = {
    "flat": _flat,
    "cartoon": _cartoon,
    "pixel art": _pixel_art,
    "watercolor": _watercolor,
    "neon": _neon,
    "line drawing": _line_drawing,
    "mosaic": _flat,
}


def _washed_paper(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """An uneven wash that ends short of the white paper's edge."""
    wash = (picture + (255 - picture) * 0.10) * (1 + 0.10 * smooth_noise(rng, 6)[..., None])
    to_edge = np.maximum(np.abs(X), np.abs(Y)) - SIZE / 2
    return _watercolor_edge(to_edge + 6.0 + 1.4 * smooth_noise(rng, 12), wash, np.full(3, 252.0, np.float32))


def _lines(period: int) -> np.ndarray:
    """The last row and column of every square of `period` pixels, bool [SIZE, SIZE, 1]."""
    last = np.arange(SIZE) % period == period - 1
    return (last[:, None] | last[None])[..., None]


def _tiles(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Tiles of 8 × 8 pixels, each a little lighter or darker, with grey joints."""
    tone = rng.uniform(0.95, 1.05, (SIZE // 8, SIZE // 8)).repeat(8, 0).repeat(8, 1)[..., None]
    return np.where(_lines(8), 0.5 * picture + 70, picture * tone)


def _screen(picture: Pixels) -> Pixels:
    """The faint grid of a screen whose pixels are 4 × 4 of ours."""
    return np.where(_lines(4), 0.68 * picture + 41, picture)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object of a scene; (x, y) is its centre."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float

    def outline(self) -> Field:
        """Signed distance in pixels."""
        return distance(self.shape, self.x, self.y, self.radius)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One object at a position, or two in a relation, the one that the caption names first first."""

    things: tuple[Thing, ...]
    place: str  # of POSITIONS for one object, of RELATIONS for two
    background: str
    pattern: str
    style: str


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return the picture, uint8 [SIZE, SIZE, 3]. `rng` is used by styles with texture."""
    picture = ground(scene.background, scene.pattern)
    if scene.style == "watercolor":
        picture = _washed_paper(picture, rng)
    for thing in scene.things:
        picture = STYLES[scene.style](thing.outline(), np.array(COLOURS[thing.colour], np.float32), picture, rng)
    if scene.style == "mosaic":
        picture = _tiles(picture, rng)
    if scene.style == "pixel art":
        picture = _screen(picture)
    return np.clip(picture.round(), 0, 255).astype(np.uint8)


def _pick(rng: np.random.Generator, names: dict) -> str:
    return list(names)[rng.integers(len(names))]


def _one_thing(rng: np.random.Generator, colour: str) -> tuple[tuple[Thing, ...], str]:
    place, size = _pick(rng, POSITIONS), _pick(rng, SIZES)
    x, y = np.array(POSITIONS[place]) + rng.uniform(-2.5, 2.5, 2)
    radius = SIZES[size] * rng.uniform(0.94, 1.06)
    return (Thing(shape=_pick(rng, SHAPES), colour=colour, size=size, x=x, y=y, radius=radius),), place


def _two_things(rng: np.random.Generator, colours: list[str]) -> tuple[tuple[Thing, ...], str]:
    """Two that fit side by side: not both large. The pair is centred, each a little off the common axis."""
    place = _pick(rng, RELATIONS)
    while (sizes := [_pick(rng, SIZES) for _ in range(2)]) == ["large", "large"]:
        pass
    radii = [SIZES[size] * rng.uniform(0.94, 1.06) for size in sizes]
    along = (1.1 * radii[1] + 5.5, -1.1 * radii[0] - 5.5)
    axis = np.array(RELATIONS[place], np.float32)
    across = np.abs(axis[::-1])
    things = []
    for k in range(2):
        x, y = axis * along[k] + across * rng.uniform(-7, 7) + axis * rng.uniform(-1, 1)
        things.append(Thing(shape=_pick(rng, SHAPES), colour=colours[k], size=sizes[k], x=x, y=y, radius=radii[k]))
    return tuple(things), place


def random_scene(rng: np.random.Generator, two_share: float = 0.55) -> Scene:
    """Draw each attribute evenly; objects and background differ in colour."""
    *colours, background = rng.choice(list(COLOURS), 3, replace=False).tolist()
    things, place = _two_things(rng, colours) if rng.random() < two_share else _one_thing(rng, colours[0])
    pattern = "plain" if rng.random() < 0.4 else _pick(rng, PATTERNS)
    return Scene(things=things, place=place, background=background, pattern=pattern, style=_pick(rng, STYLES))


def held_out(scene: Scene) -> bool:
    """Whether training must never see the scene: one combination in twenty of shape, colour, background and style."""
    shapes, colours = list(SHAPES), list(COLOURS)
    around = colours.index(scene.background) + 10 * list(STYLES).index(scene.style)
    return any(
        (shapes.index(thing.shape) * 7 + colours.index(thing.colour) * 3 + around) % 20 == 0 for thing in scene.things
    )


def random_training_scene(rng: np.random.Generator) -> Scene:
    """Draw scenes until one is not held out."""
    while held_out(scene := random_scene(rng)):
        pass
    return scene


NONE = "none"  # what a thing that is not there is
_TRAITS: dict[str, list[str]] = {"shape": list(SHAPES), "colour": list(COLOURS), "size": list(SIZES)}
_ENDS: dict[str, tuple[str, str]] = {  # where the two of a relation lie
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}
ATTRIBUTES: dict[str, list[str]] = {
    **{f"{who} {trait}": [*names, NONE] for who in ("first", "second", *POSITIONS) for trait, names in _TRAITS.items()},
    "place": [*POSITIONS, *RELATIONS],
    "background": list(COLOURS),
    "pattern": list(PATTERNS),
    "style": list(STYLES),
}


def attributes(scene: Scene) -> dict[str, str]:
    """Return the scene's value of each of `ATTRIBUTES`: the things as they are named, and what lies at each place."""
    places = _ENDS.get(scene.place, (scene.place,))
    things = dict(zip(("first", "second"), scene.things, strict=False)) | dict(zip(places, scene.things, strict=True))
    traits = (name.split() for name in ATTRIBUTES if " " in name)
    return {
        **{f"{who} {trait}": getattr(things.get(who), trait, NONE) for who, trait in traits},
        **{name: getattr(scene, name) for name in ("place", "background", "pattern", "style")},
    }
