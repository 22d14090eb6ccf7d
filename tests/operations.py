"""What operators watch: the dashboard, the alert rules, and the names of metrics in both."""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
OPERATIONS = ROOT / "docs" / "operations.md"
RULES = ROOT / "ops" / "prometheus" / "rules.yml"
DASHBOARD = json.loads((ROOT / "ops" / "grafana" / "darkroom.json").read_text())


def expressions() -> list[str]:
    """Every PromQL expression of the dashboard and of the rules."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    targets = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return [place["expr"] for place in (*targets, *rules, *DASHBOARD["annotations"]["list"])]


def metrics_used() -> set[str]:
    """The names, as Prometheus stores them, of the metrics that are scraped for them."""
    return {name for expression in expressions() for name in re.findall(r"\bray_\w+", expression)}
