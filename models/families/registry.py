"""The families that are served. A new one is its module and a line here. No torch."""

from models.families.base import Family
from models.families.sd import StableDiffusion
from models.families.sdxl import StableDiffusionXL

FAMILIES: dict[str, Family] = {family.name: family for family in (StableDiffusion(), StableDiffusionXL())}
PIPELINES: dict[str, Family] = {pipeline: family for family in FAMILIES.values() for pipeline in family.pipelines}
