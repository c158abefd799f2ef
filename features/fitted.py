"""Lead states to a feature matrix, with everything that training learned in one object.

Every step works on full columns and treats each row by itself, so a lead's row has the same bits
in any batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.calendar import DAY, Calendar, build_calendar, calendar_fields
from features.columns import (
    MISSING,
    UNKNOWN,
    Columns,
    Floats,
    as_codes,
    as_numbers,
    column,
    fit_vocabulary,
)
from features.definitions import BY_NAME, FeatureInputs
from features.distribution import Distribution, fit_distribution, is_unusual, percentile
from features.spec import CATEGORY, LAST_MOMENT, MEDIAN, NUMBER, FeatureSpec, Specification
from leadstream.dictionary import DictionaryColumn
from leadstream.errors import UserError

Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]
Moments = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class GivenInputs:
    """The values that n leads have in each input, by name.

    - `created_at` (n,): ms UTC; 0 in a row that failed. `days` (n,): the age.
    - `numbers`: (n,) each, NaN where a lead has no valid number.
    - `percentiles`: (n,) each, where the number or its imputation stands in training; not all.
    - `categories`: the values of each category. A `blank` row has no text there.
    """

    created_at: Moments
    days: Floats
    numbers: Mapping[str, Floats]
    percentiles: Mapping[str, Floats]
    categories: Mapping[str, Sequence[Any]]
    blank: Mapping[str, Flags]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMatrix:
    """The features of n leads.

    `values` is float64 (n, k), finite, with one column for each of `names`. `coverage` (n,) is the
    share of the specification's inputs that were present and valid; `missing` (n,) is the number
    of the others. `imputed` (n,) holds the names of a row's numbers that were imputed, as a tuple.
    `unusual` (n,) is the share of the present inputs outside of what training saw.
    `failed` maps a row to one sentence; that row holds zeros and must not be used. `given` is what
    the leads have.
    """

    values: Floats
    names: tuple[str, ...]
    coverage: Floats
    missing: Ints
    imputed: DictionaryColumn
    unusual: Floats
    failed: dict[int, str]
    given: GivenInputs


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The columns as arrays; moments and numbers of rows or fields that are not valid are 0."""

    created_at: Moments
    days: Floats
    alive: Flags
    numbers: dict[str, Floats]
    valid: dict[str, Flags]
    failed: dict[int, str]


