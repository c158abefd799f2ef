"""Lead states to a feature matrix, with everything that was learnt in training in one object.

Every step works on whole columns and treats each row by itself, so a lead's row has the same bits in any batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from features.calendar import DAY, Calendar, calendar_fields, calendar_of
from features.columns import (
    FIRST,
    MISSING,
    UNKNOWN,
    Columns,
    Floats,
    as_codes,
    as_numbers,
    column,
    vocabulary_of,
)
from features.distribution import Distribution, distribution_of, is_unusual, percentile
from features.spec import CATEGORY, LAST_MOMENT, MEDIAN, NUMBER, FeatureSpec, Specification
from leadstream.dictionary import DictionaryColumn
from leadstream.errors import UserError

Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]
Moments = NDArray[np.int64]

ENGAGEMENT_LEVELS = {"low": FIRST, "medium": FIRST + 1, "high": FIRST + 2}


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMatrix:
    """The features of n leads.

    `values` is float64 (n, k), finite, one column for each of `names`. `coverage` (n,) is the share of the
    specification's inputs that were present and valid, `missing` (n,) the number that were not, `imputed` the names
    of a row's numbers that were not and got what stands in for them, as a tuple, and `unusual` (n,) is the share of
    the present inputs that lie outside of what training saw.
    `failed` maps a row to one sentence; that row holds zeros and must not be used.
    """

    values: Floats
    names: tuple[str, ...]
    coverage: Floats
    missing: Ints
    imputed: DictionaryColumn
    unusual: Floats
    failed: dict[int, str]


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The columns as arrays; moments and numbers of rows or fields that are not `valid` are 0."""

    created_at: Moments
    days: Floats
    alive: Flags
    numbers: dict[str, Floats]
    valid: dict[str, Flags]
    failed: dict[int, str]


@dataclass(frozen=True, slots=True, eq=False)
class FittedFeatures:
    """The features as training fitted them: distributions, categories and the calendar, as plain picklable data.

    `distributions` is by number (and `days_since_creation`), `vocabularies` by category. `specification_hash` is the
    hash at training: if `specification.hash` differs, today's code computes something else than the model learnt from.
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
        """Learn from the columns of n training rows, each as it was at `as_of` (n,) in ms UTC, without the failed rows.

        Raises UserError if no row is left.
        """
        inputs = _read(columns, as_of, specification)
        if not inputs.alive.any():
            raise UserError(
                "there is nothing to fit the features on: no row has a valid created_at"
            )
        distributions = {"days_since_creation": distribution_of(inputs.days[inputs.alive], 0.0)}
        for spec in specification.of_kind(NUMBER):
            known = inputs.numbers[spec.name][inputs.valid[spec.name] & inputs.alive]
            distributions[spec.name] = distribution_of(
                known, float(np.clip(0.0, spec.low, spec.high))
            )
        alive = inputs.alive.tolist()
        vocabularies = {
            spec.name: vocabulary_of(tuple(compress(column(columns, spec.name, len(alive)), alive)))
            for spec in specification.of_kind(CATEGORY)
        }
        return cls(
            specification,
            specification.hash,
            calendar_of(specification.calendar),
            distributions,
            vocabularies,
        )

    def transform(self, columns: Columns, as_of: Moments) -> FeatureMatrix:
        """The features of n leads as of the moments `as_of` (n,), ms UTC; a lead's row does not depend on the others.

        Raises ValueError if a column is not as long as `as_of`.
        """
        inputs = _read(columns, as_of, self.specification)
        n = len(inputs.alive)
        numbers = self.specification.of_kind(NUMBER)
        filled = {
            s.name: np.where(inputs.valid[s.name], inputs.numbers[s.name], self._stand_in(s))
            for s in numbers
        }
        codes = {
            spec.name: as_codes(column(columns, spec.name, n), self.vocabularies[spec.name])
            for spec in self.specification.of_kind(CATEGORY)
        }
        computed = self._compute(inputs, filled, codes)
        values = np.stack([computed[name] for name in self.specification.outputs], axis=1)

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
        imputed = _names_of(
            [~inputs.valid[s.name] & inputs.alive for s in numbers], tuple(s.name for s in numbers)
        )
        if inputs.failed:
            dead = ~inputs.alive
            values[dead] = 0.0
            coverage[dead] = unusual[dead] = 0.0
        return FeatureMatrix(
            values, self.specification.outputs, coverage, missing, imputed, unusual, inputs.failed
        )

    def _stand_in(self, spec: FeatureSpec) -> float:
        return (
            self.distributions[spec.name].median
            if spec.imputation == MEDIAN
            else float(spec.imputation)
        )

    def _compute(
        self, inputs: _Inputs, filled: Mapping[str, Floats], codes: Mapping[str, Floats]
    ) -> dict[str, Floats]:
        """Every output by name; the formulas in words are `features.spec.FORMULAS`."""
        score, engagement, touchpoints = (
            filled[n] for n in ("lead_score", "engagement_score", "touchpoint_count")
        )
        days = inputs.days
        score_percentile = percentile(self.distributions["lead_score"], score)
        engagement_percentile = percentile(self.distributions["engagement_score"], engagement)
        level = (
            ENGAGEMENT_LEVELS["low"] + (engagement >= 50).astype(np.float64) + (engagement >= 80)
        )
        return {
            **filled,
            **{f"{name}_missing": (~inputs.valid[name]).astype(np.float64) for name in filled},
            **calendar_fields(self.calendar, inputs.created_at),
            "days_since_creation": days,
            "days_squared": days * days,
            "score_squared": score * score,
            "score_cubed": score * score * score,
            "score_log": np.log1p(score),
            "score_percentile": score_percentile,
            "engagement_squared": engagement * engagement,
            "engagement_percentile": engagement_percentile,
            "touchpoint_log": np.log1p(touchpoints),
            "touchpoint_percentile": percentile(
                self.distributions["touchpoint_count"], touchpoints
            ),
            "score_engagement_interaction": score * engagement,
            "score_time_interaction": score / (1.0 + days),
            "score_engagement_score_interaction": score_percentile * engagement_percentile,
            "score_touchpoint_interaction": score * touchpoints,
            **codes,
            "engagement_level": np.where(inputs.valid["engagement_score"], level, MISSING),
            "campus_preference": codes["campus_name"],
        }


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
    # Milliseconds up to the year 9999 are whole numbers below 2^53: float64 holds each of them exactly.
    created, now = (np.where(alive, moment, 0.0).astype(np.int64) for moment in moments.values())
    numbers, valid = {}, {}
    for spec in specification.of_kind(NUMBER):
        values = as_numbers(column(columns, spec.name, n))
        inside = (values >= spec.low) & (values <= spec.high)
        numbers[spec.name], valid[spec.name] = np.where(inside, values, 0.0), inside
    return _Inputs(created, np.maximum(now - created, 0) / DAY, alive, numbers, valid, failed)


def _names_of(flags: list[Flags], names: tuple[str, ...]) -> DictionaryColumn:
    """For each row a tuple of the names whose flag is set; only distinct patterns of flags are looked at one by one."""
    packed = np.packbits(np.stack(flags, axis=1), axis=1)
    patterns, codes = np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_inverse=True)
    texts = [
        tuple(compress(names, np.unpackbits(np.frombuffer(pattern, np.uint8))))
        for pattern in patterns
    ]
    return DictionaryColumn(codes, texts)
