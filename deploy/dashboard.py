"""The Grafana dashboard, made from its table of panels: `make dashboard`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "grafana" / "dashboards" / "leadstream.json"
UID, DATASOURCE = "leadstream", {"type": "prometheus", "uid": "${datasource}"}
GRID, HEIGHT = 24, 8  # what Grafana calls columns and rows
SECONDS, SHARE, RATE, COUNT, PLAIN = "s", "percentunit", "cps", "short", "none"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: each query with the legend of its series; `kind` is Grafana's type of panel,
    `width` of 24.
    """

    title: str
    sentence: str
    queries: tuple[tuple[str, str], ...]
    unit: str = COUNT
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    red_from: float | None = None


def _rate(metric: str, by: str = "") -> str:
    of = f" by ({by})" if by else ""
    return f"sum{of} (rate({metric}[$__rate_interval]))"


def _quantiles(metric: str, *shares: float) -> tuple[tuple[str, str], ...]:
    buckets = f"sum by (le) (rate({metric}_bucket[$__rate_interval]))"
    return tuple(
        (f"histogram_quantile({share:g}, {buckets})", f"p{share * 100:g}") for share in shares
    )


ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Ready",
            "Processes that are assigned, loaded and held back by nothing.",
            (
                ("sum(leadstream_ready)", "ready"),
                ("count(leadstream_ready)", "all"),
            ),
            kind="stat",
            width=4,
        ),
        Panel(
            "Changes a second",
            "Consumed and committed, over all processes.",
            ((_rate("leadstream_changes_consumed_total"), "changes"),),
            RATE,
            kind="stat",
            width=4,
        ),
        Panel(
            "Lag",
            "Records that are not committed yet, over all partitions.",
            (("sum(leadstream_lag_records)", "records"),),
            kind="stat",
            width=4,
            red_from=10_000,
        ),
        Panel(
            "Latency, p99",
            "From a record's Kafka timestamp to the commit of its outcome.",
            _quantiles("leadstream_change_latency_seconds", 0.99),
            SECONDS,
            kind="stat",
            width=4,
            red_from=5,
        ),
        Panel(
            "Dead letters, last hour",
            "Published to the dead-letter topic.",
            (("sum(increase(leadstream_dead_letters_total[1h]))", "letters"),),
            kind="stat",
            width=4,
            red_from=1_000,
        ),
        Panel(
            "Books out of balance",
            "Changes consumed less changes with a fate: anything but 0 is a bug.",
            (
                (
                    "sum(leadstream_changes_consumed_total) - sum(leadstream_changes_total)",
                    "changes",
                ),
            ),
            kind="stat",
            width=4,
            red_from=1,
        ),
    ),
    "Throughput": (
        Panel(
            "Changes by fate",
            "What became of the changes, a second.",
            ((_rate("leadstream_changes_total", "fate"), "{{fate}}"),),
            RATE,
            width=12,
            stacked=True,
        ),
        Panel(
            "Rescore requests",
            "Answered or dead-lettered, a second.",
            ((_rate("leadstream_requests_total", "fate"), "{{fate}}"),),
            RATE,
            width=6,
        ),
        Panel(
            "Records in a batch",
            "Large batches are a backlog; small ones are a quiet topic.",
            _quantiles("leadstream_batch_records", 0.5, 0.99),
            width=6,
        ),
    ),
    "Lag and latency": (
        Panel(
            "Lag by partition",
            "Records of a partition that are not committed yet.",
            (("sum by (topic, partition) (leadstream_lag_records)", "{{topic}} {{partition}}"),),
        ),
        Panel(
            "Latency",
            "From a record's Kafka timestamp (a replayed letter has its old one) to its commit.",
            _quantiles("leadstream_change_latency_seconds", 0.5, 0.9, 0.99),
            SECONDS,
        ),
        Panel(
            "Where a batch spends its time",
            "Mean seconds of a batch in each step.",
            (
                (
                    f"{_rate('leadstream_step_seconds_sum', 'step')} / on () group_left () "
                    f"{_rate('leadstream_batches_total')}",
                    "{{step}}",
                ),
            ),
            SECONDS,
            stacked=True,
        ),
        Panel(
            "Partitions by process",
            "Assigned at the moment.",
            (("leadstream_assigned_partitions", "{{instance}}"),),
        ),
        Panel(
            "Rebalances and rejoins",
            "In five minutes: partitions that moved, and processes that were fenced.",
            (
                ("sum by (kind) (increase(leadstream_rebalances_total[5m]))", "{{kind}}"),
                ("sum(increase(leadstream_rejoins_total[5m]))", "rejoined"),
            ),
        ),
        Panel(
            "Batches by what closed them",
            "drain: the topic had no more; size and bytes: there was more.",
            ((_rate("leadstream_batches_total", "closed_by"), "{{closed_by}}"),),
            RATE,
            stacked=True,
        ),
    ),
    "Dead letters and dependencies": (
        Panel(
            "Dead letters by reason",
            "A second; the reasons are in docs/reference/index.md.",
            ((_rate("leadstream_dead_letters_total", "reason"), "{{reason}}"),),
            RATE,
            stacked=True,
        ),
        Panel(
            "Share of records that are dead letters",
            "Of changes and requests; a process stops by its own limit.",
            (
                (
                    f"{_rate('leadstream_dead_letters_total')} / "
                    f"({_rate('leadstream_changes_consumed_total')} + "
                    f"{_rate('leadstream_requests_total')})",
                    "share",
                ),
            ),
            SHARE,
        ),
        Panel(
            "Held batches by dependency",
            "Times in five minutes that a batch waited for a dependency.",
            (
                (
                    "sum by (dependency) (increase(leadstream_held_batches_total[5m]))",
                    "{{dependency}}",
                ),
            ),
        ),
        Panel(
            "Lead states from Postgres",
            "Leads a second: found or missing.",
            ((_rate("leadstream_database_leads_total", "answer"), "{{answer}}"),),
            RATE,
        ),
        Panel(
            "Ready and held back",
            "1 while a process is ready; 1 while a dependency holds it back.",
            (
                ("leadstream_ready", "{{instance}} ready"),
                ("leadstream_unavailable", "{{instance}} without {{dependency}}"),
            ),
            PLAIN,
        ),
        Panel(
            "Relay",
            "Rows of the outbox a second by record, and positions not yet published.",
            (
                (_rate("leadstream_relay_rows_total", "record"), "{{record}}"),
                ("sum(leadstream_relay_pending)", "pending"),
            ),
        ),
    ),
    "Model": (
        Panel(
            "In service",
            "Champion and challenger, by the number of processes that serve them.",
            (
                (
                    "count by (variant, version, model_used) (leadstream_model_info)",
                    "{{variant}} {{version}} {{model_used}}",
                ),
            ),
            kind="table",
        ),
        Panel(
            "Loads",
            "In an hour: loaded, refused, or the store did not answer.",
            (
                (
                    "sum by (variant, result) (increase(leadstream_model_loads_total[1h]))",
                    "{{variant}} {{result}}",
                ),
            ),
        ),
        Panel(
            "Challenger",
            "Leads a second that it scored, and where it failed alone.",
            (
                (
                    _rate("leadstream_challenger_predictions_total", "mode, result"),
                    "{{mode}} {{result}}",
                ),
            ),
            RATE,
        ),
        Panel(
            "Feature coverage",
            "Share of the model's inputs that a scored lead had: the mean.",
            (
                (
                    f"{_rate('leadstream_feature_coverage_sum')} / "
                    f"{_rate('leadstream_feature_coverage_count')}",
                    "mean",
                ),
            ),
            SHARE,
            width=12,
        ),
        Panel(
            "Imputed inputs",
            "Inputs a second that were replaced by the median.",
            ((_rate("leadstream_imputed_total", "feature"), "{{feature}}"),),
            RATE,
            width=12,
        ),
    ),
    "Drift": (
        Panel(
            "Drift by input",
            "Population stability index of the last full window of 2,000 leads against training.",
            (("max by (feature) (leadstream_drift_psi)", "{{feature}}"),),
            PLAIN,
            width=12,
        ),
        Panel(
            "Alarms",
            "1 while the last full window of an input alarmed.",
            (("max by (feature) (leadstream_drift_alarm)", "{{feature}}"),),
            PLAIN,
            width=12,
        ),
        Panel(
            "Missing",
            "Share of the window in which an input was missing or invalid.",
            (("max by (feature) (leadstream_drift_missing_share)", "{{feature}}"),),
            SHARE,
            width=12,
        ),
        Panel(
            "Unseen",
            "Share of the window in which a category had a value that the model does not know.",
            (("max by (feature) (leadstream_drift_unseen_share)", "{{feature}}"),),
            SHARE,
            width=12,
        ),
    ),
    "Calibration (leadstream follow)": (
        Panel(
            "Said and come true",
            "Mean stated probability of the judged window, and the share that converted.",
            (
                ("leadstream_live_mean_probability", "said, {{variant}} {{model_version}}"),
                ("leadstream_live_base_rate", "came true, {{variant}} {{model_version}}"),
            ),
            SHARE,
        ),
        Panel(
            "Calibration error and Brier score",
            "Of the window; both are better when smaller.",
            (
                ("leadstream_live_ece", "ECE, {{variant}} {{model_version}}"),
                ("leadstream_live_brier", "Brier, {{variant}} {{model_version}}"),
            ),
            PLAIN,
        ),
        Panel(
            "Judged and waiting",
            "Predictions in the window, and those whose outcome is waited for.",
            (
                (
                    "sum by (variant, model_version) (leadstream_live_judged)",
                    "judged, {{variant}} {{model_version}}",
                ),
                ("sum(leadstream_pending_predictions)", "waiting"),
            ),
        ),
    ),
    "Accounting": (
        Panel(
            "The books",
            "Since the processes began: consumed, and each fate; together the fates are the "
            "consumed.",
            (
                ("sum(leadstream_changes_consumed_total)", "consumed"),
                ("sum by (fate) (leadstream_changes_total)", "{{fate}}"),
            ),
            width=12,
        ),
        Panel(
            "Out of balance, by process",
            "Consumed less the sum of the fates: 0 at every reading.",
            (
                (
                    "leadstream_changes_consumed_total - on (instance) group_left () "
                    "sum by (instance) (leadstream_changes_total)",
                    "{{instance}}",
                ),
            ),
            width=12,
        ),
    ),
}


