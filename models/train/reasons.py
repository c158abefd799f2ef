"""The table of reasons that an artifact carries, and rates of conversion for reasons."""

from typing import Any

import numpy as np

from features import FittedFeatures
from features.spec import CATEGORY
from models.serve.calibrators import move
from models.serve.explain import contributions
from models.serve.forest import Rows, pack
from models.serve.scorer import fields_of
from models.train.candidates import FittedRecipe, inputs_of_trees, matrix
from models.train.options import TrainOptions, is_sample, population_shift
from models.train.table import TrainingPart

try:
    from models.train.shapley import fit_table
except ImportError:  # the extra `fast` is missing: path contributions take their place
    fit_table = None  # type: ignore[assignment]

MAX_ROWS = 8_000
# Rows times nodes: some ten seconds of one processor.
_MAX_WORK = 600_000_000
# A rate of fewer leads says little.
_MIN_LEADS = 50


def reason_table(fitted: FittedRecipe, part: TrainingPart) -> tuple[Rows | None, dict[str, Any]]:
    """Return the table of a recipe that was fitted on this part, and what the manifest says of it.

    The table has a row for each leaf and a column for each field, or is None.
    """
    if fit_table is None:
        return None, {"method": "path"}
    forest, names = pack(fitted.model), fitted.features.specification.outputs
    selected = [names[i] for i in np.flatnonzero(fitted.selector.get_support())]
    _, groups = fields_of(fitted.features.specification, tuple(selected))
    rows = inputs_of_trees(fitted.scaler, fitted.selector, matrix(fitted.features, part)[0])
    count = min(len(rows), MAX_ROWS, max(1, _MAX_WORK // len(forest.value)))
    picked = rows[np.linspace(0, len(rows) - 1, count).astype(np.intp)]
    table = fit_table(forest, picked, groups, contributions(forest, groups).table)
    return table, {"method": "shapley", "rows": count}


def given_rates(
    features: FittedFeatures, part: TrainingPart, options: TrainOptions
) -> dict[str, float]:
    """Return the share of the leads with a value in each input that converted, by input.

    Each lead counts once, whatever the number of its rows. Rates of a sample are moved to the
    population. An input that too few leads have is left out.
    """
    made = features.transform(part.columns, part.as_of)
    alive = np.ones(len(part.as_of), np.bool_)
    alive[list(made.failed)] = False
    added = population_shift(options, part.labels) if is_sample(options) else 0.0
    rates = {}
    for spec in features.specification.inputs[1:]:
        given = (
            ~made.given.blank[spec.name]
            if spec.kind == CATEGORY
            else ~np.isnan(made.given.numbers[spec.name])
        ) & alive
        _, lead, rows = np.unique(part.leads[given], return_inverse=True, return_counts=True)
        if len(rows) >= _MIN_LEADS:
            rate = float(np.average(part.labels[given], weights=1 / rows[lead]))
            rates[spec.name] = move(rate, added) if added else rate
    return rates
