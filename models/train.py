"""From a table of lead states with outcomes to a model that can be published.

Three parts in time: the forest and its features learn on the oldest, the calibration, threshold and grades on a later
one that the forest has not seen, and the metrics come from the newest, which nothing was fitted on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from features import STATE_FIELDS, Columns, FittedFeatures, Specification, specify
from leadstream.errors import UserError
from models import artifact, evaluate
from models.scorer import Model
from models.venn_abers import VennAbers

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Progress = Callable[[str, float], None]

NAME = "random_forest"
TREES = 100
PARTS = ("train", "calibration", "test")
THRESHOLD_POLICY = "largest F1 on the calibration part"
GRADE_POLICY = "by probability on the calibration part: A the top 10 %, B the next 20 %, C the next 30 %, D the rest"
GRADE_QUANTILES = {"A": 0.9, "B": 0.7, "C": 0.4}
MOST_AUC_LOST = 0.01
_GOLDEN_ROWS = 8


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What a training run may be told. `horizon_days` is how long a lead has to convert; it describes the labels.

    `shares` of the rows, in time, go to training, calibration and test; `created_at` (ms UTC) is written down only.
    """

    horizon_days: float = 60
    seed: int = 0
    specification: Specification = field(default_factory=specify)
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    least_rows: int = 200
    least_conversions: int = 20
    created_at: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """An artifact dictionary and its manifest, which lacks only what publishing adds: version, size and sha256."""

    artifact: dict[str, Any]
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    columns: Columns
    as_of: NDArray[np.int64]
    labels: Labels
    facts: dict[str, Any]


