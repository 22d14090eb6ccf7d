"""Words for a scene. What a caption leaves out is free in the picture, except style: no style named means flat."""

import numpy as np

from training.shapes.scenes import COLOURS, POSITIONS, SHAPES, SIZES, STYLES, Scene

POSITION_WORDS: dict[str, tuple[str, ...]] = {
    "center": ("in the center", "in the middle"),
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom", "below the middle"),
}
STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "flat": ("flat", "flat design"),
    "cartoon": ("cartoon", "cartoon style"),
    "pixel art": ("pixel art", "as pixel art"),
    "watercolor": ("watercolor", "a watercolor painting"),
}


def full_caption(scene: Scene) -> str:
    """Name every attribute, in the commonest wording."""
    return (
        f"a {scene.size} {scene.colour} {scene.shape} on a {scene.background} background, "
        f"{POSITION_WORDS[scene.position][0]}, {STYLE_WORDS[scene.style][0]}"
    )


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Word a scene as people do: parts left out, in another order, in capitals."""

    def often(probability: float) -> bool:
        return rng.random() < probability

    def one_of(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    thing = [scene.colour, scene.shape]
    if often(0.6):
        thing.insert(0, scene.size)
    object_words = one_of(("a ", "a ", "one ", "")) + " ".join(thing)
    place = one_of(POSITION_WORDS[scene.position]) if often(0.75) else ""
    ground = scene.background + " background"
    if often(0.7):
        words = f"{object_words} on a {ground}" if often(0.8) else f"{object_words}, {ground}"
        words = (
            f"{words}, {place}"
            if place and often(0.5)
            else words.replace(" on ", f" {place} on ", 1)
            if place
            else words
        )
    else:
        words = f"a {ground} with {object_words}" + (f" {place}" if place else "")
    if scene.style != "flat" or often(0.3):
        style = one_of(STYLE_WORDS[scene.style])
        words = f"{words}, {style}" if often(0.7) else f"{style}, {words}"
    return words if often(0.9) else words.capitalize() if often(0.7) else words.upper()


def vocabulary() -> list[str]:
    """Return every word that captions use, sorted: what the tokenizer learns whole."""
    lists = [*COLOURS, *SHAPES, *SIZES, *STYLES, "a one on on with background , ."]
    lists += [words for table in (POSITION_WORDS, STYLE_WORDS) for options in table.values() for words in options]
    return sorted({word for words in lists for word in words.split()} | set(POSITIONS))
