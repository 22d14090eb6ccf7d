"""The images that a spec names: inputs, or finished images that become inputs when its job is accepted."""

from collections.abc import Mapping
from dataclasses import replace

from models.spec import ImageSpec

MASK = "init.mask"


def named_inputs(spec: ImageSpec) -> dict[str, str]:
    """Return what each field of a spec names: `init.input` -> id of an input, or name of a finished image."""
    if spec.init is None:
        return {}
    named = {"init.input": spec.init.input, MASK: spec.init.mask}
    return {path: name for path, name in named.items() if name is not None}


def with_inputs(spec: ImageSpec, inputs: Mapping[str, str]) -> ImageSpec:
    """Return a spec whose fields name other inputs: path -> id."""
    if spec.init is None:
        return spec
    return replace(spec, init=replace(spec.init, **{path.removeprefix("init."): each for path, each in inputs.items()}))
