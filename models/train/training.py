"""Training: a table of lead states with outcomes becomes a model that can be published.

The rows are cut in time into five periods:

1. A recipe is fitted on the first period and scores the second, is fitted on the first two and
   scores the third, and so on. These out-of-fold scores come from trees that had seen only older
   leads. The calibrator is fitted on them.
2. The evaluation model: trees of the first four periods, calibrated on the scores of the second
   to the fourth. Its metrics come from the fifth, which no fit and no choice has used.
3. The final model: the same one period later. Trees of all five periods, calibrated on the scores
   of the second to the fifth.

So the model that serves has learned from the newest leads. Its metrics are those of the same
recipe one period earlier, and the manifest says so. In the manifest, `data.judged` describes the
evaluation model and `data.used` the final model.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features import FittedFeatures, Specification, specify
from leadstream.errors import UserError
from models import evaluate
from models.monitor import drift
from models.monitor.reference import reference
from models.registry import gate
from models.serve import calibrators
from models.serve.artifact import MANIFEST_VERSION, Trained, golden_rows, library_versions
from models.serve.explain import contributions
from models.serve.forest import pack
from models.serve.scorer import Model
from models.train import calibrate, candidates, leaks
from models.train.candidates import RECIPES, FittedRecipe, FoldResult, concat
from models.train.curves import curves
from models.train.policies import Policy, grades
from models.train.table import TrainingPart, check_table, describe_rows, iso, moment_of, periods

Progress = Callable[[str, float], None]

PERIODS = 5
METRICS_OF = (
    "the same recipe one period earlier: fitted and calibrated on the part that `judged` shows as "
    "train, metrics from its test part; the model itself was then fitted on the part that `used` "
    "shows"
)
FOLDS_OF = (
    "the third and fourth of five periods, by trees and a sigmoid that were fitted on those before"
)
BEST = "best"
_GOLDEN_ROWS = 8


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of a training run.

    - `horizon_days`: how long a lead had to convert, None if the labels have no horizon. Only
      written to the manifest, as is `created_at` (ms UTC): the labels are in the table.
    - `origins`: the source column of each input.
    - `allow_leaks`: inputs to use although they seem to leak the outcome.
    - `recipe`, `calibrator`: a name or "best".
    - `grades`: the cuts of A, B and C; None cuts by shares of leads.
    """

    horizon_days: float | None = 60
    seed: int = 0
    specification: Specification = field(default_factory=specify)
    min_leads: int = 1_000
    min_conversions: int = 120
    origins: Mapping[str, str] = field(default_factory=dict)
    allow_leaks: tuple[str, ...] = ()
    recipe: str = BEST
    calibrator: str = BEST
    policy: Policy = field(default_factory=Policy)
    grades: Mapping[str, float] | None = None
    created_at: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


@dataclass(frozen=True, slots=True, eq=False)
class _CalibratedRecipe:
    """A fitted recipe with the calibrator, threshold and grades that later leads final.

    `points` counts those leads; `probability` (points,) are their probabilities.
    """

    fitted: FittedRecipe
    calibrator: calibrators.Calibrator
    points: int
    threshold: float
    grades: dict[str, float]
    grade_policy: str
    probability: NDArray[np.float64]


