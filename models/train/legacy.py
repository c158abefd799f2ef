"""Artifacts of the audited pipeline: what they lack, and a version that serves them if possible.

Such an artifact is a joblib dictionary of a forest, its scaler, its selector and names. It does not
hold the code that turned a lead into numbers. A feature that is a formula of the lead alone can be
computed again. A category's code or a percentile cannot, because the code book and the distribution
are lost. So a model is served only if it uses no such feature.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.preprocessing import StandardScaler

from features import CalendarSettings, FittedFeatures
from features.calendar import DAY, build_calendar
from features.distribution import Distribution
from features.spec import CATEGORY, FORMULAS, INPUTS, NUMBER, Specification
from leadstream.errors import UserError
from models.serve import allowed, pickles
from models.serve.artifact import MANIFEST_VERSION, WRONG, Trained, golden_rows, library_versions
from models.serve.calibrators import CALIBRATORS, Calibrator
from models.serve.forest import Floats, pack
from models.serve.refused import Refused
from models.serve.scorer import Model
from models.serve.venn_abers import VennAbers
from models.train.table import iso

KEYS = ("model", "scaler", "feature_selector", "feature_names", "performance", "feature_importance")
CATEGORY_CODES = (
    "lifecycle_state",
    "status",
    "engagement_level",
    "source",
    "campus_preference",
    "programme_name",
)
PERCENTILES = (
    "score_percentile",
    "engagement_percentile",
    "touchpoint_percentile",
    "score_engagement_score_interaction",
)
CALENDAR = (
    "created_month",
    "created_day_of_week",
    "created_hour",
    "academic_week",
    "is_application_season",
)
# The range of the audited formula, from 1 / (1 + e) to its mirror, cut into four.
GRADES = {"A": 0.615, "B": 0.5, "C": 0.385}
THRESHOLD = 0.5
_FIRST_SCIKIT = (1, 3)  # earlier trees held counts and other nodes
LACKS = (
    "a calibration on later outcomes: its probabilities are the audited formula's, which narrows "
    "them",
    "calibration leads for an interval: probability_low is 0, probability_high 1, confidence 0",
    "medians to take for numbers that are absent",
    "the code books of its categories and the distributions behind its percentiles",
    "a feature specification: which formulas it was trained with can only be told by names",
    "the label's definition and horizon, the window and the counts of its training data",
    "metrics on later leads: its own `performance` is copied, and proves nothing",
    "golden rows of the system that made it: those written now hold only what this code computes",
    "a digest and a signature: who made it, and whether it was changed since, nobody can tell",
)


@dataclass(frozen=True, slots=True, eq=False)
class LegacyArtifact:
    """An audited artifact after inspection.

    - `features`: those that its forest uses.
    - `lacks`, `assumed`: sentences about it.
    - `obstacles`: why it cannot be served.
    - `trained`: the publishable model, if there is no obstacle.
    """

    features: tuple[str, ...]
    lacks: tuple[str, ...]
    assumed: tuple[str, ...]
    obstacles: tuple[str, ...]
    trained: Trained | None


@dataclass(frozen=True, slots=True, eq=False)
class _LegacyParts:
    """The features in use with their scaling, and the known means of all features by name."""

    content: dict[str, Any]
    scikit: str
    used: tuple[str, ...]
    mean: Floats
    scale: Floats
    means: dict[str, float]


def inspect(payload: bytes, calendar: CalendarSettings, created_at: int) -> LegacyArtifact:
    """Inspect the bytes of an audited artifact with allowed types only; `created_at` is in ms UTC.

    Raises UserError if it is no such artifact, Refused if it holds a type that is not allowed.
    """
    try:
        parts = _parts(*pickles.read(payload))
        obstacles, assumed = _obstacles(parts), _assumed(parts, calendar)
        trained = None if obstacles else _trained(parts, calendar, created_at, assumed)
    except WRONG as error:
        raise Refused(f"the artifact cannot be read ({type(error).__name__}: {error})") from error
    return LegacyArtifact(parts.used, LACKS, assumed, obstacles, trained)


def _parts(data: Any, names: list[str]) -> _LegacyParts:
    if not isinstance(data, dict) or (missing := [key for key in KEYS if key not in data]):
        lacks = ", ".join(missing) if isinstance(data, dict) else "all keys"
        raise UserError(f"this is no artifact of the audited pipeline: it lacks {lacks}")
    scikit = str(data["model"].state["_sklearn_version"])
    if tuple(int(part) for part in scikit.split(".")[:2]) < _FIRST_SCIKIT:
        raise UserError(
            f"it was made with scikit-learn {scikit}, whose trees are of a form that is not read "
            "here"
        )
    content = allowed.build(data, names, scikit=True)
    scaler, selector, columns = (
        content["scaler"],
        content["feature_selector"],
        list(content["feature_names"]),
    )
    if not all(
        isinstance(numbers, np.ndarray)
        for numbers in (scaler.mean_, scaler.scale_, selector.scores_)
    ):
        raise UserError("its scaler and its selector are not fitted")
    support = selector.get_support()
    if not all(isinstance(name, str) for name in columns) or len(columns) not in (
        len(support),
        support.sum(),
    ):
        raise UserError(
            "its feature_names are neither those of its scaler nor those that its selector takes"
        )
    complete = len(columns) == len(support)
    used = [
        str(name) for name in (np.array(columns, dtype=object)[support] if complete else columns)
    ]
    if any(estimator.tree_.n_features != len(used) for estimator in content["model"].estimators_):
        raise UserError("its forest does not take as many features as its selector leaves")
    means = zip(
        columns, (scaler.mean_ if complete else scaler.mean_[support]).tolist(), strict=True
    )
    return _LegacyParts(
        content, scikit, tuple(used), scaler.mean_[support], scaler.scale_[support], dict(means)
    )


def _obstacles(parts: _LegacyParts) -> tuple[str, ...]:
    """Return why the artifact cannot be served, a sentence each."""
    unknown = [name for name in parts.used if name not in FORMULAS or name.endswith("_missing")]
    found = {
        "it uses features that Leadstream does not have: {}": unknown,
        "it uses codes of categories, and its code books are not in the artifact: {}": (
            CATEGORY_CODES
        ),
        "it uses percentiles, and the distributions behind them are not in the artifact: {}": (
            PERCENTILES
        ),
    }
    named = [
        (sentence, [name for name in parts.used if name in names])
        for sentence, names in found.items()
    ]
    return tuple(sentence.format(", ".join(names)) for sentence, names in named if names)


def _assumed(parts: _LegacyParts, calendar: CalendarSettings) -> tuple[str, ...]:
    """Return what serving the artifact assumes, a sentence each."""
    numbers = [spec.name for spec in INPUTS if spec.kind == NUMBER]
    filled = [f"{name} {parts.means.get(name, 0.0):.4g}" for name in numbers]
    cuts = ", ".join(f"{grade} from {cut}" for grade, cut in GRADES.items())
    assumed = [
        "its features are computed by the formulas that Leadstream has under the same names "
        "(docs/reference/features.md)",
        "a number that is absent is taken as the scaler's mean, or 0 where it has none: "
        f"{', '.join(filled)}",
        f"the threshold is {THRESHOLD}, as its classifier decides",
        f"the grades cut the audited formula's range into four: {cuts}",
        f"trees of scikit-learn {parts.scikit} mean what those of "
        f"{library_versions()['scikit-learn']} mean",
    ]
    if used := [name for name in parts.used if name in CALENDAR]:
        assumed.append(
            f"{', '.join(used)} follow the calendar of the settings, in {calendar.time_zone}"
        )
    return tuple(assumed)


def _trained(
    parts: _LegacyParts, calendar: CalendarSettings, created_at: int, assumed: tuple[str, ...]
) -> Trained:
    k, content, forest = len(parts.used), parts.content, parts.content["model"]
    forest.n_jobs = 1
    trees = pack(forest)
    # Without calibration the interval is 0 to 1 for every score.
    unknown = VennAbers(np.empty(0), np.zeros(1), np.ones(1))
    specification = Specification(INPUTS, parts.used, calendar)
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.var_, scaler.n_features_in_ = (
        parts.mean,
        parts.scale,
        parts.scale**2,
        k,
    )
    selector = SelectKBest(f_classif, k="all")
    selector.scores_, selector.pvalues_, selector.n_features_in_ = np.ones(k), np.zeros(k), k
    importance = dict(zip(parts.used, forest.feature_importances_.tolist(), strict=True))
    fitted = FittedFeatures(
        specification,
        specification.hash,
        build_calendar(calendar),
        {name: _unknown(parts.means.get(name, 0.0)) for name in _numbers()},
        {spec.name: {} for spec in specification.inputs_of_kind(CATEGORY)},
    )
    performance = _numbers_of(content["performance"])
    artifact = {
        "model": trees,
        "scaler": scaler,
        "feature_selector": selector,
        "feature_names": list(parts.used),
        "performance": performance,
        "feature_importance": importance,
        "features": fitted,
        "calibrator": Calibrator("legacy_sigmoid", unknown),
        "threshold": THRESHOLD,
        "grades": GRADES,
        "explain_base": float(trees.value[trees.roots].mean()),
    }
    manifest: dict[str, Any] = {
        "manifest_version": MANIFEST_VERSION,
        "name": "legacy_random_forest",
        "created_at": iso(created_at),
        "recipe": {"name": "legacy", "steps": ["as trained by the audited pipeline"], "seed": None},
        "libraries": library_versions(),
        "label": {
            "definition": "has_application, as the audited pipeline took it",
            "horizon_days": None,
        },
        "data": None,
        "features": {
            "specification_hash": specification.hash,
            "names": list(parts.used),
            "importance": importance,
        },
        "calibration": {
            "name": "legacy_sigmoid",
            "method": CALIBRATORS["legacy_sigmoid"].sentence,
            "points": 0,
        },
        "threshold": {"value": THRESHOLD, "policy": "as its classifier decides"},
        "grades": {"cuts": GRADES, "policy": "the audited formula's range cut into four"},
        "metrics": None,
        "legacy": {"lacks": list(LACKS), "assumed": list(assumed), "performance": performance},
    }
    unpublished = Model(artifact, {**manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    manifest["golden"] = golden_rows(unpublished, *_golden_inputs(parts, created_at))
    return Trained(artifact, manifest)


def _numbers() -> list[str]:
    return ["days_since_creation", *(spec.name for spec in INPUTS if spec.kind == NUMBER)]


def _unknown(mean: float) -> Distribution:
    """Return a distribution of which only the mean is known; no value is unusual to it."""
    return Distribution(mean, -np.inf, np.inf, np.empty(0), np.empty(0))


def _golden_inputs(parts: _LegacyParts, created_at: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Return leads from zero to twice the mean in each number, and from new to old."""
    numbers = [spec for spec in INPUTS if spec.kind == NUMBER]
    states = [
        {
            "created_at": created_at
            - int(share * max(parts.means.get("days_since_creation", 30.0), 1.0) * DAY),
            **{
                s.name: float(np.clip(share * parts.means.get(s.name, 50.0), s.low, s.high))
                for s in numbers
            },
        }
        for share in (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
    ]
    return [*states, {"created_at": created_at}], [created_at] * (len(states) + 1)


def _numbers_of(performance: Any) -> dict[str, float]:
    """Return the plain numbers of the audited `performance`."""
    found = performance.items() if isinstance(performance, dict) else ()
    return {
        name: float(value)
        for name, value in found
        if isinstance(value, float | int | np.floating) and np.isfinite(float(value))
    }
