"""What Prometheus is told: by its own tool, and against the metrics that Leadstream really has."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from deploy.dashboard import FILE, document, panels, write
from leadstream.process.metrics import (
    FollowMetrics,
    HistoryMetrics,
    Metrics,
    RelayMetrics,
    SinkMetrics,
    TranslateMetrics,
)
from tests.deploy.tools import DEPLOY, ROOT, output, tool

pytestmark = pytest.mark.deploy

PROMETHEUS = DEPLOY / "prometheus"
RUNBOOK = (ROOT / "docs" / "how-to" / "alerts.md").read_text("utf-8")
INTERVAL = "$__rate_interval"


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def queries() -> list[str]:
    return [query for panel in panels() for query, _ in panel.queries]


SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def exported() -> dict[str, set[str]]:
    """Every series that Leadstream exports, by name, with its own labels."""
    found = {"up": {"job", "instance"}}
    for kind in (
        Metrics(),
        FollowMetrics(),
        RelayMetrics(),
        SinkMetrics(),
        TranslateMetrics(),
        HistoryMetrics(),
    ):
        for collector in kind.registry._collector_to_names:
            labels = set(getattr(collector, "_labelnames", ()))
            for metric in collector.collect():
                found |= {metric.name + suffix: labels for suffix in SUFFIXES[metric.type]}
    return found


def test_promtool_takes_configuration_and_alerts() -> None:
    output("promtool", "check", "config", PROMETHEUS / "prometheus.yml")


def test_an_alert_fires_when_it_should_and_not_before() -> None:
    output("promtool", "test", "rules", PROMETHEUS / "alerts_test.yml")


@pytest.mark.parametrize("name", alerts())
def test_an_alert_that_was_never_made_to_fire_may_be_unable_to(name: str) -> None:
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text("utf-8"))["tests"]
    looks = [
        look for case in cases for look in case["alert_rule_test"] if look["alertname"] == name
    ]
    assert any(look["exp_alerts"] for look in looks), "no test makes it fire"
    if "for" in alerts()[name] and name != "LeadstreamMiscalibrated":
        assert any(not look["exp_alerts"] for look in looks), "no test has it wait"


@pytest.mark.parametrize("name", alerts())
def test_an_alert_without_a_section_in_the_runbook_leaves_its_reader_alone(name: str) -> None:
    assert alerts()[name]["annotations"]["runbook"] == f"docs/how-to/alerts.md#{name.lower()}"
    assert alerts()[name]["labels"]["severity"] in ("page", "ticket")
    section = RUNBOOK.split(f"\n### {name}\n")[1].split("\n### ")[0].split("\n## ")[0]
    for part in ("**Means.**", "**Look at.**", "**Do.**"):
        assert part in section


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (Leadstream\w+)$", RUNBOOK, re.MULTILINE)) == set(alerts())


@pytest.mark.parametrize("query", [*queries(), *(rule["expr"] for rule in alerts().values())])
def test_a_metric_that_nobody_exports_leaves_a_panel_empty_and_an_alert_silent(query: str) -> None:
    names = set(
        re.findall(r"\b(?:leadstream_\w+|up)\b(?=[\[{\s)]|$)", query.replace('"leadstream', '"'))
    )
    assert names, query
    assert names <= set(exported()), query


@pytest.mark.parametrize("query", queries())
def test_a_label_that_a_metric_does_not_have_folds_all_its_series_into_one(query: str) -> None:
    labels = {"instance", "le"}.union(
        *(labels for name, labels in exported().items() if name in query)
    )
    for group in re.findall(r"\b(?:by|on) \(([\w, ]*)\)", query):
        assert set(filter(None, group.split(", "))) <= labels, query


def test_grafanas_own_schema_takes_the_dashboard() -> None:
    output("dashboard-check", FILE)


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{i}", "expr": query.replace(INTERVAL, "1m")}
        for i, query in enumerate(queries())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    output("promtool", "check", "rules", file)


@pytest.mark.parametrize(
    "kind", [Metrics, FollowMetrics, RelayMetrics, SinkMetrics, TranslateMetrics]
)
def test_metrics_are_named_as_prometheus_wants_them(kind: type[Any]) -> None:
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=kind().expose(),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr.decode()) == (0, "")


def test_a_dashboard_that_is_behind_its_table_shows_what_was() -> None:
    assert FILE.read_text("utf-8") == write(), "run `make dashboard`"


def test_the_dashboard_shows_what_an_operator_is_promised() -> None:
    panel_metrics = " ".join(queries())
    for metric in (
        "changes_consumed_total",
        "lag_records",
        "change_latency_seconds",
        "dead_letters_total",
        "model_info",
        "drift_psi",
        "live_ece",
        "changes_total",
    ):
        assert f"leadstream_{metric}" in panel_metrics


def test_no_two_panels_lie_upon_each_other_and_none_leaves_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in document()["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_provisioned_files_are_where_compose_mounts_them() -> None:
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"][
        "grafana"
    ]
    mounts = dict(
        volume.rsplit(":", 1)[0].split(":")
        for volume in grafana["volumes"]
        if volume.endswith(":ro")
    )
    provider = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/leadstream.yml").read_text("utf-8")
    )
    assert provider["providers"][0]["options"]["path"] == mounts["./deploy/grafana/dashboards"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{mounts['./deploy/grafana/dashboards']}/{FILE.name}"
    assert json.loads(FILE.read_text("utf-8"))["uid"] == "leadstream"
