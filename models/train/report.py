"""The report of a model: one HTML file without external resources, made from the manifest.

Anyone who can write to the store may have written the manifest, so the template escapes its texts
and the charts draw them as text. The report says what an older or imported version lacks.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leadstream.errors import UserError
from models.evaluate import Z_95, wilson
from models.monitor.statistics import LARGE
from models.serve.refused import Refused

INSTALL = (
    "a report is drawn by matplotlib and jinja2, which are not installed here: pip install "
    "'leadstream[report]'"
)
MAX_FEATURES = 20
_KINDS = ("calibrated", "raw", "legacy_sigmoid")
_FOLD_METRICS = (
    "roc_auc",
    "pr_auc",
    "log_loss",
    "brier",
    "ece",
    "calibration_slope",
    "lift_at_10_percent",
)
LABELS = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "ECE, 15 bins",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
    "lift_at_10_percent": "lift at 10 %",
    "threshold": "threshold",
    "precision": "precision there",
    "recall": "recall there",
    "accuracy": "accuracy there",
}


def render(manifest: Mapping[str, Any], signature: str) -> str:
    """Return the report of a manifest; the same input gives the same bytes.

    `signature` is a sentence about the signer. Raises UserError if the drawing libraries are
    missing, Refused if the manifest cannot be read.
    """
    try:
        import jinja2  # noqa: PLC0415  # an extra
        import matplotlib as _matplotlib  # noqa: F401, PLC0415  # an extra
    except ImportError as error:
        raise UserError(INSTALL) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": _number,
        "share": _share,
        "count": _count,
        "day": _day,
        "moment": _moment,
    }
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text("utf-8"))
    try:
        return template.render(_context(manifest), signature=signature, labels=LABELS)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        jinja2.UndefinedError,
    ) as error:
        raise Refused(
            f"its manifest cannot be understood ({type(error).__name__}: {error})"
        ) from error


def _context(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of the template; None for parts that the manifest lacks."""
    metrics, candidates, curves = (
        manifest.get(part) for part in ("metrics", "candidates", "curves")
    )
    importance = sorted(
        manifest["features"]["importance"].items(), key=lambda item: (-item[1], item[0])
    )
    drift = _drift(manifest.get("drift") or {})
    return {
        "manifest": manifest,
        "metrics": metrics
        and {name: {kind: metrics[kind][name] for kind in _KINDS} for name in LABELS},
        "data": manifest.get("data"),
        "legacy": manifest.get("legacy"),
        "leaks": manifest.get("leaks"),
        "candidates": candidates,
        "fold_metrics": _FOLD_METRICS,
        "calibrators": manifest.get("calibrators"),
        "recalibrated": manifest.get("recalibrated"),
        "against": manifest.get("against"),
        "inputs": manifest.get("inputs"),
        "evidence": manifest.get("evidence"),
        "importance": importance,
        "drift": drift,
        "moved": [row["input"] for row in drift if (row["psi"] or 0) > LARGE],
        "charts": defaultdict(lambda: None, _charts(metrics, curves, importance, drift)),
        "bins": curves and _bins(curves["calibrated"]["reliability"]),
        "pretty": json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False),
    }


def _charts(
    metrics: Mapping[str, Any] | None,
    curves: Mapping[str, Any] | None,
    importance: Sequence[tuple[str, float]],
    drift: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    from markupsafe import Markup  # noqa: PLC0415  # installed with jinja2

    from models.train import charts  # noqa: PLC0415  # imports matplotlib

    drawn: dict[str, Any] = {}
    if curves and metrics:
        areas = {
            name: {kind: metrics[kind][name] for kind in _KINDS} for name in ("roc_auc", "pr_auc")
        }
        drawn["roc"] = charts.roc(curves, areas["roc_auc"])
        drawn["pr"] = charts.pr(curves, areas["pr_auc"], metrics["calibrated"]["base_rate"])
        # One scale for all three, because they are shown next to each other.
        bins = {kind: curves[kind]["reliability"] for kind in _KINDS}
        max_leads = max(max(bins[kind]["counts"]) for kind in _KINDS)
        drawn |= {
            f"reliability_{kind}": charts.reliability(kind, bins[kind], max_leads)
            for kind in _KINDS
        }
        counts = {kind: curves[kind]["histogram"] for kind in _KINDS}
        max_leads = max(max(one["converted"] + one["not_converted"]) for one in counts.values())
        drawn |= {f"scores_{kind}": charts.scores(kind, counts[kind], max_leads) for kind in _KINDS}
    if importance:
        drawn["importance"] = charts.bars(
            "importance", importance[:MAX_FEATURES], "share of all that the trees used"
        )
    known = [(row["input"], row["psi"]) for row in drift if row["psi"] is not None]
    if known:
        drawn["drift"] = charts.bars(
            "drift", known[:MAX_FEATURES], "population stability index", charts.PSI_LIMITS
        )
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704  # escaped texts


def _bins(curve: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the bins of the calibrated probability that hold leads, as a table."""
    rows = zip(curve["counts"], curve["stated"], curve["realised"], strict=True)
    return [
        {"leads": n, "stated": stated, "realised": rate, "bounds": wilson(rate * n, n, Z_95)}
        for n, stated, rate in rows
        if n
    ]


def _drift(drift: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what training saw of each input and its drift in the newest leads; largest first."""
    newest = drift.get("newest") or {}
    rows = [
        {
            "input": name,
            "kind": seen["kind"],
            "missing_before": seen["missing"],
            **{key: newest.get(name, {}).get(key) for key in ("psi", "missing", "unseen")},
        }
        for name, seen in drift.get("inputs", {}).items()
    ]
    return sorted(rows, key=lambda row: (-(row["psi"] or 0.0), row["input"]))


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _count(value: int) -> str:
    return f"{value:,}"


def _day(value: str) -> str:
    return value[:10]


def _moment(value: str) -> str:
    return f"{value[:10]} {value[11:16]} UTC"
