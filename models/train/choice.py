"""The choice of recipe and inputs: what loses least in time-ordered folds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from features import Specification
from models.train import candidates
from models.train.candidates import RECIPES, FoldResult
from models.train.moving import ERRORS, decide, find_moving, gain_of
from models.train.table import TrainingPart

Progress = Callable[[str, float], None]

PERIODS = 5
FOLDS_OF = (
    "the third and fourth of five periods, by trees and a sigmoid that were fitted on those before"
)
BEST = "best"
QUICKEST = "additive"


class ChoiceOptions(Protocol):
    """The options of a training that the choice needs; see `TrainOptions`."""

    @property
    def seed(self) -> int:
        """The seed of the trees."""

    @property
    def specification(self) -> Specification:
        """All inputs to choose from."""

    @property
    def recipe(self) -> str:
        """A name or "best"."""

    @property
    def calendar(self) -> bool:
        """Return whether the calendar may be chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class ChosenTrees:
    """The recipe and the inputs that time-ordered folds chose, their folds, and the figures.

    `candidates` and `inputs` are parts of the manifest.
    """

    recipe: str
    specification: Specification
    folds: list[FoldResult]
    candidates: dict[str, Any]
    inputs: dict[str, Any]


def choose_trees(
    parts: list[TrainingPart],
    cumulative: list[TrainingPart],
    options: ChoiceOptions,
    progress: Progress,
) -> ChosenTrees:
    """Choose the moving inputs that the quickest recipe gains by, and then the recipe.

    Another recipe must gain on the quickest, which is also the simplest, beyond chance.
    """
    moving = find_moving(
        cumulative[-2], parts[-1], options.specification, calendar=options.calendar
    )

    def fit(recipe: str, specification: Specification) -> list[FoldResult]:
        return _folds(recipe, parts, cumulative, specification, options.seed)

    progress("comparing inputs", 0.05)
    specification, groups, simplest = decide(
        lambda tried: fit(QUICKEST, tried), options.specification, moving, parts
    )
    names = list(RECIPES) if options.recipe == BEST else [options.recipe]
    folds: dict[str, list[FoldResult]] = {}
    for done, name in enumerate(names):
        progress(f"comparing recipes: {name}", 0.1 + 0.4 * done / len(names))
        known = simplest if name == QUICKEST else None
        folds[name] = known or fit(name, specification)
    compared = {name: candidates.fold_metrics(results) for name, results in folds.items()}
    recipe = candidates.best(compared)
    if recipe != QUICKEST and QUICKEST in folds:
        gain, error = gain_of(folds[QUICKEST], folds[recipe], parts)
        recipe = recipe if gain > ERRORS * error else QUICKEST
    losses = {name: candidates.mean_log_loss(found) for name, found in compared.items()}
    return ChosenTrees(
        recipe,
        specification,
        folds[recipe],
        {"proposed": recipe, "folds_of": FOLDS_OF, "log_loss": losses, "folds": compared},
        {"left_out": dict(moving.left_out), "groups": groups},
    )


def _folds(
    recipe: str,
    parts: list[TrainingPart],
    cumulative: list[TrainingPart],
    specification: Specification,
    seed: int,
) -> list[FoldResult]:
    """Return the scored second to fourth of five periods."""
    return [
        candidates.fit_fold(recipe, cumulative[i - 1], parts[i], specification, seed)
        for i in range(1, PERIODS - 1)
    ]
