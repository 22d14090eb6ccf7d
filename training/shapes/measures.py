"""What a picture shows, read from its pixels alone.

No measure sees the caption, the scene or the model: each takes uint8 [SIZE, SIZE, 3] pixels.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from training.shapes.scenes import COLOURS, SHAPES, SIZE, SIZES, distance

_NAMES = list(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), np.float32)


@dataclass(frozen=True, slots=True)
class Seen:
    """The attributes read from a picture; `shape`, `colour`, `size` and `position` are None where no object shows."""

    background: str
    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    position: str | None = None


def nearest_colour(rgb: np.ndarray) -> str:
    """Name the palette colour nearest to `rgb` [3]; hue counts more than lightness, as paint is uneven."""
    return _NAMES[int(_gaps(np.asarray(rgb, np.float32)[None])[0].argmin())]


def _gaps(rgb: np.ndarray) -> np.ndarray:
    """Squared distances [n, 10] of colours [n, 3] from the palette, lightness weighted by a half."""
    gap = rgb[:, None, :] - _PALETTE[None]
    light = gap.mean(-1, keepdims=True)
    return np.square(gap - light).sum(-1) + 0.5 * 3 * np.square(light[..., 0])


def _object_mask(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """The largest connected region that differs from the background, holes kept."""
    away = np.abs(pixels.astype(np.float32) - ground).sum(-1) > 75
    labels, count = ndimage.label(ndimage.binary_opening(away))
    if not count:
        return np.zeros_like(away)
    sizes = ndimage.sum_labels(away, labels, range(1, count + 1))
    return labels == 1 + int(np.argmax(sizes))


def _painted(pixels: np.ndarray, mask: np.ndarray, ground: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """The part of `mask` that is nearer to the object's paint than to the ground, without an inked outline."""
    to_paint, to_ground = (np.abs(pixels.astype(np.float32) - c).sum(-1) for c in (paint, ground))
    return ndimage.binary_opening(mask & (to_paint < to_ground) & (to_paint < 160))


def _shape_and_radius(mask: np.ndarray) -> tuple[str, float]:
    """Fit each shape's template by position and radius; return the one with the greatest overlap (IoU)."""
    rows, columns = np.nonzero(mask)
    x = (columns.min() + columns.max() + 1 - SIZE) / 2
    y = (rows.min() + rows.max() + 1 - SIZE) / 2
    half = max(np.ptp(rows), np.ptp(columns)) / 2 + 0.5
    best = (-1.0, "", 0.0)
    for shape in SHAPES:
        unit = distance(shape, 0, 0, 40.0) < 0
        unit_rows, unit_columns = np.nonzero(unit)
        extent = max(np.ptp(unit_rows), np.ptp(unit_columns)) / 2 + 0.5
        off_x = (unit_columns.min() + unit_columns.max() + 1 - SIZE) / 2 / 40
        off_y = (unit_rows.min() + unit_rows.max() + 1 - SIZE) / 2 / 40
        for stretch in (0.92, 1.0, 1.08):
            radius = half * 40 / extent * stretch
            template = distance(shape, x - off_x * radius, y - off_y * radius, radius) < 0
            overlap = (mask & template).sum() / (mask | template).sum()
            best = max(best, (float(overlap), shape, float(radius)))
    return best[1], best[2]


def _position(x: float, y: float) -> str:
    """Name where (x, y), in pixels from the middle, lies."""
    if max(abs(x), abs(y)) < 15:
        return "center"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def look(pixels: np.ndarray) -> Seen:
    """Read a picture: background from its border, the object from what differs from it."""
    strips = (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:])
    border = np.concatenate([strip.reshape(-1, 3) for strip in strips])
    ground = np.median(border, 0)
    background = nearest_colour(ground)
    mask = _object_mask(pixels, ground)
    if mask.sum() < 60:
        return Seen(background)
    inside = ndimage.binary_erosion(mask, iterations=2)
    paint = pixels[inside if inside.sum() > 30 else mask].astype(np.float32)
    names = _gaps(paint).argmin(1)
    colour = int(np.bincount(names, minlength=len(_NAMES)).argmax())
    mask = _painted(pixels, mask, ground, np.median(paint[names == colour], 0))
    if mask.sum() < 60:
        return Seen(background, _NAMES[colour])
    shape, radius = _shape_and_radius(mask)
    rows, columns = np.nonzero(mask)
    x = (columns.min() + columns.max() + 1 - SIZE) / 2
    y = (rows.min() + rows.max() + 1 - SIZE) / 2
    size = min(SIZES, key=lambda name: abs(np.log(radius / SIZES[name])))
    return Seen(background, _NAMES[colour], shape, size, _position(x, y))
