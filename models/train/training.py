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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from features import FittedFeatures, Specification, specify
from leadstream.errors import UserError
from models import evaluate
from models.monitor import drift
from models.monitor.ledger import read_learned_until
from models.monitor.reference import reference
from models.registry import gate
from models.serve import calibrators
from models.serve.artifact import MANIFEST_VERSION, Trained, golden_rows, library_versions
from models.serve.explain import contributions
from models.serve.forest import pack
from models.serve.scorer import Model
from models.train import calibrate, candidates, leaks
from models.train.best_input import best_input
from models.train.candidates import FittedRecipe, FoldResult, concat
from models.train.choice import BEST, PERIODS, Progress, choose_trees
from models.train.curves import curves
from models.train.evidence import evidence
from models.train.moving import SEASONS
from models.train.policies import Policy, grades
from models.train.reasons import reason_table
from models.train.sampling import KeptShares, representative
from models.train.table import TrainingPart, check_table, describe_rows, iso, periods

METRICS_OF = (
    "the same recipe one period earlier: fitted and calibrated on the part that `judged` shows as "
    "train, metrics from its test part; the model itself was then fitted on the part that `used` "
    "shows"
)
OF_THE_SAMPLE = "; at the rate of the sample, before the shift to the rate of the population"
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
    - `calendar`: whether folds may choose inputs of the calendar.
    - `base_rate`: the known rate of the population, if the table is a case-control sample.
    - `kept`: the shares that a sample of known rows kept of them.
    - `source`: what the table was made of, for the manifest.
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
    calendar: bool = True
    base_rate: float | None = None
    kept: KeptShares | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
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
    leaks.refuse(found.found, options.allow_leaks, options.specification)
    parts, cumulative = periods(table, PERIODS)

    chosen = choose_trees(parts, cumulative, options, progress)
    recipe, folds = chosen.recipe, chosen.folds
    name, sentences, follows = _calibrator(folds, options)

    progress(f"evaluating {recipe} on the newest leads", 0.5)
    newest = candidates.fit_fold(
        recipe, cumulative[-2], parts[-1], chosen.specification, options.seed
    )
    evaluation = _calibrated(newest.fitted, name, folds, options, follows=follows)
    performance = _performance(evaluation, newest)
    stated = _stated(evaluation, newest)["calibrated"]
    known = evidence([*folds, newest], stated, parts, follows=follows)
    progress(f"fitting {recipe} on all periods", 0.7)
    fitted = candidates.fit(recipe, cumulative[-1], chosen.specification, options.seed)
    final = _calibrated(fitted, name, [*folds, newest], options, follows=follows)
    if _sampled(options):
        added = _population_shift(options, concat([*folds, newest]).labels)
        final = _shifted(final, added, options)

    progress("fitting reasons", 0.85)
    reasons, explained = reason_table(fitted, cumulative[-1])
    progress("writing golden rows", 0.95)
    artifact = _artifact(final, performance)
    if reasons is not None:
        artifact["reasons"] = reasons
    drift_part = {
        **_reference(final, cumulative[-1], options),
        "newest": _newest_drift(
            _reference(evaluation, cumulative[-2], options),
            evaluation,
            _thinned(parts[-1], options),
        ),
    }
    manifest = _manifest(artifact, final, options, cumulative[-1].labels) | {
        "data": {
            **options.source,
            **describe_rows(table),
            "judged": {"train": cumulative[-2].description, "test": parts[-1].description},
            "used": {"train": cumulative[-1].description},
            "periods": [part.description for part in parts],
        },
        "candidates": chosen.candidates,
        "inputs": {
            **chosen.inputs,
            "best_alone": best_input(cumulative[-2], parts[-1], newest, chosen.specification),
        },
        "calibrators": sentences,
        "evidence": known,
        **_against(champion, parts[-1], newest, evaluation, options),
        "leaks": {
            "found": found.found,
            "allowed": sorted(set(found.found) & set(options.allow_leaks)),
            "warnings": found.warnings,
        },
        "drift": drift_part,
        "reasons": explained,
        "curves": {
            name: curves(stated, newest.scored.labels)
            for name, stated in _stated(evaluation, newest).items()
        },
    }
    unpublished = Model(artifact, {**manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    manifest["golden"] = golden_rows(unpublished, *_golden_inputs(cumulative[-1], options.seed))
    progress("done", 1.0)
    return Trained(artifact, manifest)


def _calibrator(
    folds: Sequence[FoldResult], options: TrainOptions
) -> tuple[str, dict[str, str], bool]:
    """Return the calibrator to use, a sentence for each one tried, and whether it follows the rate.

    They are fitted on all folds but the last, and compared on the last.
    """
    raw, labels, *_, leads = folds[-1].scored
    earlier, prior = [one.scored[:2] for one in folds[:-1]], folds[0].fitted.prior
    name, sentences = options.calibrator, {options.calibrator: "as told"}
    try:
        if name == BEST:
            # The score of trees with class weights is no probability.
            weighted = folds[0].fitted.recipe.balanced
            names = [n for n in calibrate.AUTOMATIC if not (weighted and n == calibrate.NONE)]
            name, sentences = calibrate.choose(
                concat(folds[:-1])[:2], (raw, labels), prior, leads, names=names
            )
        seasonal = bool({*SEASONS} & {*folds[0].fitted.features.specification.outputs})
        follows = options.base_rate is None and calibrate.follows_level(
            name, earlier, (raw, labels), prior, leads, seasonal=seasonal
        )
    except UserError as error:
        raise _refused(error) from None
    return name, sentences, follows


def _calibrated(
    fitted: FittedRecipe,
    name: str,
    folds: Sequence[FoldResult],
    options: TrainOptions,
    *,
    follows: bool,
) -> _CalibratedRecipe:
    """Fit calibrator, threshold and grades of a recipe on out-of-fold scores.

    One that `follows` has the level of the newest fold.
    """
    raw, labels, missing, *_ = concat(folds)
    try:
        calibrator = calibrators.fit(name, raw, labels, fitted.prior, missing)
    except UserError as error:
        raise _refused(error) from None
    if follows:
        newest = folds[-1].scored
        added = calibrate.level_to_follow(calibrator, newest.raw, newest.labels, newest.leads)
        calibrator = replace(calibrator, shift=added)
    inside = representative(options.kept, labels, options.seed)
    probability = calibrator.interval(raw)[0][inside]
    cuts, policy = grades(probability, options.grades)
    threshold = options.policy.threshold(probability, labels[inside])
    return _CalibratedRecipe(fitted, calibrator, len(labels), threshold, cuts, policy, probability)


def _sampled(options: TrainOptions) -> bool:
    return options.base_rate is not None or options.kept is not None


def _population_shift(options: TrainOptions, labels: NDArray[np.bool_]) -> float:
    """Return what moves log-odds from the sample (n,) to the population."""
    if options.kept is not None:
        return options.kept.shift
    return calibrate.population_shift(options.base_rate, labels)


def _thinned(part: TrainingPart, options: TrainOptions) -> TrainingPart:
    """Return the rows of a part that have the rate of the population."""
    inside = representative(options.kept, part.labels, options.seed)
    if inside.all():
        return part
    rows = np.flatnonzero(inside).tolist()
    columns = {name: [values[i] for i in rows] for name, values in part.columns.items()}
    return TrainingPart(
        columns, part.as_of[rows], part.labels[rows], part.leads[rows], part.description
    )


def _shifted(
    calibrated: _CalibratedRecipe, added: float, options: TrainOptions
) -> _CalibratedRecipe:
    """Move calibrator, threshold and grades from the rate of the sample to that of the population.

    The same leads stay above a cut, unless the cut was stated or follows from costs. Source: C.
    Elkan, "The foundations of cost-sensitive learning", IJCAI 2001, theorem 2.
    """
    cuts, threshold = calibrated.grades, calibrated.threshold
    if options.grades is None:
        cuts = {grade: calibrators.move(cut, added) for grade, cut in cuts.items()}
    if options.policy.kind != "cost":
        threshold = calibrators.move(threshold, added)
    return replace(
        calibrated,
        calibrator=replace(calibrated.calibrator, shift=calibrated.calibrator.shift + added),
        threshold=threshold,
        grades=cuts,
        probability=expit(calibrators.log_odds(calibrated.probability) + added),
    )


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
    champion: Model | None,
    part: TrainingPart,
    newest: FoldResult,
    evaluation: _CalibratedRecipe,
    options: TrainOptions,
) -> dict[str, Any]:
    """Compare the champion with the evaluation model on the newest leads, for the manifest.

    Leaves out rows that the champion may have learned from or cannot score. Rows of a case-control
    sample weigh as in the population.
    """
    if champion is None:
        return {}
    raw, labels, missing, rows, _ = newest.scored
    calibrator = evaluation.calibrator
    if _sampled(options):
        shift = calibrator.shift + _population_shift(options, labels)
        calibrator = replace(calibrator, shift=shift)
    candidate = calibrator.interval(raw, missing)[0]
    scores = champion.score(part.columns, part.as_of)
    learned_until = read_learned_until(champion.manifest)
    fresh = part.as_of[rows] > (-1 if learned_until is None else learned_until)
    fresh &= ~np.isin(rows, list(scores.failed))
    compared_labels = part.labels[rows][fresh]
    rate = options.base_rate
    if options.kept is not None and len(compared_labels):
        rate = options.kept.rate(compared_labels)
    compared = gate.compare(
        champion,
        scores.probability[rows][fresh],
        candidate[fresh],
        compared_labels,
        part.leads[rows][fresh],
        base_rate=rate,
    )
    return {"against": compared}


def _reference(
    calibrated: _CalibratedRecipe, part: TrainingPart, options: TrainOptions
) -> dict[str, Any]:
    """Return the drift reference of the part that a recipe was fitted on."""
    part = _thinned(part, options)
    made = reference(
        calibrated.fitted.features, part.columns, len(part.as_of), calibrated.probability
    )
    return {
        **made,
        "independent_rows": drift.independent(np.unique(part.leads, return_counts=True)[1]),
    }


def _newest_drift(
    before: Mapping[str, Any], evaluation: _CalibratedRecipe, part: TrainingPart
) -> dict[str, Any]:
    """Compare each input of the newest period with the four before, for `models report`."""
    features = evaluation.fitted.features
    rows, *_ = candidates.matrix(features, part)
    worth = drift.independent(np.unique(part.leads, return_counts=True)[1]) / len(part.as_of)
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
        "explain_base": contributions(pack(fitted.model), np.eye(len(selected))).base,
    }


