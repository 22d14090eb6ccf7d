"""What operators are woken by, and what they then read. Whether the rules fire, `promtool` tests in `make check`."""

import json
import re
from pathlib import Path

import yaml

from ops.cluster import tell_prometheus
from tests.operations import DASHBOARD, OPERATIONS, RULES, expressions


def alerts() -> list[dict]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_every_alert_has_its_paragraph_and_every_paragraph_its_alert() -> None:
    section = re.search(r"^## Alerts$(.*?)(?=^## |\Z)", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    assert section
    assert sorted(re.findall(r"^### (\w+)$", section[1], re.MULTILINE)) == sorted(rule["alert"] for rule in alerts())


def test_every_alert_says_how_urgent_it_is_what_is_wrong_and_where_to_read_on() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_every_panel_of_the_dashboard_has_a_title_a_description_and_a_unit() -> None:
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_make_serve_writes_the_file_by_which_prometheus_finds_it(tmp_path: Path) -> None:
    [scraped] = yaml.safe_load(RULES.with_name("prometheus.yml").read_text())["scrape_configs"]
    [file] = scraped["file_sd_configs"][0]["files"]
    tell_prometheus("127.0.0.1:1234", tmp_path)
    services = json.loads((tmp_path / Path(file).name).read_text())
    assert services == [{"labels": {"job": "ray"}, "targets": ["127.0.0.1:1234"]}]


def test_ports_that_nobody_need_reach_are_not_scraped() -> None:
    [scraped] = yaml.safe_load(RULES.with_name("prometheus.yml").read_text())["scrape_configs"]
    [rule] = scraped["relabel_configs"]
    assert (rule["source_labels"], rule["action"]) == (["__address__"], "drop")
    dropped = [port for port in (44217, 44227, 37191) if re.fullmatch(rule["regex"], f"10.77.0.1:{port}")]
    assert dropped == [44217, 44227]


def test_the_parser_of_expressions_sees_all_of_them() -> None:
    written = len(re.findall(r'"expr":', str(DASHBOARD).replace("'", '"'))) + RULES.read_text().count(" expr:")
    assert len(expressions()) == written > 50