def train(
    table: pd.DataFrame,
    options: TrainOptions | None = None,
    progress: Progress = lambda _stage, _share: None,
    champion: Model | None = None,
) -> Trained:
    """Train a model; the same table gives the same artifact.

    The table has the columns lead_id, as_of (ms UTC), LeadState fields and converted. Each call of
    `progress` gets a stage and the share of the work done before it. With a `champion` the
    manifest compares it with the new model on the newest leads (`against`), for the gate.

    Raises UserError if the table is too small or a period lacks an outcome, if an input seems to
    leak the outcome, or if calibration inverts the ranking or costs more than 0.01 of ROC-AUC.
    """
    options = options or TrainOptions()
    progress("looking for leaks", 0.0)
    table = check_table(table, options.min_leads, options.min_conversions)
    found = leaks.audit(table, options.specification, options.origins)
    leaks.refuse(found, options.allow_leaks, options.specification)
    parts, cumulative = periods(table, PERIODS)

    folds: dict[str, list[FoldResult]] = {}
    names = list(RECIPES) if options.recipe == BEST else [options.recipe]
    for done, name in enumerate(names):
        progress(f"comparing recipes: {name}", 0.05 + 0.45 * done / len(names))
        folds[name] = [_fold(name, parts, cumulative, i, options) for i in range(1, PERIODS - 1)]
    compared = {name: candidates.fold_metrics(results) for name, results in folds.items()}
    recipe = candidates.best(compared)
    name, sentences = _calibrator(folds[recipe], options)

    progress(f"evaluating {recipe} on the newest leads", 0.5)
    newest = _fold(recipe, parts, cumulative, PERIODS - 1, options)
    evaluation = _calibrated(newest.fitted, name, folds[recipe], options)
    performance = _performance(evaluation, newest)
    progress(f"fitting {recipe} on all periods", 0.7)
    fitted = candidates.fit(recipe, cumulative[-1], options.specification, options.seed)
    final = _calibrated(fitted, name, [*folds[recipe], newest], options)

    progress("writing golden rows", 0.95)
    artifact = _artifact(final, performance)
    drift_part = {
        **_reference(final, cumulative[-1]),
        "newest": _newest_drift(_reference(evaluation, cumulative[-2]), evaluation, parts[-1]),
    }
    manifest = _manifest(artifact, final, options) | {
        "data": {
            **describe_rows(table),
            "judged": {"train": cumulative[-2].description, "test": parts[-1].description},
            "used": {"train": cumulative[-1].description},
            "periods": [part.description for part in parts],
        },
        "candidates": {
            "proposed": recipe,
            "folds_of": FOLDS_OF,
            "log_loss": {
                name: candidates.mean_log_loss(results) for name, results in compared.items()
            },
            "folds": compared,
        },
        "calibrators": sentences,
        **({"against": _against(champion, parts[-1], newest, evaluation)} if champion else {}),
        "leaks": {"found": found, "allowed": sorted(set(found) & set(options.allow_leaks))},
        "drift": drift_part,
        "curves": {
            name: curves(stated, newest.scored.labels)
            for name, stated in _stated(evaluation, newest).items()
        },
    }
    unpublished = Model(artifact, {**manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    manifest["golden"] = golden_rows(unpublished, *_golden_inputs(cumulative[-1], options.seed))
    progress("done", 1.0)
    return Trained(artifact, manifest)


def _fold(
    recipe: str,
    parts: list[TrainingPart],
    cumulative: list[TrainingPart],
    i: int,
    options: TrainOptions,
) -> FoldResult:
    return candidates.fit_fold(
        recipe, cumulative[i - 1], parts[i], options.specification, options.seed
    )


def _calibrator(folds: Sequence[FoldResult], options: TrainOptions) -> tuple[str, dict[str, str]]:
    """Return the calibrator to use and a sentence for each one tried.

    They are fitted on all folds but the last, and compared on the last.
    """
    if options.calibrator != BEST:
        return options.calibrator, {options.calibrator: "as told"}
    try:
        return calibrate.choose(concat(folds[:-1])[:2], folds[-1].scored[:2], folds[0].fitted.prior)
    except UserError as error:
        raise _refused(error) from None


def _calibrated(
    fitted: FittedRecipe, name: str, folds: Sequence[FoldResult], options: TrainOptions
) -> _CalibratedRecipe:
    """Fit calibrator, threshold and grades of a recipe on out-of-fold scores."""
    raw, labels, missing, _ = concat(folds)
    try:
        calibrator = calibrators.fit(name, raw, labels, fitted.prior, missing)
    except UserError as error:
        raise _refused(error) from None
    probability = calibrator.interval(raw)[0]
    cuts, policy = grades(probability, options.grades)
    threshold = options.policy.threshold(probability, labels)
    return _CalibratedRecipe(fitted, calibrator, len(labels), threshold, cuts, policy, probability)


def _performance(evaluation: _CalibratedRecipe, test: FoldResult) -> dict[str, evaluate.Metrics]:
    """Return the metrics of calibrated, raw and audited probabilities.

    Raises UserError if calibration costs ranking.
    """
    stated = _stated(evaluation, test)
    try:
        calibrate.check_ranking(test.scored.raw, stated["calibrated"], test.scored.labels)
    except UserError as error:
        raise _refused(error) from None
    thresholds = {name: evaluation.threshold if name == "calibrated" else 0.5 for name in stated}
    return {
        name: evaluate.metrics(stated[name], test.scored.labels, thresholds[name])
        for name in stated
    }


def _stated(evaluation: _CalibratedRecipe, test: FoldResult) -> dict[str, NDArray[np.float64]]:
    """Return the three probabilities that the manifest compares, each (n,), for a scored fold."""
    raw = test.scored.raw
    calibrated = evaluation.calibrator.interval(raw)[0]
    return {
        "calibrated": calibrated,
        "raw": raw,
        "legacy_sigmoid": evaluate.legacy_sigmoid(raw),
    }


def _against(
    champion: Model, part: TrainingPart, newest: FoldResult, evaluation: _CalibratedRecipe
) -> dict[str, Any]:
    """Compare the champion with the evaluation model on the newest leads, for the manifest.

    Leaves out rows that the champion may have learned from or cannot score.
    """
    raw, _, missing, rows = newest.scored
    candidate = evaluation.calibrator.interval(raw, missing)[0]
    scores = champion.score(part.columns, part.as_of)
    fresh = part.as_of[rows] > _learned_until(champion.manifest)
    fresh &= ~np.isin(rows, list(scores.failed))
    return gate.compare(
        champion,
        scores.probability[rows][fresh],
        candidate[fresh],
        part.labels[rows][fresh],
        part.leads[rows][fresh],
    )


def _learned_until(manifest: Mapping[str, Any]) -> int:
    used = manifest.get("data", {}).get("used")
    return moment_of(used["train"]["to"]) if used else -1


def _reference(calibrated: _CalibratedRecipe, part: TrainingPart) -> dict[str, Any]:
    """Return the drift reference of the part that a recipe was fitted on."""
    made = reference(
        calibrated.fitted.features, part.columns, len(part.as_of), calibrated.probability
    )
    return {**made, "independent_rows": drift.independent(np.bincount(part.leads))}


def _newest_drift(
    before: Mapping[str, Any], evaluation: _CalibratedRecipe, part: TrainingPart
) -> dict[str, Any]:
    """Compare each input of the newest period with the four before, for `models report`."""
    features = evaluation.fitted.features
    rows, *_ = candidates.matrix(features, part)
    worth = drift.independent(np.bincount(part.leads)) / len(part.as_of)
    compared = drift.DriftReference(before, features.specification.outputs)
    found = compared.compare_inputs(rows, np.full(len(rows), worth))
    return {
        name: {"psi": one.psi, "missing": one.missing, "unseen": one.unseen}
        for name, one in found.items()
    }


def _refused(why: UserError) -> UserError:
    return UserError(
        f"the calibration was refused: {why}; train on a longer time, or on more leads"
    )


def _artifact(final: _CalibratedRecipe, performance: dict[str, evaluate.Metrics]) -> dict[str, Any]:
    """Return the dictionary that is pickled: the audited keys first, then those they lacked."""
    fitted = final.fitted
    names = fitted.features.specification.outputs
    selected = [names[i] for i in np.flatnonzero(fitted.selector.get_support())]
    importance = zip(selected, fitted.importance.tolist(), strict=True)
    return {
        "model": fitted.model,
        "scaler": fitted.scaler,
        "feature_selector": fitted.selector,
        "feature_names": list(names),
        "performance": performance,
        "feature_importance": dict(sorted(importance, key=lambda item: (-item[1], item[0]))),
        "features": fitted.features,
        "calibrator": final.calibrator,
        "threshold": final.threshold,
        "grades": final.grades,
        "explain_base": contributions(pack(fitted.model), len(selected)).base,
    }


def _manifest(
    artifact: Mapping[str, Any], final: _CalibratedRecipe, options: TrainOptions
) -> dict[str, Any]:
    fitted = final.fitted
    specification: FittedFeatures = fitted.features
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": fitted.recipe.model_name,
        "created_at": iso(options.created_at),
        "recipe": {"name": fitted.recipe.name, "steps": fitted.steps, "seed": options.seed},
        "options": {
            "recipe": options.recipe,
            "calibrator": options.calibrator,
            "policy": options.policy.text,
            "grades": dict(options.grades) if options.grades else None,
            "seed": options.seed,
            "allow_leaks": list(options.allow_leaks),
        },
        "libraries": library_versions(),
        "label": {
            "definition": _definition(options.horizon_days),
            "horizon_days": options.horizon_days,
        },
        "features": {
            "specification_hash": specification.specification_hash,
            "specification": json.loads(specification.specification.to_json()),
            "names": artifact["feature_names"],
            "importance": artifact["feature_importance"],
        },
        "calibration": {
            "name": final.calibrator.name,
            "method": calibrators.CALIBRATORS[final.calibrator.name].sentence,
            "interval": calibrators.CALIBRATORS["venn_abers"].sentence,
            "points": final.points,
        },
        "threshold": {"value": final.threshold, "policy": options.policy.sentence},
        "grades": {"cuts": final.grades, "policy": final.grade_policy},
        "metrics": artifact["performance"],
        "metrics_of": METRICS_OF,
    }


def _definition(horizon_days: float | None) -> str:
    if horizon_days is None:
        return "converted, as the source of the table says"
    return f"application submitted within {horizon_days:g} days after the moment of prediction"


def _golden_inputs(part: TrainingPart, seed: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Return lead states and moments for the golden rows.

    Each field comes from another lead, so no state describes a person.
    """
    rng = np.random.default_rng(seed)
    n = len(part.as_of)
    drawn = {name: rng.integers(n, size=_GOLDEN_ROWS) for name in part.columns}
    states = [
        {name: _json_value(values[int(drawn[name][i])]) for name, values in part.columns.items()}
        for i in range(_GOLDEN_ROWS)
    ]
    newest = int(part.as_of[-1])
    return [*states, {"created_at": newest}], [newest] * (_GOLDEN_ROWS + 1)


def _json_value(value: Any) -> Any:
    """Return a value that JSON holds to the bit; None for a number that is not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {key: _json_value(own) for key, own in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float) else None
