"""From a table of lead states with outcomes to a model that can be published.

The rows are cut in time into five periods. A recipe is fitted on the first, scores the second; is fitted on the first
two, scores the third; and so on. These scores are what the calibration is fitted on: every one of them comes from trees
that had seen only older leads. Judged: trees of the first four periods, calibrated on the scores of the second to the
fourth, metrics from the fifth, which nothing was fitted on or chosen by. Used: the same moved on by one period, trees
of all five, calibrated on the scores of the second to the fifth. So the model that serves has learnt from the newest
leads, its metrics are those of the same recipe one period earlier, and the manifest says so.
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
from models.monitor import drift
from models.registry import gate
from models.serve.artifact import MANIFEST_VERSION, golden_rows, library_versions
from models.serve.decide import Policy, grades
from models.serve.explain import contributions
from models.serve.forest import pack
from models.serve.scorer import Model
from models.train import calibrate, candidates, evaluate, leaks
from models.train.candidates import RECIPES, Fitted, Step, together
from models.train.curves import curves
from models.train.reference import reference
from models.train.table import Part, checked, facts_of, iso, periods

Progress = Callable[[str, float], None]

NAMES = {"audited": "random_forest", "forest": "random_forest", "boosting": "gradient_boosting"}
PERIODS = 5
METRICS_OF = (
    "the same recipe one period earlier: fitted and calibrated on the part that `judged` shows as train, metrics from "
    "its test part; the model itself was then fitted on the part that `used` shows"
)
FOLDS_OF = (
    "the third and fourth of five periods, by trees and a sigmoid that were fitted on those before"
)
BEST = "best"
_GOLDEN_ROWS = 8


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What a training run may be told.

    `horizon_days`, how long a lead had to convert, or None where the labels come without one, and `created_at` (ms UTC)
    are only written down: the labels are in the table. `origins` says for an input which column it was read from,
    `allow_leaks` names inputs that are used although they seem to leak. `recipe` and `calibrator` are names or "best";
    `grades` states the cuts of A, B and C, else they go by shares of leads.
    """

    horizon_days: float | None = 60
    seed: int = 0
    specification: Specification = field(default_factory=specify)
    least_leads: int = 1_000
    least_conversions: int = 120
    origins: Mapping[str, str] = field(default_factory=dict)
    allow_leaks: tuple[str, ...] = ()
    recipe: str = BEST
    calibrator: str = BEST
    policy: Policy = field(default_factory=Policy)
    grades: Mapping[str, float] | None = None
    created_at: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """An artifact dictionary and its manifest, which lacks only what publishing adds: version, size and sha256."""

    artifact: dict[str, Any]
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Decided:
    """A fitted recipe with all that a later part decided: calibration, threshold and grades."""

    fitted: Fitted
    calibrator: calibrate.Calibrator
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
    """Train on rows of (lead_id, as_of in ms UTC, LeadState fields, converted); the same table gives the same artifact.

    `progress` is told each stage and the share of the work done before it. With a `champion` the manifest says how that
    one does on the newest leads (`against`), which the gate asks for. Raises UserError where the table is too
    small or lacks a class in some part, where an input seems to leak the outcome, and where the calibration inverts the
    ranking or costs more than 0.01 of ROC-AUC.
    """
    options = options or TrainOptions()
    progress("looking for leaks", 0.0)
    table = checked(table, options.least_leads, options.least_conversions)
    found = leaks.audit(table, options.specification, options.origins)
    leaks.refuse(found, options.allow_leaks, options.specification)
    cut, grown = periods(table, PERIODS)

    chains: dict[str, list[Step]] = {}
    names = list(RECIPES) if options.recipe == BEST else [options.recipe]
    for done, name in enumerate(names):
        progress(f"comparing recipes: {name}", 0.05 + 0.45 * done / len(names))
        chains[name] = [_step(name, cut, grown, i, options) for i in range(1, PERIODS - 1)]
    compared = {name: candidates.folds(chain) for name, chain in chains.items()}
    recipe = candidates.best(compared)
    chain = chains[recipe]
    name, said = _calibrator(chain, options)

    progress(f"judging {recipe} on the newest leads", 0.5)
    judged = _step(recipe, cut, grown, PERIODS - 1, options)
    judge = _decide(judged.fitted, name, chain, options)
    performance = _performance(judge, judged)
    progress(f"growing {recipe} on all periods", 0.7)
    fitted = candidates.fit(recipe, grown[-1], options.specification, options.seed)
    decided = _decide(fitted, name, [*chain, judged], options)

    progress("writing golden rows", 0.95)
    artifact = _artifact(decided, performance)
    drift_part = {
        **_reference(decided, grown[-1]),
        "newest": _newest(_reference(judge, grown[-2]), judge, cut[-1]),
    }
    manifest = _manifest(artifact, decided, options) | {
        "data": {
            **facts_of(table),
            "judged": {"train": grown[-2].facts, "test": cut[-1].facts},
            "used": {"train": grown[-1].facts},
            "periods": [part.facts for part in cut],
        },
        "candidates": {
            "proposed": recipe,
            "folds_of": FOLDS_OF,
            "log_loss": {
                name: candidates.mean_log_loss(results) for name, results in compared.items()
            },
            "folds": compared,
        },
        "calibrators": said,
        **({"against": _against(champion, cut[-1], judged, judge)} if champion else {}),
        "leaks": {"found": found, "allowed": sorted(set(found) & set(options.allow_leaks))},
        "drift": drift_part,
        "curves": {
            name: curves(stated, judged.scored.labels)
            for name, stated in _stated(judge, judged).items()
        },
    }
    unpublished = Model(artifact, {**manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    manifest["golden"] = golden_rows(unpublished, *_golden_inputs(grown[-1], options.seed))
    progress("done", 1.0)
    return Trained(artifact, manifest)


def _step(recipe: str, cut: list[Part], grown: list[Part], i: int, options: TrainOptions) -> Step:
    return candidates.step(recipe, grown[i - 1], cut[i], options.specification, options.seed)


def _calibrator(chain: Sequence[Step], options: TrainOptions) -> tuple[str, dict[str, str]]:
    """The calibrator to use and what was said of each that was tried: fitted on the chain but its last step."""
    if options.calibrator != BEST:
        return options.calibrator, {options.calibrator: "as told"}
    try:
        return calibrate.choose(
            together(chain[:-1])[:2], chain[-1].scored[:2], chain[0].fitted.prior
        )
    except UserError as error:
        raise _refused(error) from None


def _decide(fitted: Fitted, name: str, chain: Sequence[Step], options: TrainOptions) -> _Decided:
    """Calibration, threshold and grades for a fitted recipe, from the scores of its chain."""
    raw, labels, missing, _ = together(chain)
    try:
        calibrator = calibrate.fit(name, raw, labels, fitted.prior, missing)
    except UserError as error:
        raise _refused(error) from None
    probability = calibrator.interval(raw)[0]
    cuts, policy = grades(probability, options.grades)
    threshold = options.policy.threshold(probability, labels)
    return _Decided(fitted, calibrator, len(labels), threshold, cuts, policy, probability)


def _performance(judge: _Decided, test: Step) -> dict[str, evaluate.Metrics]:
    """The metrics of calibrated, raw and audited probabilities; UserError if calibrating costs ranking."""
    stated = _stated(judge, test)
    try:
        calibrate.keeps_ranking(test.scored.raw, stated["calibrated"], test.scored.labels)
    except UserError as error:
        raise _refused(error) from None
    thresholds = {name: judge.threshold if name == "calibrated" else 0.5 for name in stated}
    return {
        name: evaluate.metrics(stated[name], test.scored.labels, thresholds[name])
        for name in stated
    }


def _stated(judge: _Decided, test: Step) -> dict[str, NDArray[np.float64]]:
    """The three probabilities that the manifest compares, each (n,), of the leads of a step."""
    raw = test.scored.raw
    calibrated = judge.calibrator.interval(raw)[0]
    return {"calibrated": calibrated, "raw": raw, "legacy_sigmoid": evaluate.legacy_sigmoid(raw)}


def _against(champion: Model, part: Part, judged: Step, judge: _Decided) -> dict[str, Any]:
    raw, _, missing, rows = judged.scored
    return gate.against(champion, part, rows, judge.calibrator.interval(raw, missing)[0])


def _reference(decided: _Decided, part: Part) -> dict[str, Any]:
    """The drift reference of the part that a recipe was fitted on."""
    made = reference(decided.fitted.features, part.columns, len(part.as_of), decided.probability)
    return {**made, "independent_rows": drift.independent(np.bincount(part.leads))}


def _newest(before: Mapping[str, Any], judge: _Decided, part: Part) -> dict[str, Any]:
    """Each input of the newest period against the four before: index and shares, for `models report`."""
    rows, *_ = candidates.matrix(judge.fitted.features, part)
    names = judge.fitted.features.specification.outputs
    worth = drift.independent(np.bincount(part.leads)) / len(part.as_of)
    found = drift.Reference(before, names).inputs_of(rows, np.full(len(rows), worth))
    return {
        name: {"psi": one.psi, "missing": one.missing, "unseen": one.unseen}
        for name, one in found.items()
    }


def _refused(why: UserError) -> UserError:
    return UserError(
        f"the calibration was refused: {why}; train on a longer time, or on more leads"
    )


def _artifact(decided: _Decided, performance: dict[str, evaluate.Metrics]) -> dict[str, Any]:
    """The dictionary that is pickled: the audited keys first, then what was missing."""
    fitted = decided.fitted
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
        "calibrator": decided.calibrator,
        "threshold": decided.threshold,
        "grades": decided.grades,
        "explain_base": contributions(pack(fitted.model), len(selected)).base,
    }


def _manifest(
    artifact: Mapping[str, Any], decided: _Decided, options: TrainOptions
) -> dict[str, Any]:
    fitted = decided.fitted
    specification: FittedFeatures = fitted.features
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": NAMES[fitted.recipe],
        "created_at": iso(options.created_at),
        "recipe": {"name": fitted.recipe, "steps": fitted.steps, "seed": options.seed},
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
            "name": decided.calibrator.name,
            "method": calibrate.CALIBRATORS[decided.calibrator.name],
            "interval": calibrate.CALIBRATORS["venn_abers"],
            "points": decided.points,
        },
        "threshold": {"value": decided.threshold, "policy": options.policy.sentence},
        "grades": {"cuts": decided.grades, "policy": decided.grade_policy},
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