def train(
    table: pd.DataFrame, options: TrainOptions | None = None, progress: Progress = lambda _stage, _share: None
) -> Trained:
    """Train on rows of (lead_id, as_of in ms UTC, LeadState fields, converted); the same table gives the same artifact.

    `progress` is told each stage and the share of the work done before it. Raises UserError where the table is too
    small or lacks a class in some part, and where the calibration would cost more than 0.01 of ROC-AUC.
    """
    options = options or TrainOptions()
    progress("splitting in time", 0.0)
    table = _checked(table, options)
    home, shared = split(table, options.shares)
    train_part, calibration, test = (_part(table[home == name], name) for name in PARTS)

    progress("fitting the features", 0.05)
    features = FittedFeatures.fit(train_part.columns, train_part.as_of, options.specification)
    X, y = _matrix(features, train_part)
    progress(f"growing {TREES} trees on {len(X):,} rows", 0.15)
    pipeline = fit_pipeline(X, y, options.seed)

    progress("calibrating on later leads", 0.75)
    raw, labels = _raw(pipeline, *_matrix(features, calibration))
    calibrator = VennAbers.fit(raw, labels)
    probability = calibrator.interval(raw)[0]
    threshold = evaluate.best_f1_threshold(probability, labels)
    grades = {grade: float(np.quantile(probability, q)) for grade, q in GRADE_QUANTILES.items()}

    progress("judging on the newest leads", 0.85)
    performance = _performance(*_raw(pipeline, *_matrix(features, test)), calibrator, threshold)

    progress("writing golden rows", 0.95)
    names = features.specification.outputs
    forest, selector = pipeline["forest"], pipeline["select"]
    selected = [names[i] for i in np.flatnonzero(selector.get_support())]
    importance = dict(sorted(zip(selected, forest.feature_importances_.tolist(), strict=True), key=_by_importance))
    contents = {
        "model": forest,
        "scaler": pipeline["scale"],
        "feature_selector": selector,
        "feature_names": list(names),
        "performance": performance,
        "feature_importance": importance,
        "features": features,
        "calibrator": calibrator,
        "threshold": threshold,
        "grades": grades,
        "explain_base": float(np.mean([tree.tree_.value[0, 0, 1] for tree in forest.estimators_])),
    }
    manifest = {
        "manifest_version": artifact.MANIFEST_VERSION,
        "name": NAME,
        "created_at": _iso(options.created_at),
        "recipe": {
            "name": "audited",
            "steps": [f"StandardScaler, SelectKBest(f_classif, k={selector.k})", _described(forest)],
            "seed": options.seed,
        },
        "libraries": artifact.library_versions(),
        "label": {
            "definition": f"submitted an application within {options.horizon_days:g} days after the moment of prediction",
            "horizon_days": options.horizon_days,
        },
        "data": {
            **_facts(table),
            "left_out": int(len(table) - sum(home == name for name in PARTS).sum()),
            "leads_in_several_parts": shared,
            "parts": {name: p.facts for name, p in zip(PARTS, (train_part, calibration, test), strict=True)},
        },
        "features": {
            "specification_hash": features.specification_hash,
            "names": list(names),
            "selected": selected,
            "importance": importance,
        },
        "calibration": {"method": "inductive Venn-Abers", "points": len(labels), "steps": len(calibrator.scores)},
        "threshold": {"value": threshold, "policy": THRESHOLD_POLICY},
        "grades": {"cuts": grades, "policy": GRADE_POLICY},
        "metrics": performance,
    }
    states, moments = _golden_inputs(train_part, options.seed)
    unpublished = Model(contents, {**manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    manifest["golden"] = artifact.golden_rows(unpublished, states, moments)
    progress("done", 1.0)
    return Trained(contents, manifest)


def split(table: pd.DataFrame, shares: tuple[float, float, float]) -> tuple["pd.Series[str]", int]:
    """The part of each row of a table sorted by as_of ("" = left out), and how many leads are in more than one part.

    Rows of the same moment stay together. A lead belongs to the part that holds most of its rows, the later one of
    equals, and its rows elsewhere are left out; unless that would leave a part without one of the classes.
    """
    moments = table["as_of"].to_numpy()
    edges = [moments[min(int(len(moments) * share), len(moments) - 1)] for share in (shares[0], shares[0] + shares[1])]
    number = np.searchsorted(edges, moments, side="right")
    counts = pd.crosstab(table["lead_id"], number).reindex(columns=[0, 1, 2], fill_value=0)
    home = 2 - counts.to_numpy()[:, ::-1].argmax(axis=1)
    at_home = pd.Series(home, index=counts.index).loc[table["lead_id"]].to_numpy() == number
    part = pd.Series(np.array(PARTS)[number], index=table.index, dtype=object)
    converted = table["converted"].to_numpy()
    if all(converted[at_home & (number == i)].any() and not converted[at_home & (number == i)].all() for i in range(3)):
        return part.where(at_home, ""), 0
    return part, int(((counts > 0).sum(axis=1) > 1).sum())


def fit_pipeline(X: Floats, y: Labels, seed: int) -> Pipeline:
    """The audited recipe, fitted: scale, select 20 features by F test (all, if there are fewer), balanced forest."""
    forest = RandomForestClassifier(
        n_estimators=TREES, max_depth=10, class_weight="balanced", random_state=seed, n_jobs=-1
    )
    select = SelectKBest(_f_scores, k=min(20, X.shape[1]))
    pipeline = Pipeline([("scale", StandardScaler()), ("select", select), ("forest", forest)])
    pipeline.fit(X, y.astype(np.int64))
    # Trees are grown alike in any number of threads, but added up in a fixed order only in one.
    forest.set_params(n_jobs=1)
    return pipeline


def _f_scores(X: Floats, y: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """f_classif, with 0 for a feature that has one value only: it tells nothing."""
    varies = np.ptp(X, axis=0) > 0
    scores, p_values = np.zeros(X.shape[1]), np.ones(X.shape[1])
    if varies.any():
        with np.errstate(divide="ignore"):  # a feature that tells the classes apart without error scores inf
            scores[varies], p_values[varies] = f_classif(X[:, varies], y)
    return scores, p_values


def _checked(table: pd.DataFrame, options: TrainOptions) -> pd.DataFrame:
    """The table in a fixed order; UserError if it cannot be trained on."""
    needed = ("lead_id", "as_of", "created_at", "converted")
    if missing := [name for name in needed if name not in table.columns]:
        raise UserError(f"the training table lacks {', '.join(missing)}")
    empty = [name for name in needed if table[name].isna().any()]
    if empty:
        raise UserError(f"the training table has rows without {', '.join(empty)}")
    table = table.assign(
        lead_id=table["lead_id"].astype(object),
        as_of=table["as_of"].astype("int64"),
        converted=table["converted"].astype(bool),
    ).sort_values(["as_of", "lead_id"], kind="stable", ignore_index=True)
    rows, conversions = len(table), int(table["converted"].sum())
    if rows < options.least_rows or conversions < options.least_conversions:
        raise UserError(
            f"too little to train on: {rows} rows with {conversions} conversions; "
            f"at least {options.least_rows} rows with {options.least_conversions} conversions are needed"
        )
    return table


def _part(rows: pd.DataFrame, name: str) -> _Part:
    labels = rows["converted"].to_numpy()
    if not labels.any() or labels.all():
        which = "conversion" if not labels.any() else "lead that did not convert"
        raise UserError(
            f"the {name} part, {len(rows)} rows in time order, has no {which}: train on a longer period, or on more leads"
        )
    columns = {field: rows[field].tolist() for field in STATE_FIELDS if field in rows.columns}
    return _Part(columns, rows["as_of"].to_numpy(), labels, _facts(rows))


def _matrix(features: FittedFeatures, part: _Part) -> tuple[Floats, Labels]:
    """The part's features and outcomes without the rows that could not be scored either."""
    matrix = features.transform(part.columns, part.as_of)
    usable = (np.abs(matrix.values) <= np.finfo(np.float32).max).all(axis=1)
    usable[list(matrix.failed)] = False
    return matrix.values[usable], part.labels[usable]


def _raw(pipeline: Pipeline, X: Floats, y: Labels) -> tuple[Floats, Labels]:
    return pipeline.predict_proba(X)[:, 1], y


def _performance(raw: Floats, labels: Labels, calibrator: VennAbers, threshold: float) -> dict[str, evaluate.Metrics]:
    performance = {
        "calibrated": evaluate.metrics(calibrator.interval(raw)[0], labels, threshold),
        "raw": evaluate.metrics(raw, labels, 0.5),
        "legacy_sigmoid": evaluate.metrics(evaluate.legacy_sigmoid(raw), labels, 0.5),
    }
    before, after = (performance[name]["roc_auc"] or 0.0 for name in ("raw", "calibrated"))
    if before - after > MOST_AUC_LOST:
        raise UserError(
            f"the calibration was refused: it lowers ROC-AUC on the newest leads from {before:.3f} to {after:.3f}; "
            "it needs more leads to learn from"
        )
    return performance


def _golden_inputs(part: _Part, seed: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Lead states and moments to compare scores on later. Each field comes from another lead, so none is a person's."""
    rng = np.random.default_rng(seed)
    n = len(part.as_of)
    drawn = {name: rng.integers(n, size=_GOLDEN_ROWS) for name in part.columns}
    states = [
        {name: _plain(values[int(drawn[name][i])]) for name, values in part.columns.items()} for i in range(_GOLDEN_ROWS)
    ]
    newest = int(part.as_of[-1])
    return [*states, {"created_at": newest}], [newest] * (_GOLDEN_ROWS + 1)


def _plain(value: Any) -> Any:
    """The value as JSON can carry it to the bit; what is not finite is None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float) else None


def _facts(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "rows": len(rows),
        "leads": int(rows["lead_id"].nunique()),
        "conversions": int(rows["converted"].sum()),
        "base_rate": float(rows["converted"].mean()),
        "from": _iso(int(rows["as_of"].min())),
        "to": _iso(int(rows["as_of"].max())),
    }


def _described(forest: RandomForestClassifier) -> str:
    return f"RandomForestClassifier(n_estimators={TREES}, max_depth={forest.max_depth}, class_weight='balanced')"


def _by_importance(item: tuple[str, float]) -> tuple[float, str]:
    return -item[1], item[0]


def _iso(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
