"""Recipes that training compares, and their comparison by log loss in successive periods.

To add a recipe, write its function and its `Recipe` here, and add it to RECIPES. The choices of
`leadstream train --recipe` follow by hand; a test compares them.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # publishes no types

from features import FittedFeatures, Specification
from leadstream.errors import UserError
from models.evaluate import Metrics, best_f1_threshold, log_losses, metrics
from models.monitor.recent_calibration import shift
from models.serve import calibrators
from models.serve.forest import Forest, pack, pack_boosting
from models.train.calibrate import level_to_follow
from models.train.table import TrainingPart

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Ints = NDArray[np.intp]

TREES = 100
DEPTH = 10
# A tree of so few leaves learns nothing more from further rows; each tree draws its own.
TREE_ROWS = 100_000
SELECTED = 20
BOOSTING = {"max_iter": 150, "learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 30}
# Trees of one split add up inputs and see no interactions, so they hold on few leads and weak ones.
ADDITIVE = {"max_iter": 100, "learning_rate": 0.05, "max_leaf_nodes": 2, "min_samples_leaf": 30}

FittedTrees = tuple[RandomForestClassifier | Forest, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """One way to train trees.

    - `name`: the name in options and manifests.
    - `model_name`: the records' `model_used`.
    - `step`: the estimator in scikit-learn's words.
    - `fit`: (inputs (n, k) in float32, outcomes (n,), seed) -> (trees, importance (k,)).
    - `max_features`: how many features the F test selects; None takes all.
    - `balanced`: whether the scores assume a base rate of one half.
    """

    name: str
    model_name: str
    step: str
    fit: Callable[[NDArray[np.float32], NDArray[np.int64], int], FittedTrees]
    max_features: int | None = SELECTED
    balanced: bool = False


class ScoredRows(NamedTuple):
    """Raw scores and outcomes of n rows, the counts of missing inputs, row indices, and leads.

    All are (n,).
    """

    raw: Floats
    labels: Labels
    missing: Ints
    rows: Ints
    leads: Ints


@dataclass(frozen=True, slots=True, eq=False)
class FittedRecipe:
    """A recipe fitted on one part: features, scaler, selector and trees.

    `prior` is the base rate that the scores assume. `importance` has one number for each selected
    feature, and the numbers add up to 1.
    """

    recipe: Recipe
    features: FittedFeatures
    scaler: StandardScaler
    selector: SelectKBest
    model: RandomForestClassifier | Forest
    prior: float
    importance: Floats

    def score(self, part: TrainingPart) -> ScoredRows:
        """Score the rows of a part that can be scored, as a consumer does."""
        X, labels, missing, rows = matrix(self.features, part)
        forest = pack(self.model)
        return ScoredRows(
            forest.probability(forest.leaves(inputs_of_trees(self.scaler, self.selector, X))),
            labels,
            missing,
            rows,
            part.leads[rows],
        )

    @property
    def steps(self) -> list[str]:
        """Return the recipe in scikit-learn's words."""
        return [
            "StandardScaler",
            f"SelectKBest(f_classif, k={self.selector.k})",
            self.recipe.step,
        ]


def fit(recipe: str, part: TrainingPart, specification: Specification, seed: int) -> FittedRecipe:
    """Fit a recipe on a part: scale, select features by F test, fit the trees."""
    chosen = RECIPES[recipe]
    features = FittedFeatures.fit(part.columns, part.as_of, specification)
    X, labels, _, _ = matrix(features, part)
    y = labels.astype(np.int64)
    scaler = StandardScaler()
    selector = SelectKBest(f_classif, k=min(chosen.max_features or X.shape[1], X.shape[1]))
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # A constant feature gets no F value and is chosen last; a perfect one gets infinity.
        warnings.filterwarnings("ignore", "(?s)Features .* are constant", UserWarning)
        selector.fit(scaler.fit_transform(X), y)
    model, importance = chosen.fit(inputs_of_trees(scaler, selector, X), y, seed)
    prior = 0.5 if chosen.balanced else float(labels.mean())
    return FittedRecipe(chosen, features, scaler, selector, model, prior, importance)


