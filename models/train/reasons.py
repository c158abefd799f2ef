"""The table of reasons that an artifact carries, from some of the rows that its trees learned."""

from typing import Any

import numpy as np

from models.serve.explain import contributions
from models.serve.forest import Rows, pack
from models.serve.scorer import fields_of
from models.train.candidates import FittedRecipe, inputs_of_trees, matrix
from models.train.table import TrainingPart

try:
    from models.train.shapley import fit_table
except ImportError:  # the extra `fast` is missing: path contributions take their place
    fit_table = None  # type: ignore[assignment]

MAX_ROWS = 8_000
# Rows times nodes: some ten seconds of one processor.
_MAX_WORK = 600_000_000


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
