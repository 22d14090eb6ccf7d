"""The sizes of a model's images, as a dialect that has width and height in one field words and finds them."""

from math import sqrt

from models.errors import InvalidRequest
from models.model_card import ModelCard
from models.parameters import MAX_SIDE, MIN_SIDE

Size = tuple[int, int]  # width and height, pixels


def nearest_size(card: ModelCard, size: tuple[float, float]) -> Size:
    """Return the size that a model allows in place of any other: of the nearest shape, and then of the nearest area."""
    widths, heights = _sides(card, "width"), _sides(card, "height")
    width, height = size
    least = max(1.0, widths[0] / width, heights[0] / height)
    scale = min(least, widths[-1] / width, heights[-1] / height)
    return _nearest(widths, width * scale), _nearest(heights, height * scale)


def size_like(card: ModelCard, size: Size) -> Size:
    """Return the size of a model's image that is made from another image, by that one's size.

    It is the same where the model allows it and it has from half to twice the pixels of the model's own size; else it
    has that shape, and about as many pixels as the model's own size.
    """
    width, height = size
    own = card.defaults["width"] * card.defaults["height"]
    is_allowed = width in _sides(card, "width") and height in _sides(card, "height")
    if is_allowed and own / 2 <= width * height <= own * 2:
        return size
    scale = sqrt(own / (width * height))
    return nearest_size(card, (width * scale, height * scale))


def size_refused(card: ModelCard, size: str) -> InvalidRequest:
    """Return the error for a size that a model does not allow."""
    widths, heights = _sides(card, "width"), _sides(card, "height")
    least, most = f"{widths[0]}x{heights[0]}", f"{widths[-1]}x{heights[-1]}"
    step = f" in steps of {card.size_multiple} pixels" if card.size_multiple > 1 else ""
    allowed = f"{least} or auto" if least == most else f"from {least} to {most}{step}, or auto,"
    return InvalidRequest(f'size must be {allowed} for model "{card.id}"; got {size}.', "size")


def _sides(card: ModelCard, name: str) -> range:
    """Return the lengths of a side that a model and requests allow."""
    low, high = card.bounds.get(name, (MIN_SIDE, MAX_SIDE))
    low, high, step = max(low, MIN_SIDE), min(high, MAX_SIDE), card.size_multiple
    return range(-(-low // step) * step, high + 1, step)


def _nearest(sides: range, length: float) -> int:
    return min(sides, key=lambda side: abs(side - length))
