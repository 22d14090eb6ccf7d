"""YAML in which no mapping has a key twice. YAML forbids it; PyYAML takes the last one without a word."""

from typing import Any

import yaml


class UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses a key that a mapping has twice. Raises `yaml.YAMLError`."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping as it is written: merge keys (`<<`) are resolved later, and may be overridden."""
        node = super().compose_mapping_node(anchor)
        lines = dict[tuple[str, str], int]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, same = key.start_mark.line + 1, (key.tag, key.value)
            if same in lines:
                places = f"on line {lines[same]} and again on line {line}"
                raise yaml.YAMLError(f"{key.value} is {places}. Keep one of them.")
            lines[same] = line
        return node
