"""A fitted recipe with its calibrator, threshold and grades, and its metrics on later leads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from leadstream.errors import UserError
from models import evaluate
from models.serve import calibrators
from models.train import calibrate
from models.train.candidates import FittedRecipe, FoldResult, concat
from models.train.choice import BEST
from models.train.moving import SEASONS
from models.train.options import TrainOptions
from models.train.policies import grades
from models.train.sampling import representative


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedRecipe:
    """A fitted recipe with the calibrator, threshold and grades, set by later leads.

    `points` counts those leads; `probability` (points,) holds what it states for them.
    """

    fitted: FittedRecipe
    calibrator: calibrators.Calibrator
    points: int
    threshold: float
    grades: dict[str, float]
    grade_policy: str
    probability: NDArray[np.float64]


def choose_calibrator(
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


def calibrate_recipe(
    fitted: FittedRecipe,
    name: str,
    folds: Sequence[FoldResult],
    options: TrainOptions,
    *,
    follows: bool,
) -> CalibratedRecipe:
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
    return CalibratedRecipe(fitted, calibrator, len(labels), threshold, cuts, policy, probability)


def move_to_population(
    calibrated: CalibratedRecipe, added: float, options: TrainOptions
) -> CalibratedRecipe:
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


def measure(evaluation: CalibratedRecipe, test: FoldResult) -> dict[str, evaluate.Metrics]:
    """Return the metrics of calibrated, raw and audited probabilities.

    Raises UserError if calibration costs ranking.
    """
    stated = probabilities_of(evaluation, test)
    try:
        calibrate.check_ranking(test.scored.raw, stated["calibrated"], test.scored.labels)
    except UserError as error:
        raise _refused(error) from None
    thresholds = {name: evaluation.threshold if name == "calibrated" else 0.5 for name in stated}
    return {
        name: evaluate.metrics(stated[name], test.scored.labels, thresholds[name])
        for name in stated
    }


def probabilities_of(
    evaluation: CalibratedRecipe, test: FoldResult
) -> dict[str, NDArray[np.float64]]:
    """Return the three probabilities that the manifest compares, each (n,), for a scored fold."""
    raw = test.scored.raw
    calibrated = evaluation.calibrator.interval(raw)[0]
    return {
        "calibrated": calibrated,
        "raw": raw,
        "legacy_sigmoid": evaluate.legacy_sigmoid(raw),
    }


def _refused(why: UserError) -> UserError:
    return UserError(
        f"the calibration was refused: {why}; train on a longer time, or on more leads"
    )