@dataclass(frozen=True, slots=True, eq=False)
class FittedFeatures:
    """The features as training fitted them, as basic data that can be pickled.

    `distributions` is by number (and `days_since_creation`), `vocabularies` by category.
    `specification_hash` is the hash at training: if `specification.hash` differs, this code
    computes something else than the model learned from.
    """

    specification: Specification
    specification_hash: str
    calendar: Calendar
    distributions: dict[str, Distribution]
    vocabularies: dict[str, dict[str, int]]

    @classmethod
    def fit(
        cls, columns: Columns, as_of: Moments, specification: Specification
    ) -> "FittedFeatures":
        """Learn from the columns of n training rows, each as of the moment `as_of` (n,), ms UTC.

        Rows that fail are left out. Raises UserError if no row is left.
        """
        inputs = _read(columns, as_of, specification)
        if not inputs.alive.any():
            raise UserError(
                "there is nothing to fit the features on: no row has a valid created_at"
            )
        distributions = {"days_since_creation": fit_distribution(inputs.days[inputs.alive], 0.0)}
        for spec in specification.inputs_of_kind(NUMBER):
            known = inputs.numbers[spec.name][inputs.valid[spec.name] & inputs.alive]
            fallback = float(np.clip(0.0, spec.low, spec.high))
            distributions[spec.name] = fit_distribution(known, fallback)
        alive = inputs.alive.tolist()
        vocabularies = {
            spec.name: fit_vocabulary(
                tuple(compress(column(columns, spec.name, len(alive)), alive))
            )
            for spec in specification.inputs_of_kind(CATEGORY)
        }
        return cls(
            specification,
            specification.hash,
            build_calendar(specification.calendar),
            distributions,
            vocabularies,
        )

    def transform(self, columns: Columns, as_of: Moments) -> FeatureMatrix:
        """Compute the features of n leads as of the moments `as_of` (n,), ms UTC.

        A lead's row does not depend on the others. Raises ValueError if a column is not as long as
        `as_of`.
        """
        inputs = _read(columns, as_of, self.specification)
        n = len(inputs.alive)
        numbers = self.specification.inputs_of_kind(NUMBER)
        categories = {
            spec.name: column(columns, spec.name, n)
            for spec in self.specification.inputs_of_kind(CATEGORY)
        }
        codes = {
            name: as_codes(given, self.vocabularies[name]) for name, given in categories.items()
        }
        filled = {
            s.name: np.where(inputs.valid[s.name], inputs.numbers[s.name], self._imputed_value(s))
            for s in numbers
        }
        percentiles = {
            name: percentile(self.distributions[name], values)
            for name, values in filled.items()
            if "." not in name
        }
        values = self._values(inputs, filled, percentiles, codes)
        present = [
            inputs.alive,
            *(inputs.valid[s.name] for s in numbers),
            *(code != MISSING for code in codes.values()),
        ]
        odd = [
            is_unusual(self.distributions["days_since_creation"], inputs.days),
            *(
                is_unusual(self.distributions[s.name], inputs.numbers[s.name])
                & inputs.valid[s.name]
                for s in numbers
            ),
            *(code == UNKNOWN for code in codes.values()),
        ]
        present_count = np.sum(present, axis=0)
        missing = len(self.specification.inputs) - present_count
        coverage = present_count / len(self.specification.inputs)
        unusual = np.sum(odd, axis=0) / np.maximum(present_count, 1)
        imputed = _flagged_names(
            [~inputs.valid[s.name] & inputs.alive for s in numbers], tuple(s.name for s in numbers)
        )
        if inputs.failed:
            dead = ~inputs.alive
            values[dead] = 0.0
            coverage[dead] = unusual[dead] = 0.0
        given = GivenInputs(
            inputs.created_at,
            inputs.days,
            {
                s.name: np.where(inputs.valid[s.name], inputs.numbers[s.name], np.nan)
                for s in numbers
            },
            percentiles,
            categories,
            {name: code == MISSING for name, code in codes.items()},
        )
        return FeatureMatrix(
            *(values, self.specification.outputs, coverage, missing, imputed, unusual),
            failed=inputs.failed,
            given=given,
        )

    def percentiles(self, given: GivenInputs, name: str, rows: Ints) -> Floats:
        """Return where rows stand among the training leads in an input, 0..1; NaN where unknown.

        That of `created_at` is about the age of a lead. A category has none.
        """
        if name == "created_at":
            return percentile(self.distributions["days_since_creation"], given.days[rows])
        if name not in given.numbers:
            return np.full(len(rows), np.nan)
        values = given.numbers[name][rows]
        absent = np.isnan(values)
        if name in given.percentiles:
            return np.where(absent, np.nan, given.percentiles[name][rows])
        shares = percentile(self.distributions[name], np.where(absent, 0.0, values))
        return np.where(absent, np.nan, shares)

    def _values(
        self,
        inputs: _Inputs,
        filled: dict[str, Floats],
        percentiles: dict[str, Floats],
        codes: dict[str, Floats],
    ) -> Floats:
        """Compute the matrix: features of the registry, and own fields as they are."""
        missing = {name: (~inputs.valid[name]).astype(np.float64) for name in filled}
        standard = FeatureInputs(
            numbers=filled,
            missing=missing,
            codes=codes,
            percentiles=percentiles,
            calendar=calendar_fields(self.calendar, inputs.created_at),
            days=inputs.days,
        )
        own = {**filled, **codes, **{f"{name}_missing": flags for name, flags in missing.items()}}
        return np.stack(
            [
                BY_NAME[name].compute(standard) if name in BY_NAME else own[name]
                for name in self.specification.outputs
            ],
            axis=1,
        )

    def _imputed_value(self, spec: FeatureSpec) -> float:
        if spec.imputation == MEDIAN:
            return self.distributions[spec.name].median
        return float(spec.imputation)


def _read(columns: Columns, as_of: Moments, specification: Specification) -> _Inputs:
    n = len(as_of)
    moments = {
        "created_at": as_numbers(column(columns, "created_at", n)),
        "as_of": as_numbers(as_of),
    }
    failed: dict[int, str] = {}
    alive = np.ones(n, dtype=np.bool_)
    for name, moment in moments.items():
        inside = (moment >= 0) & (moment <= LAST_MOMENT)
        for row in np.flatnonzero(~inside).tolist():
            absent = np.isnan(moment[row])
            failed.setdefault(
                row, f"{name} is {'missing' if absent else 'outside the years 1970 to 9999'}"
            )
        alive &= inside
    # Milliseconds up to the year 9999 are integers below 2^53: float64 holds each of them exactly.
    created, now = (np.where(alive, moment, 0.0).astype(np.int64) for moment in moments.values())
    numbers, valid = {}, {}
    for spec in specification.inputs_of_kind(NUMBER):
        values = as_numbers(column(columns, spec.name, n))
        inside = (values >= spec.low) & (values <= spec.high)
        numbers[spec.name], valid[spec.name] = np.where(inside, values, 0.0), inside
    return _Inputs(created, np.maximum(now - created, 0) / DAY, alive, numbers, valid, failed)


def _flagged_names(flags: list[Flags], names: tuple[str, ...]) -> DictionaryColumn:
    """Return for each row a tuple of the names whose flag is set.

    Only distinct patterns of flags are turned into tuples.
    """
    packed = np.packbits(np.stack(flags, axis=1), axis=1)
    patterns, codes = np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_inverse=True)
    texts = [
        tuple(compress(names, np.unpackbits(np.frombuffer(pattern, np.uint8))))
        for pattern in patterns
    ]
    return DictionaryColumn(codes, texts)
