"""Leak tests: inputs that are too good, because they were written after the outcome.

The tests use one row of each lead, its newest, because a leak grows with time. A finding is a
suspicion in words that let a person decide. Thresholds and limits are in docs/reference/models.md.

A rate alone proves nothing where most leads convert, so values are judged by their odds next to
those of all leads. A name alone proves nothing either: it is a warning, and lowers what the values
must show.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from features import STATE_FIELDS, Columns, FeatureSpec, Specification
from features.columns import as_numbers, category, column
from features.spec import MOMENT, NUMBER
from leadstream.errors import UserError
from models.evaluate import auc_loss, wilson

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Codes = NDArray[np.intp]

ALONE = 0.97  # ROC-AUC of one input
ONE_VALUE = 0.9  # balanced accuracy of one value against the rest
# Rate of the leads with (or without) one value, at least, by its 99 % bound, and the odds of that
# rate relative to those of all leads.
SURE, SURE_ODDS = 0.97, 20.0
# Odds relative to those of all leads, up by one value and down by another, by 99 % bounds.
BOTH_SIDES = 15.0
NEVER = 20.0  # the rate of all leads over that of a zone, by its 99 % bound
SMALLEST = 0.02  # share of leads in a value or zone that counts for the last two
FILLED = 0.05  # share of leads that have any value, or one of several values, and never convert
NEVER_FILLED, NAMED_NEVER = 15.0, 5.0  # as NEVER, for those; and for an input with a telling name
BEATS = 0.65  # ROC-AUC that an input needs to beat all others, by its 99 % bound
STRONG = 0.1  # what ROC-AUC has above 0.5, at least, by its 99 % bound
LEFT_EARLIER = 0.25  # of what it has above 0.5
# With a name that sounds like the outcome: odds of one value, up or down, or ROC-AUC alone.
NAMED_ODDS, NAMED_ALONE = 10.0, 0.85
MIN_PAIRS = 200
_BINS = 20
_MAX_VALUES = 64
_Z = 2.326  # 99 %, one-sided
_AFTERWARDS = re.compile(
    r"(?<![a-z])(applications?|applicants?|applied|converted|conversion|outcome|"
    r"(dis)?qualified|disqualification|lost|won|rejected|rejection|cancell?ed|cancell?ation|"
    r"closed|closing|enroll?ed|enroll?ment|reservation|contract|invoice|paid|deposit)(?![a-z])"
)


@dataclass(frozen=True, slots=True, eq=False)
class BinnedInput:
    """An input of n leads: the cell of each lead, and the names of the cells.

    A cell is a value, a bin or missing. `values` tells whether the cells are values.
    """

    name: str
    codes: Codes
    cells: list[str]
    values: bool


@dataclass(frozen=True, slots=True)
class LeakAudit:
    """The result of the tests: input -> why it seems to leak (`found`), or may (`warnings`)."""

    found: dict[str, str]
    warnings: dict[str, str]


def audit(
    table: pd.DataFrame, specification: Specification, origins: Mapping[str, str] | None = None
) -> LeakAudit:
    """Test the inputs of a table sorted by as_of; `origins` maps an input to its source column."""
    origins = origins or {}
    newest = ~table.duplicated("lead_id", keep="last").to_numpy()
    labels = table["converted"].to_numpy()
    specs = [spec for spec in specification.inputs if spec.kind != MOMENT]
    columns: Columns = {
        field: table[field].tolist() for field in STATE_FIELDS if field in table.columns
    }
    everything = [bin_input(spec, columns, len(table)) for spec in specs]
    inputs = [BinnedInput(i.name, i.codes[newest], i.cells, i.values) for i in everything]
    newest_labels = labels[newest]
    both = bool(newest_labels.any() and not newest_labels.all())
    found: dict[str, str] = {}
    warnings: dict[str, str] = {}
    for one, complete in zip(inputs, everything, strict=True):
        named = _sounds_like_the_outcome(one.name, origins)
        why = both and (
            _alone(one, newest_labels)
            or _one_value(one, newest_labels)
            or _both_sides(one, newest_labels)
            or _never(one, newest_labels, NAMED_NEVER if named else NEVER_FILLED)
            or _beats_all(one, inputs, newest_labels)
            or _vanishes(complete, table["lead_id"], labels)
            or (named and _named(one, named, newest_labels))
        )
        if why:
            found[one.name] = why
        elif named:
            warnings[one.name] = f"{named!r} sounds like the outcome, but its values do not tell it"
    return LeakAudit(found, warnings)


def refuse(
    found: Mapping[str, str], allowed: Collection[str], specification: Specification
) -> None:
    """Raise UserError for suspected inputs that are not allowed.

    Also raises it for an allowed name that is no input.
    """
    if unknown := sorted(set(allowed) - {spec.name for spec in specification.inputs}):
        raise UserError(f"--allow-leak {unknown[0]}: there is no such feature")
    if refused := [f"{name} ({why})" for name, why in found.items() if name not in allowed]:
        flags = " ".join(f"--allow-leak {name}" for name in found if name not in allowed)
        raise UserError(
            "training is refused, because the outcome seems to leak into "
            f"{', and into '.join(refused)}: "
            f"leave out what is not known at the moment of prediction, or train with {flags}"
        )


def _sounds_like_the_outcome(name: str, origins: Mapping[str, str]) -> str | None:
    for text in (name, origins.get(name, "")):
        if _AFTERWARDS.search(re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower().replace("_", " ")):
            return text
    return None


def _named(one: BinnedInput, name: str, labels: Labels) -> str | None:
    """Find a weaker sign in an input whose name sounds like the outcome."""
    base = _odds(float(labels.mean()))
    for code, (leads, converted) in enumerate(_counts(one, labels)):
        if leads < SMALLEST * len(labels):
            continue
        low, high = _bounds(converted, leads)
        if _odds(low) >= NAMED_ODDS * base or _odds(high) * NAMED_ODDS <= base:
            return (
                f"{name!r} sounds like the outcome, and {converted / leads:.1%} of the "
                f"{leads:,} leads with {one.cells[code]} convert, against {labels.mean():.0%} "
                "of all"
            )
    auc = float(roc_auc_score(labels, _rates(one.codes, labels)))
    if auc < NAMED_ALONE:
        return None
    return f"{name!r} sounds like the outcome, and alone it reaches a ROC-AUC of {auc:.2f}"


def _alone(one: BinnedInput, labels: Labels) -> str | None:
    auc = float(roc_auc_score(labels, _rates(one.codes, labels)))
    return f"alone it reaches a ROC-AUC of {auc:.2f}" if auc >= ALONE else None


def _one_value(one: BinnedInput, labels: Labels) -> str | None:
    for code, (leads, converted) in enumerate(_counts(one, labels)):
        inside, outside = (converted, leads), (labels.sum() - converted, len(labels) - leads)
        hit, missed = converted / labels.sum(), (leads - converted) / (~labels).sum()
        balanced = 0.5 + abs(hit - missed) / 2
        for (k, n), which in ((inside, "with"), (outside, "without")):
            low = _bounds(k, n)[0]
            sure = low >= SURE and _odds(low) >= SURE_ODDS * _odds(float(labels.mean()))
            if balanced >= ONE_VALUE or sure:
                rate = f"{k / n:.0%} of the {n:,} leads {which} the value {one.cells[code]} convert"
                return f"one value alone tells it: {rate}, against {labels.mean():.0%} of all"
    return None


def _both_sides(one: BinnedInput, labels: Labels) -> str | None:
    if not one.values:
        return None
    base = _odds(float(labels.mean()))
    rates: dict[bool, str] = {}
    for code, (leads, converted) in enumerate(_counts(one, labels)):
        if leads < SMALLEST * len(labels):
            continue
        low, high = _bounds(converted, leads)
        if _odds(low) >= BOTH_SIDES * base or _odds(high) * BOTH_SIDES <= base:
            rates[_odds(low) > base] = (
                f"{converted / leads:.1%} of the {leads:,} leads with {one.cells[code]}"
            )
    if len(rates) < 2:
        return None
    return f"its values decide both ways: {rates[True]} convert, and {rates[False]}"


def _never(one: BinnedInput, labels: Labels, ratio: float) -> str | None:
    """Find an input that is filled only in leads that do not convert.

    Either any value at all means so, or several values of a category do, as reasons of a loss.
    Such values are chosen on every second lead and counted on the others.
    """
    missing = one.cells.index("'missing'") if "'missing'" in one.cells else -1
    filled = one.codes != missing
    if missing < 0 or filled.mean() > 1 - SMALLEST:
        if not one.values:
            return None
        filled = _lost_values(one, labels)
    if filled.mean() < FILLED:
        return None
    leads, converted = int(filled.sum()), int(labels[filled].sum())
    if _bounds(converted, leads)[1] * ratio > labels.mean():
        return None
    return (
        f"it has values that never convert: {converted} of {leads:,} leads do, against "
        f"{labels.mean():.0%} of all"
    )


def _lost_values(one: BinnedInput, labels: Labels) -> NDArray[np.bool_]:
    """Return which leads have one of several values that never convert in the other half: (n,)."""
    inside = np.zeros(len(labels), dtype=np.bool_)
    for half in (0, 1):
        codes, won = one.codes[1 - half :: 2], labels[1 - half :: 2]
        counts = np.bincount(codes, minlength=len(one.cells))
        never = np.bincount(codes[won], minlength=len(one.cells)) == 0
        lost = np.flatnonzero(never & (counts * labels.mean() >= 3))
        if len(lost) > 1:
            inside[half::2] = np.isin(one.codes[half::2], lost)
    return inside


def _beats_all(one: BinnedInput, inputs: list[BinnedInput], labels: Labels) -> str | None:
    """Find a strong input that alone ranks later leads better than all others together.

    It must have a zone without conversions.
    """
    zones = [
        (leads, converted, one.cells[code])
        for code, (leads, converted) in enumerate(_counts(one, labels))
        if leads >= SMALLEST * len(labels) and _bounds(converted, leads)[1] * NEVER <= labels.mean()
    ]
    half = len(labels) // 2
    if (
        not zones
        or len(inputs) < 2
        or any(part.all() or not part.any() for part in (labels[:half], labels[half:]))
    ):
        return None
    alone = rate_of(one.codes[:half], labels[:half], len(one.cells))[one.codes[half:]]
    power, power_error = auc_loss(alone, np.zeros(len(alone)), labels[half:])
    if 0.5 + power - _Z * power_error < BEATS:
        return None
    X = np.stack([other.codes for other in inputs if other.name != one.name], axis=1)
    boosting = HistGradientBoostingClassifier(max_iter=50, early_stopping=False, random_state=0)
    together = boosting.fit(X[:half], labels[:half]).predict_proba(X[half:])[:, 1]
    gain, error = auc_loss(alone, together, labels[half:])
    if gain <= 2 * error:
        return None
    leads, converted, cell = max(zones)
    auc = float(roc_auc_score(labels[half:], alone))
    return (
        f"{converted} of the {leads:,} leads with {cell} convert, and alone it ranks later leads "
        "better (ROC-AUC "
        f"{auc:.2f}) than all other features together ({auc - gain:.2f})"
    )


def _vanishes(one: BinnedInput, lead_ids: pd.Series, labels: Labels) -> str | None:
    """Find an input whose power in the newest row of leads was missing in the row before."""
    rows = pd.Series(np.arange(len(labels)))
    before = rows.groupby(lead_ids.to_numpy()).shift().to_numpy()
    last = ~lead_ids.duplicated(keep="last").to_numpy() & ~np.isnan(before)
    outcome, previous = labels[last], before[last].astype(np.intp)
    if (
        len(outcome) < MIN_PAIRS
        or outcome.sum() < MIN_PAIRS // 10
        or (~outcome).sum() < MIN_PAIRS // 10
    ):
        return None
    now, then = _rates(one.codes[last], outcome), _rates(one.codes[previous], outcome)
    lost, error = auc_loss(now, then, outcome)
    power, power_error = auc_loss(now, np.zeros(len(now)), outcome)
    if (
        lost <= 3 * error
        or power - _Z * power_error < STRONG
        or power - lost > LEFT_EARLIER * power
    ):
        return None
    auc = 0.5 + power
    return f"its ROC-AUC of {auc:.2f} is {auc - lost:.2f} if read one step earlier"


def bin_input(spec: FeatureSpec, columns: Columns, n: int) -> BinnedInput:
    """Return the cells of an input of n rows: its values, or twentieths of a number."""
    values: Any = column(columns, spec.name, n)
    if spec.kind != NUMBER:
        texts = pd.Series([category(value)[: int(spec.high)] or "missing" for value in values])
        common = texts.value_counts().index[:_MAX_VALUES]
        codes, cells = pd.factorize(texts.where(texts.isin(common), "rare values"), sort=True)
        return BinnedInput(spec.name, codes, [repr(str(cell)) for cell in cells], True)
    numbers = as_numbers(values)
    valid = (numbers >= spec.low) & (numbers <= spec.high)
    codes = np.zeros(n, dtype=np.intp)
    distinct = np.unique(numbers[valid])
    if len(distinct) <= _BINS:
        codes[valid] = 1 + np.searchsorted(distinct, numbers[valid])
        return BinnedInput(
            spec.name, codes, ["'missing'", *(f"{value:g}" for value in distinct.tolist())], True
        )
    edges = np.unique(np.quantile(numbers[valid], np.arange(1, _BINS) / _BINS, method="lower"))
    codes[valid] = 1 + np.searchsorted(edges, numbers[valid], side="left")
    names = [f"up to {edge:g}" for edge in edges.tolist()]
    return BinnedInput(spec.name, codes, ["'missing'", *names, f"over {edges[-1]:g}"], False)


def _counts(one: BinnedInput, labels: Labels) -> list[tuple[int, int]]:
    """Return (leads, conversions) of each cell."""
    leads = np.bincount(one.codes, minlength=len(one.cells)).tolist()
    return list(
        zip(leads, np.bincount(one.codes[labels], minlength=len(one.cells)).tolist(), strict=True)
    )


def _rates(codes: Codes, labels: Labels) -> Floats:
    """Return the rate of each lead's cell among every second lead, the other half: (n,)."""
    rates = np.empty(len(codes))
    cells = int(codes.max()) + 1
    for half in (0, 1):
        rates[half::2] = rate_of(codes[1 - half :: 2], labels[1 - half :: 2], cells)[codes[half::2]]
    return rates


def rate_of(codes: Codes, labels: Labels, cells: int) -> Floats:
    """Return the rate of each cell, shrunk to the overall rate by ten leads: (cells,)."""
    leads, converted = (
        np.bincount(codes, minlength=cells),
        np.bincount(codes[labels], minlength=cells),
    )
    rates: Floats = (converted + 10 * labels.mean()) / (leads + 10)
    return rates


def _bounds(converted: int, leads: int) -> tuple[float, float]:
    """Return one-sided 99 % bounds of a rate."""
    return wilson(converted, leads, _Z)


def _odds(rate: float) -> float:
    return rate / max(1.0 - rate, 1e-12)
