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

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from models.monitor import drift
from models.monitor.ledger import read_learned_until
from models.monitor.reference import reference
from models.registry import gate
from models.serve.artifact import Trained, golden_rows
from models.serve.scorer import Model
from models.train import candidates, leaks
from models.train.best_input import best_input
from models.train.calibrated_recipe import (
    CalibratedRecipe,
    calibrate_recipe,
    choose_calibrator,
    measure,
    move_to_population,
    probabilities_of,
)
from models.train.candidates import FoldResult, concat
from models.train.choice import PERIODS, Progress, choose_trees
from models.train.curves import curves
from models.train.describe_model import build_artifact, describe_model, golden_inputs
from models.train.evidence import evidence
from models.train.options import TrainOptions, is_sample, population_shift
from models.train.reasons import given_rates, reason_table
from models.train.sampling import representative
from models.train.table import TrainingPart, check_table, describe_rows, periods

__all__ = ["TrainOptions", "train"]


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
    name, sentences, follows = choose_calibrator(folds, options)

    progress(f"evaluating {recipe} on the newest leads", 0.5)
    newest = candidates.fit_fold(
        recipe, cumulative[-2], parts[-1], chosen.specification, options.seed
    )
    evaluation = calibrate_recipe(newest.fitted, name, folds, options, follows=follows)
    performance = measure(evaluation, newest)
    stated = probabilities_of(evaluation, newest)["calibrated"]
    known = evidence([*folds, newest], stated, parts, follows=follows)
    progress(f"fitting {recipe} on all periods", 0.7)
    fitted = candidates.fit(recipe, cumulative[-1], chosen.specification, options.seed)
    final = calibrate_recipe(fitted, name, [*folds, newest], options, follows=follows)
    if is_sample(options):
        added = population_shift(options, concat([*folds, newest]).labels)
        final = move_to_population(final, added, options)

    progress("fitting reasons", 0.85)
    reasons, explained = reason_table(fitted, cumulative[-1])
    progress("writing golden rows", 0.95)
    artifact = build_artifact(final, performance)
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
    manifest = describe_model(artifact, final, options, cumulative[-1].labels) | {
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
        "reasons": explained
        | {"given_rates": given_rates(fitted.features, cumulative[-1], options)},
        "curves": {
            name: curves(stated, newest.scored.labels)
            for name, stated in probabilities_of(evaluation, newest).items()
        },
    }
    unpublished = Model(artifact, {**manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    manifest["golden"] = golden_rows(unpublished, *golden_inputs(cumulative[-1], options.seed))
    progress("done", 1.0)
    return Trained(artifact, manifest)


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


def _against(
    champion: Model | None,
    part: TrainingPart,
    newest: FoldResult,
    evaluation: CalibratedRecipe,
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
    if is_sample(options):
        shift = calibrator.shift + population_shift(options, labels)
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
    calibrated: CalibratedRecipe, part: TrainingPart, options: TrainOptions
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
    before: Mapping[str, Any], evaluation: CalibratedRecipe, part: TrainingPart
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
