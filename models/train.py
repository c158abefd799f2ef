"""From a table of lead states with outcomes to a model that can be published.

The recipe is judged first, then used. Judged: features and forest fitted on the oldest 60 % of the rows in time, the
calibration on the 20 % after them, metrics from the newest 20 %, which nothing was fitted on. Used: the same recipe
moved on by one period, features and forest on the oldest 80 %, the calibration on the newest 20 %. So no calibration
sees a row that its forest was fitted on, no metric sees a row that anything was fitted on, and the model that serves
has learnt from the newest leads. The metrics are those of the recipe one period earlier, and the manifest says so.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from features import FittedFeatures, Specification, specify
from leadstream.errors import UserError
from models import evaluate, leaks
from models.artifact import MANIFEST_VERSION, golden_rows, library_versions
from models.scorer import Model
from models.table import Part, checked, facts_of, iso, parts
from models.venn_abers import VennAbers

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Progress = Callable[[str, float], None]

NAME = "random_forest"
TREES = 100
DEPTH = 10
JUDGED = {"train": 0.6, "calibration": 0.2, "test": 0.2}
USED = {"train": 0.8, "calibration": 0.2}
METRICS_OF = (
    "the same recipe one period earlier: fitted and calibrated on the parts that `judged` shows, metrics from its "
    "test part; the model itself was then fitted on the parts `used` shows"
)
THRESHOLD_POLICY = "largest F1 on the calibration part"
GRADE_POLICY = "by probability on the calibration part: A the top 10 %, B the next 20 %, C the next 30 %, D the rest"
GRADE_QUANTILES = {"A": 0.9, "B": 0.7, "C": 0.4}
MOST_AUC_LOST = 0.01
_GOLDEN_ROWS = 8


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What a training run may be told.

    `horizon_days`, how long a lead had to convert, or None where the labels come without one, and `created_at` (ms UTC)
    are only written down: the labels are in the table. `origins` says for an input which column it was read from,
    `allow_leaks` names inputs that are used although they seem to leak.
    """

    horizon_days: float | None = 60
    seed: int = 0
    specification: Specification = field(default_factory=specify)
    least_leads: int = 1_000
    least_conversions: int = 120
    origins: Mapping[str, str] = field(default_factory=dict)
    allow_leaks: tuple[str, ...] = ()
    created_at: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """An artifact dictionary and its manifest, which lacks only what publishing adds: version, size and sha256."""

    artifact: dict[str, Any]
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    features: FittedFeatures
    pipeline: Pipeline
    calibrator: VennAbers
    calibrated_on: int
    threshold: float
    grades: dict[str, float]


