"""What a diffusers folder contains: its pipeline, its components and its scheduler. No torch."""

from pathlib import Path
from typing import Any

from models.checkpoint.configs import read_json
from models.errors import UnusableCheckpoint
from models.families.registry import PIPELINES

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"


def pipeline_class(folder: Path) -> str:
    """Return the class of pipeline that the checkpoint is for.

    Raises:
        UnusableCheckpoint: it is none that is served here.
    """
    pipeline = str(read_json(folder, INDEX).get("_class_name"))
    if pipeline not in PIPELINES:
        known = ", ".join(PIPELINES)
        raise UnusableCheckpoint(f"{folder / INDEX}: {pipeline} is not served here; known: {known}.")
    return pipeline


def check_components(folder: Path) -> None:
    """Check that the components are of the classes that the family loads.

    Raises:
        UnusableCheckpoint: names the entry that is not.
    """
    index, family = read_json(folder, INDEX), PIPELINES[pipeline_class(folder)]
    for name, component in family.components.items():
        library, class_name = _class_entry(index.get(name))
        if library != component.source or class_name not in component.classes:
            known = " or ".join(component.classes)
            raise UnusableCheckpoint(
                f"{folder / INDEX}: {name} is {'.'.join(filter(None, (library, class_name))) or 'missing'}; "
                f"{index['_class_name']} is served with {component.source}'s {known}."
            )


def check_numbers(folder: Path) -> None:
    """Check that the components fit each other.

    Raises:
        UnusableCheckpoint: names the entry that does not.
    """
    pipeline = pipeline_class(folder)
    PIPELINES[pipeline].check(folder, pipeline)


def unused_components(folder: Path) -> list[str]:
    """Return the components that `model_index.json` names and nothing here loads."""
    index = read_json(folder, INDEX)
    loaded = {"scheduler", *PIPELINES[pipeline_class(folder)].components}
    return sorted(name for name, entry in index.items() if name not in loaded and _class_entry(entry)[1])


def _class_entry(entry: Any) -> tuple[str, str]:
    """Return library and class of an entry of `model_index.json`; empty where it names none."""
    pair = entry if isinstance(entry, list) and len(entry) == 2 else ("", "")
    library, class_name = (name if isinstance(name, str) else "" for name in pair)
    return library, class_name


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Return the config of the checkpoint's scheduler as its pipeline has it.

    `_class_name` is the class that `model_index.json` names: it decides also where the config says another one. What
    the pipeline's constructor changes in old configs is changed here.

    Raises:
        UnusableCheckpoint: the index names no scheduler of diffusers.
    """
    library, class_name = _class_entry(read_json(folder, INDEX).get("scheduler"))
    if library != "diffusers" or not class_name:
        raise UnusableCheckpoint(
            f"{folder / INDEX}: scheduler is {class_name or 'missing'}; known: those of diffusers."
        )
    pipeline = pipeline_class(folder)
    repairs = PIPELINES[pipeline].scheduler_repairs.get(pipeline, {})
    return {**read_json(folder, SCHEDULER), **repairs, "_class_name": class_name}