def panels() -> list[Panel]:
    """Every panel, in the order in which they are read."""
    return [panel for row in ROWS.values() for panel in row]


def document() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": GRID, "x": 0, "y": y},
            }
        )
        x, y = 0, y + 1
        for panel in row:
            height = HEIGHT // 2 if panel.kind == "stat" else HEIGHT
            if x + panel.width > GRID:
                x, y = 0, y + height
            placed.append(
                _placed(len(placed) + 1, panel, {"h": height, "w": panel.width, "x": x, "y": y})
            )
            x += panel.width
        y += height
    variable = {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "label": "Prometheus",
        "hide": 0,
    }
    return {
        "uid": UID,
        "title": "Leadstream",
        "description": "Lead changes in, calibrated predictions out.",
        "tags": ["leadstream"],
        "editable": True,
        "schemaVersion": 41,
        "version": 1,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [variable]},
        "annotations": {"list": []},
        "panels": placed,
    }


def write() -> str:
    """The dashboard's JSON."""
    return json.dumps(document(), indent=1) + "\n"


def _placed(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    custom = {
        "fillOpacity": 20 if panel.stacked else 0,
        "stacking": {"mode": "normal" if panel.stacked else "none"},
    }
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries":
        defaults |= {"custom": custom, "min": 0}
    options = {
        "timeseries": {
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "multi", "sort": "none"},
        },
        "stat": {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "auto",
            "justifyMode": "auto",
            "orientation": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
        },
        "table": {"frameIndex": 0, "showHeader": True},
    }[panel.kind]
    instant = {"format": "table", "instant": True} if panel.kind == "table" else {}
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": DATASOURCE,
            "expr": query,
            "legendFormat": legend,
            **instant,
        }
        for i, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.sentence,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


if __name__ == "__main__":
    FILE.write_text(write(), "utf-8")
