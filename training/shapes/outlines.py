"""The nine shapes as signed distance functions on a unit canvas, negative inside.

One definition gives the soft edge that is drawn, the outline of a style, and the template that `measures` compares a
picture with.
"""

from collections.abc import Callable

import numpy as np

SIZE = 128  # pixels, both ways

Field = np.ndarray  # float32 [SIZE, SIZE]

Y, X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5 - SIZE / 2


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
    """Two half discs on a square that stands on its corner; exact (Quilez, "2D distance functions")."""
    scale = 1.62
    x, y = np.abs(x) / scale, 0.56 - y / scale
    disc = np.hypot(x - 0.25, y - 0.75) - 0.5**0.5 / 2
    along = np.maximum(x + y, 0.0) / 2
    edge = np.minimum(np.hypot(x, y - 1.0), np.hypot(x - along, y - along)) * np.sign(x - y)
    return np.where(x + y > 1, disc, edge) * scale


def _ring(x: Field, y: Field) -> Field:
    return np.abs(np.hypot(x, y) - 0.76) - 0.27


def _moon(x: Field, y: Field) -> Field:
    """A crescent, open to the right."""
    return np.maximum(np.hypot(x, y) - 1.02, 0.82 - np.hypot(x - 0.60, y))


def _fish(x: Field, y: Field) -> Field:
    """Swimming to the left: an oval and a tail."""
    body = (np.hypot((x + 0.26) / 0.80, y / 0.56) - 1) * 0.56
    tail = np.maximum(x - 1.02, 0.77 * (np.abs(y) - 0.95 * (x - 0.26)))
    return np.minimum(body, tail)


def _tree(x: Field, y: Field) -> Field:
    """A round crown on a trunk."""
    crown = np.hypot(x, y + 0.36) - 0.70
    trunk = np.maximum(np.abs(x) - 0.19, np.abs(y - 0.55) - 0.50)
    return np.minimum(crown, trunk)


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "moon": _moon,
    "fish": _fish,
    "tree": _tree,
}


def distance(shape: str, x: float, y: float, radius: float) -> Field:
    """Signed distance in pixels of a shape with its centre at (x, y)."""
    return SHAPES[shape]((X - x) / radius, (Y - y) / radius) * radius
