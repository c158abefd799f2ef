"""Moving inputs: those whose newest range was never trained on, the calendar and the age first.

With less than two years of leads, a month names one period, and trees learn the base rate of that
period by its date. So training begins without such inputs. Each group comes in only if the trees
gain by it in time-ordered folds, and an input that is new to most of the newest leads never does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features import FeatureSpec, Specification
from features.calendar import DAY, build_calendar, local_time
from features.columns import UNKNOWN, as_codes, as_numbers, column, fit_vocabulary
from features.distribution import fit_distribution, is_unusual
from features.spec import NUMBER
from models.evaluate import mean_of_groups
from models.train.candidates import FoldResult, losses_at_own_rate, stated
from models.train.table import TrainingPart

Floats = NDArray[np.float64]
Fit = Callable[[Specification], list[FoldResult]]

SEASONS = ("created_month", "academic_week", "is_application_season")
CALENDAR = ("created_day_of_week", "created_hour", *SEASONS)
AGE = ("days_since_creation", "days_squared", "score_time_interaction")
ERRORS = 2.0  # standard errors that a group must gain
NEW = 0.1  # share of the newest rows beyond what was trained on, from which folds must decide
MOSTLY_NEW = 0.5  # the share from which an input is left out
UNSEEN_SEASON = 0.01  # share of the newest rows in a month without an earlier year


@dataclass(frozen=True, slots=True)
class InputGroup:
    """Inputs that come in together or not at all: the names of outputs of a specification."""

    name: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MovingInputs:
    """The moving inputs of a table, and which of them folds decide on.

    `base` is the specification without them. Folds decide on each of `groups`. `left_out` says of
    each name that never comes in why.
    """

    base: Specification
    groups: tuple[InputGroup, ...]
    left_out: Mapping[str, str]


def find_moving(
    before: TrainingPart, newest: TrainingPart, specification: Specification, *, calendar: bool
) -> MovingInputs:
    """Return the moving inputs of the newest period, next to the periods before it."""
    left_out: dict[str, str] = {}
    groups: list[InputGroup] = []
    for spec in specification.inputs:
        if "." not in spec.name:  # the standard fields of a lead have many outputs
            continue
        new = _share_new(spec, before, newest)
        if new > MOSTLY_NEW:
            left_out[spec.name] = (
                f"{new:.0%} of the newest rows are beyond what earlier rows had of it"
            )
        elif new > NEW:
            groups.append(InputGroup(spec.name, (spec.name, f"{spec.name}_missing")))
    ages, newest_ages = _ages(before), _ages(newest)
    if ages.max() > 0:
        new = float(is_unusual(fit_distribution(ages, 0.0), newest_ages).mean())
        if new > MOSTLY_NEW:
            why = f"{new:.0%} of the newest rows have an age that no earlier row had"
            left_out |= dict.fromkeys(AGE, why)
        else:
            groups.append(InputGroup("age", AGE))
    else:
        left_out |= dict.fromkeys(AGE, "all leads are scored when they are created")
    if not calendar:
        left_out |= dict.fromkeys(CALENDAR, "--no-calendar")
    else:
        seen = _seasons_seen(before, newest, specification)
        if not seen:
            why = "a month of the newest rows was not seen in an earlier year"
            left_out |= dict.fromkeys(SEASONS, why)
        groups.append(
            InputGroup("calendar", tuple(n for n in CALENDAR if seen or n not in SEASONS))
        )
    moving = {name for group in groups for name in group.outputs}
    return MovingInputs(
        without(specification, moving | _with_flags(left_out)), tuple(groups), left_out
    )


def decide(
    fit: Fit, specification: Specification, moving: MovingInputs, parts: Sequence[TrainingPart]
) -> tuple[Specification, dict[str, Any], list[FoldResult]]:
    """Return the specification with the groups that gain, the figures of each group, and its folds.

    `fit` returns the folds of a specification, and `specification` has all inputs. A group must
    gain in log loss by more than ERRORS standard errors, rows of a lead taken together. Without a
    group there are no folds.
    """
    present, figures = moving.base, {}
    folds = fit(present) if moving.groups else []
    for group in moving.groups:
        kept = {*present.outputs, *group.outputs}
        tried = without(specification, set(specification.outputs) - kept)
        results = fit(tried)
        gain, error = gain_of(folds, results, parts)
        used = gain > ERRORS * error
        figures[group.name] = {"gain": gain, "standard_error": error, "used": used}
        if used:
            present, folds = tried, results
    return present, figures, folds


def without(specification: Specification, names: set[str]) -> Specification:
    """Return a specification without these outputs, and without own fields that have none left."""
    outputs = tuple(name for name in specification.outputs if name not in names)
    inputs = tuple(
        spec for spec in specification.inputs if "." not in spec.name or spec.name in outputs
    )
    return replace(specification, inputs=inputs, outputs=outputs)


def gain_of(
    present: Sequence[FoldResult], tried: Sequence[FoldResult], parts: Sequence[TrainingPart]
) -> tuple[float, float]:
    """Return the gain in log loss over all folds but the first, and its standard error."""
    gains, leads = [], []
    for i in range(1, len(present)):
        before, after = (
            pd.Series(losses_at_own_rate(stated(results, i), scored.labels), scored.rows)
            for results in (present, tried)
            for scored in (results[i].scored,)
        )
        gain = (before - after).dropna()  # a row may be out of range in one of the two only
        gains.append(gain.to_numpy())
        leads.append(parts[i + 1].leads[gain.index])
    return mean_of_groups(np.concatenate(gains), np.concatenate(leads))


def _with_flags(names: Mapping[str, str]) -> set[str]:
    return {flagged for name in names for flagged in (name, f"{name}_missing")}


def _share_new(spec: FeatureSpec, before: TrainingPart, newest: TrainingPart) -> float:
    """Return the share of the newest rows whose value lies beyond those of the rows before."""
    old, new = (column(part.columns, spec.name, len(part.as_of)) for part in (before, newest))
    if spec.kind == NUMBER:
        known, asked = (_in_range(spec, values) for values in (old, new))
        if not len(known) or not len(asked):
            return 0.0
        return float(is_unusual(fit_distribution(known, 0.0), asked).sum() / len(new))
    return float((as_codes(new, fit_vocabulary(old)) == UNKNOWN).mean())


def _in_range(spec: FeatureSpec, values: Sequence[Any]) -> Floats:
    numbers = as_numbers(values)
    return numbers[(numbers >= spec.low) & (numbers <= spec.high)]


def _ages(part: TrainingPart) -> Floats:
    """Return the age of the leads in days."""
    created = as_numbers(column(part.columns, "created_at", len(part.as_of)))
    return np.maximum(part.as_of - np.nan_to_num(created), 0) / DAY


def _seasons_seen(before: TrainingPart, newest: TrainingPart, specification: Specification) -> bool:
    """Return whether the months of the newest rows were seen in an earlier year."""
    calendar = build_calendar(specification.calendar)
    old, new = (_months(part, calendar) for part in (before, newest))
    first = {month % 12: month for month in sorted(set(old.tolist()), reverse=True)}
    seen = [first.get(month % 12, month) <= month - 12 for month in new.tolist()]
    return bool(seen) and 1 - sum(seen) / len(seen) <= UNSEEN_SEASON


def _months(part: TrainingPart, calendar: Any) -> NDArray[np.int64]:
    """Return the local month of creation since January 1970, of rows that have one."""
    created = as_numbers(column(part.columns, "created_at", len(part.as_of)))
    moments = created[created >= 0].astype(np.int64)
    days = (local_time(calendar, moments) // DAY).astype("datetime64[D]")
    return days.astype("datetime64[M]").astype(np.int64)
