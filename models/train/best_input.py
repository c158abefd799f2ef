"""The best input alone, next to the model: a model that ranks worse than one column says so."""

from typing import Any

from sklearn.metrics import roc_auc_score

from features import Specification
from features.spec import MOMENT
from models.evaluate import auc_loss
from models.train.candidates import FoldResult
from models.train.leaks import bin_input, rate_of
from models.train.table import TrainingPart

ERRORS = 2.0  # standard errors by which an input must rank better than the model


def best_input(
    before: TrainingPart, newest: TrainingPart, scored: FoldResult, specification: Specification
) -> dict[str, Any]:
    """Return the input that alone ranks the newest leads best, for the manifest.

    An input ranks by the rates of its values in the periods `before`. `scored` are the `newest`
    rows by the model. `better` tells whether it beats the model by more than ERRORS standard
    errors. The choice among the inputs favors them a little: one of many is best by chance.
    """
    rows, labels = scored.scored.rows, scored.scored.labels
    found: dict[str, Any] = {}
    n = len(before.as_of)
    columns = {name: [*before.columns[name], *newest.columns[name]] for name in before.columns}
    for spec in specification.inputs:
        if spec.kind == MOMENT:
            continue
        one = bin_input(spec, columns, n + len(newest.as_of))
        rates = rate_of(one.codes[:n], before.labels, len(one.cells))[one.codes[n:]][rows]
        auc = float(roc_auc_score(labels, rates))
        if not found or auc > found["roc_auc"]:
            lost, error = auc_loss(rates, scored.scored.raw, labels)
            found = {"name": spec.name, "roc_auc": auc, "better": bool(lost > ERRORS * error)}
    return found
