"""What of an object other programs and people get. No torch."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def public_data(value: Any) -> Any:
    """Return a value with its objects as dicts, those that it holds too, without the members that only Darkroom needs.

    Those are the members without a `repr`, so that logs do not have them either.
    """
    if is_dataclass(value):
        return {each.name: public_data(getattr(value, each.name)) for each in fields(value) if each.repr}
    if isinstance(value, Mapping):
        return {key: public_data(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [public_data(each) for each in value]
    return value