def matrix(features: FittedFeatures, part: TrainingPart) -> tuple[Floats, Labels, Ints, Ints]:
    """Return the rows of a part that can be scored.

    The result is (features (n, k), outcomes (n,), counts of missing inputs (n,), row indices (n,)).
    Raises UserError if the rows do not hold both outcomes.
    """
    made = features.transform(part.columns, part.as_of)
    usable = np.logical_and.reduce(np.abs(made.values) <= np.finfo(np.float32).max, axis=1)
    usable[list(made.failed)] = False
    labels = part.labels[usable]
    if not labels.any() or labels.all():
        raise UserError(
            f"of {len(usable)} rows only {len(labels)} have a created_at and numbers that can be "
            "used, and those do not hold both outcomes"
        )
    return made.values[usable], labels, made.missing[usable], np.flatnonzero(usable)


@dataclass(frozen=True, slots=True, eq=False)
class FoldResult:
    """A recipe fitted on the periods before one, and the scored leads of that period."""

    fitted: FittedRecipe
    scored: ScoredRows


def fit_fold(
    recipe: str, before: TrainingPart, period: TrainingPart, specification: Specification, seed: int
) -> FoldResult:
    """Fit a recipe on the rows before a period, and score that period."""
    fitted = fit(recipe, before, specification, seed)
    return FoldResult(fitted, fitted.score(period))


def concat(results: Sequence[FoldResult]) -> ScoredRows:
    """Return the out-of-fold scores of some folds, in time order."""
    return ScoredRows(*map(np.concatenate, zip(*(one.scored for one in results), strict=True)))


def fold_metrics(results: Sequence[FoldResult]) -> list[Metrics]:
    """Return the metrics of each fold but the first.

    A sigmoid that was fitted on the folds before makes the probabilities. So the metrics show what
    a recipe knows, not the base rate that it assumes. A fold without a fitted sigmoid is left out.
    """
    found = []
    for i, one in enumerate(results[1:], start=1):
        raw, labels, *_ = concat(results[:i])
        try:
            calibrator = calibrators.fit("sigmoid", raw, labels, results[0].fitted.prior)
        except UserError:
            continue
        threshold = best_f1_threshold(calibrator.interval(raw)[0], labels)
        probability, outcomes = calibrator.interval(one.scored.raw)[0], one.scored.labels
        own_rate = float(losses_at_own_rate(probability, outcomes).mean())
        found.append(metrics(probability, outcomes, threshold) | {"log_loss_at_own_rate": own_rate})
    return found


def stated(results: Sequence[FoldResult], i: int, *, follows: bool = False) -> Floats:
    """Return the probabilities of fold i (n,), by a sigmoid that was fitted on the folds before.

    Trees that ranked those leads the wrong way round state their rate. One that `follows` has the
    level of the fold before.
    """
    raw, labels, *_ = concat(results[:i])
    scores = results[i].scored.raw
    try:
        calibrator = calibrators.fit("sigmoid", raw, labels, results[0].fitted.prior)
    except UserError:
        return np.full(len(scores), labels.mean())
    if follows:
        newest = results[i - 1].scored
        added = level_to_follow(calibrator, newest.raw, newest.labels, newest.leads)
        calibrator = replace(calibrator, shift=added)
    return calibrator.interval(scores)[0]


def losses_at_own_rate(probability: Floats, labels: Labels) -> Floats:
    """Return log losses (n,) of probabilities that are moved to the rate of their outcomes.

    They show what trees know apart from the base rate. A base rate that moves would otherwise
    favor trees that tell the period from the calendar.
    """
    moved = expit(calibrators.log_odds(probability) + shift(probability, labels))
    return log_losses(moved, labels)


