"""What a picture shows, read from its pixels alone.

No measure sees the caption, the scene or the model: each takes uint8 [SIZE, SIZE, 3] pixels. Backgrounds and shapes are
found by comparing with what the generator would draw; styles by the one trait that each has and no other.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import ndimage

from training.shapes.adapter_styles import TO_LEAD, WEAVE
from training.shapes.outlines import SHAPES, SIZE, distance
from training.shapes.scenes import COLOURS, PATTERNS, SIZES, blocks, ground, shade

_NAMES = list(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), np.float32)
_EDGE = SIZE / 2 - np.maximum(*np.abs(np.mgrid[0:SIZE, 0:SIZE] + 0.5 - SIZE / 2)) - 0.5  # whole pixels from the edge
_SHADES = np.stack([shade(name) for name in _NAMES])


@dataclass(frozen=True, slots=True)
class SeenThing:
    """One object; (x, y) is the middle of its bounding box in pixels from the picture's middle."""

    shape: str
    colour: str
    size: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Seen:
    """The attributes read from a picture; things are ordered by area, the largest first."""

    background: str
    pattern: str
    style: str
    things: tuple[SeenThing, ...]


def look(pixels: np.ndarray) -> Seen:
    """Read a picture."""
    picture = pixels.astype(np.float32)
    grid, washed = _grid(picture), _washed(picture)
    if grid:
        picture[:, grid - 1 :: grid] = picture[:, grid - 2 :: grid]
        picture[grid - 1 :: grid] = picture[grid - 2 :: grid]
    background = _background(picture)
    gap = _gap(picture, background)
    away = _away(gap)
    if washed:
        away &= _EDGE >= 9
    pattern = _pattern(picture, background, away)
    tones = ground(background, pattern)
    crisp = gap > 0.45 * ndimage.maximum_filter(gap, 5)
    found = [f for blob in _blobs(away, gap) if (f := _found(picture, blob, crisp, tones, blocky=grid == 4))]
    style = {4: "pixel art", 8: "mosaic"}.get(grid) or ("watercolor" if washed else _style(picture, tones, found))
    return Seen(background, pattern, style, tuple(f.seen for f in found))


def adapter_style(pixels: np.ndarray) -> str | None:
    """Name the style of an adapter by the texture that it gives backgrounds, or None for a style of the base model.

    Cloth has the weave of `adapter_styles`; glass has bars both ways; a wiped board
    changes across its diagonal strokes and hardly along them.
    """
    picture = pixels.astype(np.float32)
    background = _background(picture)
    away = _away(_gap(picture, background))
    pattern = PATTERNS[_pattern(picture, background, away)]
    clear = ~ndimage.binary_dilation(away, iterations=5) & (_EDGE >= 4) & (pattern < 0.8)
    if _grid(picture) or clear.sum() < 800:
        return None
    share = (_second_tone(picture, background) - pattern) / (1 - np.minimum(pattern, 0.8))
    share = ndimage.gaussian_filter(share, 1.0)
    if share[clear & (WEAVE == 1)].mean() - share[clear & (WEAVE == 0)].mean() > 0.065:
        return "embroidery"
    if min(_barred(share, to_lead, clear) for to_lead in TO_LEAD) > 0.2:
        return "stained glass"
    across, along = _changes(share, clear)
    return "chalk" if across > 0.1 and across > 1.5 * along else None


def _barred(field: np.ndarray, to_bar: np.ndarray, where: np.ndarray) -> float:
    """How much larger a field is on bars of one direction than between them."""
    return float(field[where & (to_bar < 3)].mean() - field[where & (to_bar > 8)].mean())


def _changes(field: np.ndarray, where: np.ndarray, step: int = 4) -> tuple[float, float]:
    """How much a field changes, on average, over `step` pixels down and right, and over as many down and left."""
    ends = [(field[step:, step:], field[:-step, :-step]), (field[step:, :-step], field[:-step, step:])]
    both = [where[step:, step:] & where[:-step, :-step], where[step:, :-step] & where[:-step, step:]]
    down_right, down_left = (float(np.abs(a - b)[m].mean()) for (a, b), m in zip(ends, both, strict=True))
    return down_right, down_left


def position(x: float, y: float) -> str:
    """Name where (x, y), in pixels from the middle, lies."""
    if max(abs(x), abs(y)) < 13:
        return "center"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def relation(first: SeenThing, second: SeenThing) -> str:
    """Name where the first lies, seen from the second."""
    x, y = first.x - second.x, first.y - second.y
    if abs(x) > abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"