def _manifest(
    artifact: Mapping[str, Any],
    final: _CalibratedRecipe,
    options: TrainOptions,
    labels: NDArray[np.bool_],
) -> dict[str, Any]:
    fitted = final.fitted
    rate = options.base_rate if options.kept is None else options.kept.rate(labels)
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
            "calendar": options.calendar,
            "base_rate": options.base_rate,
            "own_fields": _own_fields(options.specification),
        },
        "libraries": library_versions(),
        "label": {
            "definition": _definition(options.horizon_days, rate),
            "horizon_days": options.horizon_days,
        },
        "features": {
            "specification_hash": specification.specification_hash,
            "specification": json.loads(specification.specification.to_json()),
            "names": artifact["feature_names"],
            "importance": artifact["feature_importance"],
        },
        "calibration": {
            **({"shift": final.calibrator.shift} if final.calibrator.shift else {}),
            **({} if options.base_rate is None else {"base_rate": options.base_rate}),
            "name": final.calibrator.name,
            "method": calibrators.CALIBRATORS[final.calibrator.name].sentence,
            "interval": calibrators.CALIBRATORS["venn_abers"].sentence,
            "points": final.points,
        },
        "threshold": {"value": final.threshold, "policy": options.policy.sentence},
        "grades": {"cuts": final.grades, "policy": final.grade_policy},
        "metrics": artifact["performance"],
        "metrics_of": METRICS_OF + (OF_THE_SAMPLE if _sampled(options) else ""),
    }


def _own_fields(specification: Specification) -> list[list[Any]]:
    """Return the CRM's own fields that training was given, those that it left out included."""
    return [
        [spec.name, spec.kind, float(spec.low), float(spec.high), spec.imputation]
        for spec in specification.inputs
        if "." in spec.name
    ]


def _definition(horizon_days: float | None, base_rate: float | None) -> str:
    population = "" if base_rate is None else f", where {base_rate:.3g} of all leads convert"
    if horizon_days is None:
        return f"converted, as the source of the table says{population}"
    return (
        f"application submitted within {horizon_days:g} days after the moment of prediction"
        f"{population}"
    )


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
