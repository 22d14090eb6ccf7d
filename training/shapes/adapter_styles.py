"""How the styles of the adapters are drawn. The base model knows neither their looks nor a word for them.

Each gives the background a texture between the two tones that its patterns have, and draws things in a way of its own.
The autoencoder is the base model's. It loses what is finer than six pixels and takes an unknown tone for the nearest
one it knows, so textures are coarse and mix tones that base scenes have.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.shapes.outlines import SIZE, Field, X, Y
from training.shapes.scenes import COLOURS, PATTERNS, Pixels, Scene, Thing, cover, shade, smooth_noise

WEAVE: Field = ((X + SIZE) // 8 + (Y + SIZE) // 8) % 2  # cloth, of threads 8 pixels wide, over and under by turns
THREADS: Field = ((X + Y) % 16 < 6).astype(np.float32)  # diagonal threads
_ALONG = [(axis + 8 + 2 * SIZE) / 32 for axis in (X + Y, X - Y)]  # two coordinates in which a pane is a unit square
TO_LEAD: tuple[Field, Field] = tuple(
    16 - np.abs(32 * (along % 1) - 16) for along in _ALONG
)  # from its edges, ways apart

_PALETTE = np.array(list(COLOURS.values()), np.float32)


def _mix(first: np.ndarray, second: np.ndarray, share: Field) -> Pixels:
    return first + (second - first) * share[..., None]


def _fade(colour: np.ndarray, picture: Pixels) -> np.ndarray:
    """The paint with the background showing through, as far as it stays nearest to its own name."""
    way = np.median(picture.reshape(-1, 3), 0) - colour
    for share in (0.24, 0.16):
        gaps = np.abs(_PALETTE - (colour + share * way)).sum(1)
        if share * np.abs(way).sum() < min(140, 0.6 * np.partition(gaps, 1)[1]):
            return colour + share * way
    return colour + 0.08 * way


def _smear(rng: np.random.Generator) -> Field:
    """Wavering diagonal strokes, as a sponge leaves them on a board."""
    strokes = np.sin((X + Y + 6 * smooth_noise(rng, 6)) * 2 * np.pi / 22)
    return np.clip(0.3 + 1.2 * (strokes + 0.3 * smooth_noise(rng, 8)), 0, 1)


def _chalk(thing: Thing, colour: np.ndarray, dust: np.ndarray, picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Grain through which the board shows, with rough, soft edges: finer for small things."""
    paint = _mix(colour, _fade(colour, picture), np.clip(0.2 + 2 * smooth_noise(rng, 18), 0, 1))
    rough = thing.outline() + 0.05 * thing.radius * smooth_noise(rng, 18)
    return _mix(picture, paint, np.clip(0.5 - rough / 2.5, 0, 1))


def _lattice(rng: np.random.Generator) -> Field:
    """Bars of lead, six pixels wide, around panes of 32 pixels from corner to corner."""
    return np.clip(4.5 - np.minimum(*TO_LEAD), 0, 1)


def _leaded(thing: Thing, colour: np.ndarray, lead: np.ndarray, picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Clear glass framed in lead."""
    d = thing.outline()
    framed = picture + (lead - picture) * cover(d - 3.0)
    return framed + (colour - framed) * cover(d)


def _cloth(rng: np.random.Generator) -> Field:
    return WEAVE


def _stitched(thing: Thing, colour: np.ndarray, cloth: np.ndarray, picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Diagonal threads between which the cloth shows."""
    return picture + (_mix(colour, _fade(colour, picture), THREADS) - picture) * cover(thing.outline())


@dataclass(frozen=True, slots=True)
class AdapterStyle:
    """The background's texture, 0 … 1, and its strength; how a thing is drawn on that in its colour, given the
    background's second tone and the picture so far."""

    texture: Callable[[np.random.Generator], Field]
    strength: float
    thing: Callable[[Thing, np.ndarray, np.ndarray, Pixels, np.random.Generator], Pixels]


ADAPTER_STYLES: dict[str, AdapterStyle] = {
    "chalk": AdapterStyle(_smear, 0.7, _chalk),
    "stained glass": AdapterStyle(_lattice, 0.8, _leaded),
    "embroidery": AdapterStyle(_cloth, 0.6, _stitched),
}


def draw_adapted(scene: Scene, name: str, rng: np.random.Generator) -> np.ndarray:
    """Return the scene in an adapter's style instead of its own, uint8 [SIZE, SIZE, 3]."""
    style = ADAPTER_STYLES[name]
    pattern = PATTERNS[scene.pattern]
    share = pattern + style.strength * style.texture(rng) * (1 - pattern)
    picture = _mix(np.array(COLOURS[scene.background], np.float32), shade(scene.background), share)
    for thing in scene.things:
        picture = style.thing(thing, np.array(COLOURS[thing.colour], np.float32), shade(scene.background), picture, rng)
    return np.clip(picture.round(), 0, 255).astype(np.uint8)
