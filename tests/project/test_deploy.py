"""Dashboard, alerts and documentation speak of the metrics that there are, and of all of them."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from asgi_client import AsgiClient
from tools import require_tool
from web_scene import Scene

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "alerts.yaml"
ALERT_TESTS = DEPLOY / "alerts_test.yaml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
METRIC = re.compile(r"\b(?:asu_builder|process)_[a-z_]+")
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|(.*?)\| (.*)\|$", re.MULTILINE)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Metric]:
    """Every metric that a scrape tells, by the name that people write."""
    signing = MagicMock(expires_at=lambda: datetime(2027, 1, 1, tzinfo=UTC))
    scene = Scene(tmp_path_factory.mktemp("scene"), signing=signing)
    with AsgiClient(scene.app()) as client:
        scene.housekeeping.stored_bytes = 0
        client.get("/health")
        text = client.get("/metrics").body.decode()
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in text_string_to_metric_families(text)
    }


@pytest.fixture(scope="module")
def samples(families: Mapping[str, Metric]) -> set[str]:
    """Every name that a query may use."""
    return {sample.name for family in families.values() for sample in family.samples}


def rules() -> list[dict[str, Any]]:
    """Every alert."""
    document = yaml.safe_load(ALERTS.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """What the dashboard shows, rows apart."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    """Every query of the dashboard."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]


def promtool(*arguments: str | Path) -> None:
    """Runs it; it must find nothing."""
    require_tool("prometheus", "promtool")
    result = subprocess.run(
        ["promtool", *arguments], check=False, capture_output=True, text=True, timeout=60, cwd=DEPLOY
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", DEPLOY / "prometheus.yml")
    promtool("check", "rules", ALERTS)


def test_the_alerts_are_raised_when_they_should_and_only_then() -> None:
    promtool("test", "rules", ALERT_TESTS)


def test_each_alert_is_tried_both_ways() -> None:
    tried = {
        (check["alertname"], bool(check["exp_alerts"]))
        for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"]
        for check in test["alert_rule_test"]
    }
    assert tried == {(rule["alert"], fires) for rule in rules() for fires in (True, False)}


def test_each_alert_says_what_happened_and_the_operator_is_told_what_to_do() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    for rule in rules():
        assert rule["annotations"]["summary"] and rule["annotations"]["description"], rule
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert f"`{rule['alert']}`" in operations, rule["alert"]


def test_the_rules_speak_of_metrics_that_there_are(samples: set[str]) -> None:
    for rule in rules():
        used = set(METRIC.findall(rule["expr"]))
        assert used <= samples, rule
        assert used or "up{" in rule["expr"]


def test_the_dashboard_speaks_of_metrics_that_there_are_and_shows_all(
    families: Mapping[str, Metric], samples: set[str]
) -> None:
    used = {name for text in expressions() for name in METRIC.findall(text)}
    asked = {
        name for entry in DASHBOARD["templating"]["list"][1:] for name in METRIC.findall(entry["definition"])
    }
    assert used | asked <= samples
    shown = {name for name, family in families.items() if used & {sample.name for sample in family.samples}}
    # What has no sample yet is known by its name.
    shown |= used & set(families)
    assert shown == set(families)


def test_the_dashboards_queries_are_valid(tmp_path: Path) -> None:
    texts = [text.replace("$__rate_interval", "5m").replace("$job", ".*") for text in expressions()]
    recorded = [
        {"record": f"panel:{number}", "expr": text.replace("$instance", ".*")}
        for number, text in enumerate(texts)
    ]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", path)


def test_the_dashboard_can_be_imported_anywhere() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    for panel in panels():
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(column for column, _ in cells) < 24
        taken |= cells


def test_every_metric_is_documented_with_its_type_and_labels(families: Mapping[str, Metric]) -> None:
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), meaning)
        for name, kind, labels, meaning in _ROW.findall((ROOT / "docs" / "metrics.md").read_text())
    }
    assert set(documented) == set(families)
    for name, family in families.items():
        kind, labels, meaning = documented[name]
        assert kind == family.type, name
        used = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels == used, name
        assert len(meaning) > 10
        assert len(family.documentation) > 10