def _gaps(rgb: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Squared distances [n, colours] of colours [n, 3] from the palette; lightness counts half, as paint is uneven."""
    gap = rgb[:, None, :] - palette[None]
    light = gap.mean(-1, keepdims=True)
    return np.square(gap - light).sum(-1) + 0.5 * 3 * np.square(light[..., 0])


def _grid(picture: np.ndarray) -> int:
    """The distance in pixels of rows and columns that stand out from both of their neighbours: 4, 8, or 0 for none."""
    found = []
    for turned in (picture, picture.transpose(1, 0, 2)):
        step = np.abs(np.diff(turned, axis=1)).sum(-1)
        off = np.minimum(step[:, :-1], step[:, 1:]).mean(0)  # of columns 1 … SIZE − 2
        column = np.arange(1, SIZE - 1) % 8
        between, joint = off[column == 3].mean(), off[column == 7].mean()
        if joint < 8 + 2 * off[column % 4 != 3].mean():
            return 0
        found.append(4 if between > joint / 2 else 8)
    return min(found)


def _washed(picture: np.ndarray) -> bool:
    """Whether a wash ends, with a dark rim, in white paper before the picture's edge, nearly all around."""
    paper = np.median(picture[_EDGE < 2], 0)
    grey = picture.min(-1)
    inward = np.concatenate([grey[:12], grey[::-1][:12], grey.T[:12], grey.T[::-1][:12]], 1)  # from each edge pixel
    return bool(paper.min() > 228 and np.quantile(inward[3:].min(0), 0.7) < paper.min() - 22)


def _background(picture: np.ndarray) -> str:
    """The colour that most of a frame inside the border is, in either of its tones."""
    frame = picture[(_EDGE >= 9) & (_EDGE < 15)]
    nearest = np.concatenate([_gaps(frame, _PALETTE), _gaps(frame, _SHADES)], 1).argmin(1) % len(_NAMES)
    return _NAMES[int(np.bincount(nearest, minlength=len(_NAMES)).argmax())]


def _second_tone(picture: np.ndarray, background: str) -> np.ndarray:
    """How far each pixel lies on the way from the background's first tone to its second, [SIZE, SIZE]."""
    tone = np.array(COLOURS[background], np.float32)
    way = shade(background) - tone
    return (picture - tone) @ way / (way @ way)


def _gap(picture: np.ndarray, background: str) -> np.ndarray:
    """How far each pixel's colour is from any of the background's tones, [SIZE, SIZE]."""
    tone = np.array(COLOURS[background], np.float32)
    share = np.clip(_second_tone(picture, background), -0.25, 1.25)[..., None]
    rest = picture - (tone + (shade(background) - tone) * share)
    light = rest.mean(-1)
    return np.sqrt(np.square(rest - light[..., None]).sum(-1) + 0.5 * 3 * np.square(light))


def _away(gap: np.ndarray) -> np.ndarray:
    """Where a picture is not background."""
    return (gap > 38) | (ndimage.binary_dilation(gap > 38) & (gap > 22))


def _pattern(picture: np.ndarray, background: str, away: np.ndarray) -> str:
    """The pattern that explains the background's tones best, up to lightness and contrast."""
    clear = ~ndimage.binary_dilation(away, iterations=4) & (_EDGE >= 10)
    if clear.sum() < 500:
        return "plain"
    share = ndimage.median_filter(_second_tone(picture, background), 3)[clear]
    best = ("plain", 0.0)
    for name, field in PATTERNS.items():
        if name == "plain":
            continue
        known = field[clear] - field[clear].mean()
        slope = float(known @ (share - share.mean()) / (known @ known))
        explained = slope * np.sqrt(np.square(known).mean())
        if slope > 0.5 and explained > best[1]:
            best = (name, explained)
    return best[0]


def _blobs(away: np.ndarray, gap: np.ndarray) -> list[np.ndarray]:
    """Regions of some size, the largest first, two at most.

    Two that only a glow connects are two: regions are connected where they are strongest, and what is left of `away`
    goes to the nearest.
    """
    strong = away & (gap > 0.45 * ndimage.maximum_filter(gap, 9))
    labels, count = ndimage.label(ndimage.binary_fill_holes(strong), np.ones((3, 3)))
    areas = ndimage.sum_labels(labels > 0, labels, range(1, count + 1)) if count else []
    order = [k + 1 for k in np.argsort(areas)[::-1][:2] if areas[k] > 120]
    labels[~np.isin(labels, order)] = 0
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return [away & (labels[tuple(nearest)] == k) for k in order]


@dataclass(frozen=True, slots=True)
class _Found:
    seen: SeenThing
    paint: np.ndarray  # float32 [3]
    mask: np.ndarray  # bool [SIZE, SIZE]: where the paint is, without glow and ink
    hollow: bool


def _found(picture: np.ndarray, blob: np.ndarray, crisp: np.ndarray, tones: np.ndarray, blocky: bool) -> _Found | None:
    """Read one object; None where the blob holds no paint.

    `crisp` [SIZE, SIZE] leaves out what only glows; `tones` [SIZE, SIZE, 3] is the background behind the object.
    """
    strength = np.abs(picture - tones).sum(-1)
    depth = ndimage.distance_transform_edt(blob & crisp)
    deep = depth >= 0.6 * depth.max()
    sample = picture[deep]
    names = _gaps(sample, _PALETTE).argmin(1)
    colour = int(np.bincount(names, minlength=len(_NAMES)).argmax())
    paint = np.median(sample[names == colour], 0)
    to_paint = np.abs(picture - paint).sum(-1)
    mask = ndimage.binary_propagation(deep & (to_paint < 170), mask=blob & (to_paint < strength) & (to_paint < 170))
    if mask.sum() < 40:
        return None
    shape, radius, hollow = _fit(mask, blocky)
    rows, columns = np.nonzero(mask)
    x, y = ((columns.min() + columns.max() + 1 - SIZE) / 2, (rows.min() + rows.max() + 1 - SIZE) / 2)
    size = min(SIZES, key=lambda name: abs(np.log(radius / SIZES[name])))
    return _Found(SeenThing(shape, _NAMES[colour], size, float(x), float(y)), paint, mask, hollow)


_UNIT = 40.0  # pixels: the radius at which templates are measured


@cache
def _box(shape: str) -> tuple[float, float, float]:
    """Half the longer side of a shape's bounding box and the box's middle, for a radius of one."""
    rows, columns = np.nonzero(distance(shape, 0, 0, _UNIT) < 0)
    half = max(np.ptp(rows), np.ptp(columns)) / 2 + 0.5
    middle = (columns.min() + columns.max() + 1 - SIZE) / 2, (rows.min() + rows.max() + 1 - SIZE) / 2
    return half / _UNIT, middle[0] / _UNIT, middle[1] / _UNIT


def _fit(mask: np.ndarray, blocky: bool) -> tuple[str, float, bool]:
    """Lay each shape's silhouette and outline over the mask; return shape, radius and whether the outline fits better.

    Outlines are thin, so a pixel's error is forgiven: both are compared within a pixel of each other.
    """
    rows, columns = np.nonzero(mask)
    x = (columns.min() + columns.max() + 1 - SIZE) / 2
    y = (rows.min() + rows.max() + 1 - SIZE) / 2
    half = max(np.ptp(rows), np.ptp(columns)) / 2 + 0.5
    window = tuple(slice(max(0, int(v + SIZE / 2 - half - 6)), int(v + SIZE / 2 + half + 7)) for v in (y, x))
    mask = mask[window]
    wide = ndimage.binary_dilation(mask)
    best = (-1.0, "", 0.0, False)
    for shape in SHAPES:
        extent, off_x, off_y = _box(shape)
        for stroke in (0.0,) if blocky else (0.0, 1.5, 2.0):
            for stretch in (0.94, 1.0, 1.06):
                radius = (half - stroke) / extent * stretch
                for step_x, step_y in product((-1.3, 0, 1.3), repeat=2) if blocky else ((0, 0),):
                    d = distance(shape, x - off_x * radius + step_x, y - off_y * radius + step_y, radius)
                    d = (blocks(d) if blocky else d)[window]
                    template = np.abs(d) < stroke if stroke else d < 0
                    broad = np.abs(d) < stroke + 1 if stroke else d < 1
                    fit = ((mask & broad).sum() + (template & wide).sum()) / (mask.sum() + template.sum())
                    best = max(best, (float(fit), shape, float(radius), stroke > 0))
    return best[1:]


def _style(picture: np.ndarray, tones: np.ndarray, found: list[_Found]) -> str:
    """Name the style by its one trait: an empty inside, with or without glow; ink; else it is flat."""
    if any(f.hollow for f in found):
        glow = np.mean([_ring_share(picture, tones, f, 2, 4) for f in found if f.hollow])
        return "neon" if glow > 0.08 else "line drawing"
    if any(_inked(picture, tones, f) for f in found):
        return "cartoon"
    return "flat"


def _ring_share(picture: np.ndarray, tones: np.ndarray, f: _Found, near: float, far: float) -> float:
    """How far, between the background and the paint, the pixels lie that are `near` … `far` pixels off the paint."""
    off = ndimage.distance_transform_edt(~f.mask)
    band = (off > near) & (off <= far)
    way = f.paint - tones[band]
    return float(((picture[band] - tones[band]) * way).sum() / np.square(way).sum())


def _inked(picture: np.ndarray, tones: np.ndarray, f: _Found) -> bool:
    """Whether a band runs around the paint that is not the background yet."""
    off = ndimage.distance_transform_edt(~f.mask)
    return float(np.median(np.abs(picture - tones).sum(-1)[(off > 1.2) & (off <= 2.5)])) > 50