def best(found: dict[str, list[Metrics]]) -> str:
    """Return the recipe with the lowest mean log loss over its folds; the first if none has one."""
    losses = {
        recipe: loss
        for recipe, results in found.items()
        if (loss := mean_log_loss(results)) is not None
    }
    return min(losses, key=lambda recipe: losses[recipe]) if losses else next(iter(found))


def mean_log_loss(folds: Sequence[Metrics]) -> float | None:
    """Return the mean of `losses_at_own_rate` over the folds, in nats; None without a fold."""
    return float(np.mean([fold["log_loss_at_own_rate"] for fold in folds])) if folds else None


def inputs_of_trees(
    scaler: StandardScaler, selector: SelectKBest, X: Floats
) -> NDArray[np.float32]:
    """Return the inputs of the trees (n, selected) as `scorer.Model` makes them."""
    selected = np.flatnonzero(selector.get_support())
    scaled: Any = (X[:, selected] - scaler.mean_[selected]) / scaler.scale_[selected]
    rows: NDArray[np.float32] = scaled.astype(np.float32)
    return rows


def _fit_forest(
    rows: NDArray[np.float32], y: NDArray[np.int64], seed: int, weight: str | None = None
) -> FittedTrees:
    model = RandomForestClassifier(
        n_estimators=TREES,
        max_depth=DEPTH,
        max_samples=TREE_ROWS if len(y) > TREE_ROWS else None,
        class_weight=weight,
        random_state=seed,
        n_jobs=-1,
    ).fit(rows, y)
    # The trees do not depend on the number of threads, but the order of their sum does.
    model.set_params(n_jobs=1)
    return model, model.feature_importances_


def _fit_balanced_forest(rows: NDArray[np.float32], y: NDArray[np.int64], seed: int) -> FittedTrees:
    return _fit_forest(rows, y, seed, "balanced")


def _fit_boosting(
    rows: NDArray[np.float32],
    y: NDArray[np.int64],
    seed: int,
    options: Mapping[str, Any] = BOOSTING,
) -> FittedTrees:
    boosting = HistGradientBoostingClassifier(**options, early_stopping=False, random_state=seed)
    # The order in which rows are added up depends on the number of threads.
    with threadpool_limits(1, "openmp"):
        boosting.fit(rows.astype(np.float64), y)
    return pack_boosting(boosting), _gains(boosting, rows.shape[1])


def _fit_additive(rows: NDArray[np.float32], y: NDArray[np.int64], seed: int) -> FittedTrees:
    return _fit_boosting(rows, y, seed, ADDITIVE)


def _gains(model: HistGradientBoostingClassifier, k: int) -> Floats:
    """Return the gain of the splits on each feature, as a share of all gains: (k,)."""
    gains = np.zeros(k)
    for stage in model._predictors:
        inner = stage[0].nodes[stage[0].nodes["is_leaf"] == 0]
        np.add.at(gains, inner["feature_idx"], inner["gain"])
    shares: Floats = gains / gains.sum() if gains.sum() > 0 else gains
    return shares


_FOREST = f"RandomForestClassifier(n_estimators={TREES}, max_depth={DEPTH}"
_BOOSTING, _ADDITIVE = (
    ", ".join(f"{name}={value}" for name, value in each.items()) for each in (BOOSTING, ADDITIVE)
)
# Of two recipes that lose the same, `best` takes the first.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "audited",
            "random_forest",
            f"{_FOREST}, class_weight='balanced')",
            _fit_balanced_forest,
            balanced=True,
        ),
        Recipe("forest", "random_forest", f"{_FOREST})", _fit_forest),
        Recipe(
            "boosting",
            "gradient_boosting",
            f"HistGradientBoostingClassifier({_BOOSTING})",
            _fit_boosting,
            max_features=None,
        ),
        Recipe(
            "additive",
            "gradient_boosting",
            f"HistGradientBoostingClassifier({_ADDITIVE})",
            _fit_additive,
            max_features=None,
        ),
    )
}
