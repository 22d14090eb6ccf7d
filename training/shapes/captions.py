"""Words for a scene. What a caption leaves out is free in the picture, except style and pattern: flat, and plain."""

import string

import numpy as np

from training.shapes.outlines import SHAPES
from training.shapes.scenes import COLOURS, PATTERNS, POSITIONS, RELATIONS, SIZES, STYLES, Scene, Thing

POSITION_WORDS: dict[str, tuple[str, ...]] = {
    "center": ("in the center", "in the middle"),
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom", "near the bottom"),
}
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "flat": ("flat", "flat design"),
    "cartoon": ("cartoon", "cartoon style"),
    "pixel art": ("pixel art", "as pixel art"),
    "watercolor": ("watercolor", "a watercolor painting"),
    "neon": ("neon", "neon lights"),
    "line drawing": ("line drawing", "a line drawing"),
    "mosaic": ("mosaic", "a mosaic of tiles"),
}
OPENINGS = ("a picture of", "a drawing of", "an image of", "a photo of")


def full_caption(scene: Scene) -> str:
    """Name every attribute, in the commonest wording."""
    return f"{styleless_caption(scene)}, {STYLE_WORDS[scene.style][0]}"


def styleless_caption(scene: Scene) -> str:
    """Name every attribute but the style."""
    first, *others = (f"a {thing.size} {thing.colour} {thing.shape}" for thing in scene.things)
    pattern = "" if scene.pattern == "plain" else scene.pattern + " "
    ground = f"on a {pattern}{scene.background} background"
    return (
        f"{first} {scene.place} {others[0]} {ground}"
        if others
        else f"{first} {ground}, {POSITION_WORDS[scene.place][0]}"
    )


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Word a scene as people do: parts left out, in another order, in capitals, now and then with words unknown."""
    kind = rng.random()
    if kind < 0.07:
        words = _fragment(scene, rng)
    elif kind < 0.09:
        words = " ".join(_gibberish(rng) for _ in range(rng.integers(1, 6)))
    else:
        words = _sentence(scene, rng)
    return words if rng.random() < 0.85 else words.capitalize() if rng.random() < 0.6 else words.upper()


def _one_of(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]


def _sentence(scene: Scene, rng: np.random.Generator) -> str:
    def often(probability: float) -> bool:
        return rng.random() < probability

    pattern = scene.pattern if scene.pattern != "plain" or often(0.15) else ""
    ground = f"{scene.background} {pattern}" if often(0.2) else f"{pattern} {scene.background}"
    ground = f"{ground} background"
    words = _things(scene, rng)
    place = _one_of(rng, POSITION_WORDS[scene.place]) if len(scene.things) == 1 and often(0.75) else ""
    if often(0.12):
        words = f"{_one_of(rng, OPENINGS)} {words}"
    if often(0.7):
        middle, end = ("", f", {place}") if often(0.5) else (f" {place}", "")
        words += f"{middle if place else ''}{' on a ' if often(0.8) else ', '}{ground}{end if place else ''}"
    else:
        words = f"a {ground} with {words} {place}"
    if scene.style != "flat" or often(0.3):
        style = _one_of(rng, STYLE_WORDS[scene.style])
        words = f"{words}, {style}" if often(0.7) else f"{style}, {words}"
    return " ".join(words.split())


def _things(scene: Scene, rng: np.random.Generator) -> str:
    first, *others = (_thing(thing, rng) for thing in scene.things)
    if not others:
        return first
    return f"{first} {'and' if rng.random() < 0.2 else _one_of(rng, RELATION_WORDS[scene.place])} {others[0]}"


def _thing(thing: Thing, rng: np.random.Generator) -> str:
    size = thing.size if rng.random() < 0.6 else ""
    colour = thing.colour if rng.random() < 0.93 else ""
    shape = thing.shape if rng.random() < 0.97 else _gibberish(rng)
    return f"{_one_of(rng, ('a', 'a', 'one', ''))} {size} {colour} {shape}"


def _fragment(scene: Scene, rng: np.random.Generator) -> str:
    """One or two words, as a negative prompt has them."""
    thing = scene.things[0]
    known = (thing.colour, thing.shape, f"{thing.colour} {thing.shape}", f"{scene.background} background")
    return _one_of(rng, (*known, scene.pattern, *STYLE_WORDS[scene.style]))


def _gibberish(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(string.ascii_lowercase), rng.integers(2, 9)))


def vocabulary() -> list[str]:
    """Return every word that captions use, sorted: what the tokenizer learns whole."""
    lists = [*COLOURS, *SHAPES, *SIZES, *STYLES, *PATTERNS, *RELATIONS, *OPENINGS, "a one on with and background , ."]
    tables = (POSITION_WORDS, RELATION_WORDS, STYLE_WORDS)
    lists += [words for table in tables for options in table.values() for words in options]
    return sorted({word for words in lists for word in words.split()} | set(POSITIONS))