def train(
    table: pd.DataFrame, options: TrainOptions | None = None, progress: Progress = lambda _stage, _share: None
) -> Trained:
    """Train on rows of (lead_id, as_of in ms UTC, LeadState fields, converted); the same table gives the same artifact.

    `progress` is told each stage and the share of the work done before it. Raises UserError where the table is too
    small or lacks a class in some part, where an input seems to leak the outcome, and where calibrating costs more than
    0.01 of ROC-AUC.
    """
    options = options or TrainOptions()
    progress("looking for leaks", 0.0)
    table = checked(table, options.least_leads, options.least_conversions)
    found = leaks.audit(table, options.specification, options.origins)
    leaks.refuse(found, options.allow_leaks, options.specification)
    progress("splitting in time", 0.04)
    judged, used = parts(table, JUDGED), parts(table, USED)

    progress(f"growing {TREES} trees on the oldest {JUDGED['train']:.0%}", 0.05)
    judge = _fit(judged["train"], judged["calibration"], options)
    progress("judging on the newest leads", 0.4)
    performance = _performance(judge, judged["test"])
    progress(f"growing {TREES} trees on the oldest {USED['train']:.0%}", 0.45)
    fitted = _fit(used["train"], used["calibration"], options)

    progress("writing golden rows", 0.95)
    artifact = _artifact(fitted, performance)
    facts = {
        **facts_of(table),
        "judged": {name: part.facts for name, part in judged.items()},
        "used": {name: part.facts for name, part in used.items()},
    }
    manifest = _manifest(artifact, fitted, facts, options)
    manifest["leaks"] = {"found": found, "allowed": sorted(set(found) & set(options.allow_leaks))}
    unpublished = Model(artifact, {**manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    manifest["golden"] = golden_rows(unpublished, *_golden_inputs(used["train"], options.seed))
    progress("done", 1.0)
    return Trained(artifact, manifest)


def _fit(train_part: Part, calibration: Part, options: TrainOptions) -> _Fitted:
    """Features and forest from one part; calibration, threshold and grades from a later one."""
    features = FittedFeatures.fit(train_part.columns, train_part.as_of, options.specification)
    pipeline = fit_pipeline(*_matrix(features, train_part), options.seed)
    X, labels = _matrix(features, calibration)
    raw = pipeline.predict_proba(X)[:, 1]
    calibrator = VennAbers.fit(raw, labels)
    probability = calibrator.interval(raw)[0]
    return _Fitted(
        features,
        pipeline,
        calibrator,
        len(labels),
        evaluate.best_f1_threshold(probability, labels),
        {grade: float(np.quantile(probability, q)) for grade, q in GRADE_QUANTILES.items()},
    )


def fit_pipeline(X: Floats, y: Labels, seed: int) -> Pipeline:
    """The audited recipe, fitted: scale, select 20 features by F test (all, if there are fewer), balanced forest."""
    forest = RandomForestClassifier(
        n_estimators=TREES, max_depth=DEPTH, class_weight="balanced", random_state=seed, n_jobs=-1
    )
    select = SelectKBest(f_classif, k=min(20, X.shape[1]))
    pipeline = Pipeline([("scale", StandardScaler()), ("select", select), ("forest", forest)])
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # A feature with one value gets no F value and is chosen last; one without error gets an infinite one.
        warnings.filterwarnings("ignore", "Features .* are constant", UserWarning)
        pipeline.fit(X, y.astype(np.int64))
    # Trees are grown alike in any number of threads, but added up in a fixed order only in one.
    forest.set_params(n_jobs=1)
    return pipeline


def _matrix(features: FittedFeatures, part: Part) -> tuple[Floats, Labels]:
    """The part's features and outcomes without the rows that could not be scored either."""
    matrix = features.transform(part.columns, part.as_of)
    usable = np.logical_and.reduce(np.abs(matrix.values) <= np.finfo(np.float32).max, axis=1)
    usable[list(matrix.failed)] = False
    labels = part.labels[usable]
    if not labels.any() or labels.all():
        raise UserError(
            f"of {len(usable)} rows only {len(labels)} have a created_at and numbers that can be used, "
            "and those do not hold both outcomes"
        )
    return matrix.values[usable], labels


def _performance(judge: _Fitted, test: Part) -> dict[str, evaluate.Metrics]:
    """The metrics of calibrated, raw and audited probabilities; UserError if calibrating costs ranking.

    The steps of a calibration tie leads that the raw score told apart. On few leads the loss is uncertain: refused is
    one that exceeds 0.01 by more than twice its standard error.
    """
    X, labels = _matrix(judge.features, test)
    raw = judge.pipeline.predict_proba(X)[:, 1]
    calibrated = judge.calibrator.interval(raw)[0]
    lost, error = evaluate.auc_loss(raw, calibrated, labels)
    if lost - 2 * error > MOST_AUC_LOST:
        raise UserError(
            f"the calibration was refused: it lowers ROC-AUC on the newest leads by {lost:.3f} "
            f"(allowed are {MOST_AUC_LOST}); train on a longer period, or on more leads"
        )
    return {
        "calibrated": evaluate.metrics(calibrated, labels, judge.threshold),
        "raw": evaluate.metrics(raw, labels, 0.5),
        "legacy_sigmoid": evaluate.metrics(evaluate.legacy_sigmoid(raw), labels, 0.5),
    }


def _artifact(fitted: _Fitted, performance: dict[str, evaluate.Metrics]) -> dict[str, Any]:
    """The dictionary that is pickled: the audited keys first, then what was missing."""
    names, forest = fitted.features.specification.outputs, fitted.pipeline["forest"]
    selected = [names[i] for i in np.flatnonzero(fitted.pipeline["select"].get_support())]
    importance = zip(selected, forest.feature_importances_.tolist(), strict=True)
    return {
        "model": forest,
        "scaler": fitted.pipeline["scale"],
        "feature_selector": fitted.pipeline["select"],
        "feature_names": list(names),
        "performance": performance,
        "feature_importance": dict(sorted(importance, key=lambda item: (-item[1], item[0]))),
        "features": fitted.features,
        "calibrator": fitted.calibrator,
        "threshold": fitted.threshold,
        "grades": fitted.grades,
        "explain_base": float(np.mean([tree.tree_.value[0, 0, 1] for tree in forest.estimators_])),
    }


def _manifest(
    artifact: Mapping[str, Any], fitted: _Fitted, data: dict[str, Any], options: TrainOptions
) -> dict[str, Any]:
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": NAME,
        "created_at": iso(options.created_at),
        "recipe": {
            "name": "audited",
            "steps": [
                "StandardScaler",
                f"SelectKBest(f_classif, k={fitted.pipeline['select'].k})",
                f"RandomForestClassifier(n_estimators={TREES}, max_depth={DEPTH}, class_weight='balanced')",
            ],
            "seed": options.seed,
        },
        "libraries": library_versions(),
        "label": {
            "definition": _definition(options.horizon_days),
            "horizon_days": options.horizon_days,
        },
        "data": data,
        "features": {
            "specification_hash": fitted.features.specification_hash,
            "names": artifact["feature_names"],
            "importance": artifact["feature_importance"],
        },
        "calibration": {"method": "inductive Venn-Abers", "points": fitted.calibrated_on},
        "threshold": {"value": fitted.threshold, "policy": THRESHOLD_POLICY},
        "grades": {"cuts": fitted.grades, "policy": GRADE_POLICY},
        "metrics": artifact["performance"],
        "metrics_of": METRICS_OF,
    }


def _definition(horizon_days: float | None) -> str:
    if horizon_days is None:
        return "converted, as the source of the table says"
    return f"application submitted within {horizon_days:g} days after the moment of prediction"


def _golden_inputs(part: Part, seed: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Lead states and moments to compare scores on later. Each field comes from another lead, so none is a person's."""
    rng = np.random.default_rng(seed)
    n = len(part.as_of)
    drawn = {name: rng.integers(n, size=_GOLDEN_ROWS) for name in part.columns}
    states = [
        {name: _plain(values[int(drawn[name][i])]) for name, values in part.columns.items()}
        for i in range(_GOLDEN_ROWS)
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
