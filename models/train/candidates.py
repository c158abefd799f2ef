"""The recipes that training compares, and the comparison: log loss in periods that follow one another."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # publishes no types

from features import FittedFeatures, Specification
from leadstream.errors import UserError
from models.serve.forest import Forest, pack, pack_boosting
from models.train import calibrate
from models.train.evaluate import Metrics, best_f1_threshold, metrics
from models.train.table import Part

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Ints = NDArray[np.intp]

TREES = 100
DEPTH = 10
SELECTED = 20
BOOSTING = {"max_iter": 150, "learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 30}
# In the order of preference where two lose the same.
RECIPES = {
    "audited": f"RandomForestClassifier(n_estimators={TREES}, max_depth={DEPTH}, class_weight='balanced')",
    "forest": f"RandomForestClassifier(n_estimators={TREES}, max_depth={DEPTH})",
    "boosting": f"HistGradientBoostingClassifier({', '.join(f'{name}={value}' for name, value in BOOSTING.items())})",
}


class Scored(NamedTuple):
    """Raw scores and outcomes of n rows, how many inputs each lacks, and their places in the part; all (n,)."""

    raw: Floats
    labels: Labels
    missing: Ints
    rows: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """One recipe, fitted on one part: features, scaler, selector and model.

    `prior` is the base rate that its scores answer for; `importance` has one number for each selected feature, and they
    add up to 1.
    """

    recipe: str
    features: FittedFeatures
    scaler: StandardScaler
    selector: SelectKBest
    model: RandomForestClassifier | Forest
    prior: float
    importance: Floats

    def scored(self, part: Part) -> Scored:
        """The part's rows that can be scored, scored as a consumer does."""
        X, labels, missing, rows = matrix(self.features, part)
        forest = pack(self.model)
        return Scored(
            forest.probability(forest.leaves(_rows(self.scaler, self.selector, X))),
            labels,
            missing,
            rows,
        )

    @property
    def steps(self) -> list[str]:
        """The recipe in scikit-learn's words."""
        return [
            "StandardScaler",
            f"SelectKBest(f_classif, k={self.selector.k})",
            RECIPES[self.recipe],
        ]


def fit(recipe: str, part: Part, specification: Specification, seed: int) -> Fitted:
    """Fit a recipe on a part: scale, select 20 features by F test (boosting takes all), grow the trees."""
    features = FittedFeatures.fit(part.columns, part.as_of, specification)
    X, labels, _, _ = matrix(features, part)
    y = labels.astype(np.int64)
    scaler = StandardScaler()
    selector = SelectKBest(
        f_classif, k=X.shape[1] if recipe == "boosting" else min(SELECTED, X.shape[1])
    )
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # A feature with one value gets no F value and is chosen last; one without error gets an infinite one.
        warnings.filterwarnings("ignore", "(?s)Features .* are constant", UserWarning)
        selector.fit(scaler.fit_transform(X), y)
    rows = _rows(scaler, selector, X)
    if recipe == "boosting":
        boosting = HistGradientBoostingClassifier(
            **BOOSTING, early_stopping=False, random_state=seed
        )
        with threadpool_limits(
            1, "openmp"
        ):  # rows are added up in an order that depends on the number of threads
            boosting.fit(rows.astype(np.float64), y)
        model, importance = pack_boosting(boosting), _gains(boosting, rows.shape[1])
    else:
        weight = "balanced" if recipe == "audited" else None
        model = RandomForestClassifier(
            n_estimators=TREES, max_depth=DEPTH, class_weight=weight, random_state=seed, n_jobs=-1
        ).fit(rows, y)
        # Trees are grown alike in any number of threads, but added up in a fixed order only in one.
        model.set_params(n_jobs=1)
        importance = model.feature_importances_
    prior = 0.5 if recipe == "audited" else float(labels.mean())
    return Fitted(recipe, features, scaler, selector, model, prior, importance)


def matrix(features: FittedFeatures, part: Part) -> tuple[Floats, Labels, Ints, Ints]:
    """Features (n, k), outcomes, numbers of missing inputs and places of the part's rows that can be scored: (n,)."""
    made = features.transform(part.columns, part.as_of)
    usable = np.logical_and.reduce(np.abs(made.values) <= np.finfo(np.float32).max, axis=1)
    usable[list(made.failed)] = False
    labels = part.labels[usable]
    if not labels.any() or labels.all():
        raise UserError(
            f"of {len(usable)} rows only {len(labels)} have a created_at and numbers that can be used, "
            "and those do not hold both outcomes"
        )
    return made.values[usable], labels, made.missing[usable], np.flatnonzero(usable)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A recipe fitted on the periods before one, and the leads of that one by it."""

    fitted: Fitted
    scored: Scored


def step(recipe: str, before: Part, period: Part, specification: Specification, seed: int) -> Step:
    """Fit a recipe on what came before a period, and score that period."""
    fitted = fit(recipe, before, specification, seed)
    return Step(fitted, fitted.scored(period))


def together(steps: Sequence[Step]) -> Scored:
    """The leads of some steps, in the order of time."""
    return Scored(*map(np.concatenate, zip(*(one.scored for one in steps), strict=True)))


def folds(steps: Sequence[Step]) -> list[Metrics]:
    """The metrics of each step but the first, its scores made probabilities by a sigmoid that the steps before fitted.

    So a recipe is judged by what it knows and not by the base rate that it answers for. A step where no sigmoid can be
    fitted is left out.
    """
    found = []
    for i, one in enumerate(steps[1:], start=1):
        raw, labels, *_ = together(steps[:i])
        try:
            calibrator = calibrate.fit("sigmoid", raw, labels, steps[0].fitted.prior)
        except UserError:
            continue
        threshold = best_f1_threshold(calibrator.interval(raw)[0], labels)
        found.append(metrics(calibrator.interval(one.scored.raw)[0], one.scored.labels, threshold))
    return found


def best(found: dict[str, list[Metrics]]) -> str:
    """The recipe that loses least in log loss, as the mean of the folds; the first where no fold could be judged."""
    judged = {
        recipe: loss
        for recipe, results in found.items()
        if (loss := mean_log_loss(results)) is not None
    }
    return min(judged, key=lambda recipe: judged[recipe]) if judged else next(iter(found))


def mean_log_loss(folds: Sequence[Metrics]) -> float | None:
    """The mean log loss of the folds, None without one."""
    return float(np.mean([fold["log_loss"] for fold in folds])) if folds else None


def _rows(scaler: StandardScaler, selector: SelectKBest, X: Floats) -> NDArray[np.float32]:
    """The forest's inputs (n, selected) as `scorer.Model` makes them."""
    selected = np.flatnonzero(selector.get_support())
    scaled: Any = (X[:, selected] - scaler.mean_[selected]) / scaler.scale_[selected]
    rows: NDArray[np.float32] = scaled.astype(np.float32)
    return rows


def _gains(model: HistGradientBoostingClassifier, k: int) -> Floats:
    """What the splits on each feature gained, as a share of all gains: (k,)."""
    gains = np.zeros(k)
    for stage in model._predictors:
        inner = stage[0].nodes[stage[0].nodes["is_leaf"] == 0]
        np.add.at(gains, inner["feature_idx"], inner["gain"])
    shares: Floats = gains / gains.sum() if gains.sum() > 0 else gains
    return shares
