"""The drift reference: how the training rows were distributed, in fixed bins."""

from typing import Any

import numpy as np

from features import Columns, FittedFeatures
from features.columns import FIRST, MISSING, UNKNOWN, Floats, as_codes, as_numbers, column
from features.spec import CATEGORY, NUMBER

BINS = 10
SCORE_BINS = 10


def reference(
    features: FittedFeatures, columns: Columns, n: int, probability: Floats
) -> dict[str, Any]:
    """Return, for every input, its bins with their shares of n training rows, and the rest.

    The bins of a number are (..., edge 1], (edge 1, edge 2], ..., (last edge, ...), by tenths of
    training. Those of a category are its values, the most frequent first. The rest is missing and,
    for a category, `unseen`: values that the model does not know. `probability` (m,), of the newest
    leads, is kept in ten equal bins. All shares of an input add up to 1.
    """
    inputs: dict[str, Any] = {}
    for spec in features.specification.inputs_of_kind(NUMBER):
        values = as_numbers(column(columns, spec.name, n))
        known = values[(values >= spec.low) & (values <= spec.high)]
        edges = (
            np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="lower"))
            if len(known)
            else np.empty(0)
        )
        counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
        inputs[spec.name] = {
            "kind": NUMBER,
            "edges": edges.tolist(),
            "shares": (counts / n).tolist(),
            "missing": 1 - len(known) / n,
        }
    for spec in features.specification.inputs_of_kind(CATEGORY):
        vocabulary = features.vocabularies[spec.name]
        codes = as_codes(column(columns, spec.name, n), vocabulary).astype(np.intp)
        shares = (np.bincount(codes, minlength=FIRST + len(vocabulary)) / n).tolist()
        inputs[spec.name] = {
            "kind": CATEGORY,
            "values": list(vocabulary),
            "shares": shares[FIRST:],
            "missing": shares[MISSING],
            "unseen": shares[UNKNOWN],
        }
    bins = np.minimum((probability * SCORE_BINS).astype(np.intp), SCORE_BINS - 1)
    scores = np.bincount(bins, minlength=SCORE_BINS) / len(probability)
    return {
        "inputs": inputs,
        "rows": n,
        "probability": {"shares": scores.tolist(), "rows": len(probability)},
    }
