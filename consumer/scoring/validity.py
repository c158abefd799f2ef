"""The ordered rules of a valid lead change; the first broken one says why it is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.change_columns import ChangeColumns
from leadstream.errors import Poison, Reason
from leadstream.lead_fields import (
    END_TIME_MS,
    MAX_CHANGE_BYTES,
    MAX_ID_CHARACTERS,
    MIN_TIME_MS,
)
from schemas.columns import TextColumn, use_columns

LOOP_ORIGIN = "leadstream"

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ValidityRule:
    """One reason to refuse rows: `broken` (n,) says which, `sentence` describes one of them.

    `causes` has the exception behind a broken row, for the rows that have one.
    """

    broken: Flags
    sentence: Callable[[int], str]
    reason: Reason = Reason.INVALID_EVENT
    stage: str = "validate"
    causes: Mapping[int, Exception] = field(default_factory=dict)


def find_poisons(rules: Sequence[ValidityRule], n: int) -> tuple[Flags, dict[int, Poison]]:
    """Return the rows that break any rule, and by row the poison of the first rule it breaks."""
    invalid = np.zeros(n, np.bool_)
    poisons: dict[int, Poison] = {}
    for rule in rules:
        if not rule.broken.any():
            continue
        for row in np.flatnonzero(rule.broken & ~invalid).tolist():
            poisons[row] = Poison(rule.reason, rule.stage, rule.sentence(row))
            poisons[row].__cause__ = rule.causes.get(row)
        invalid |= rule.broken
    return invalid, poisons


def check_changes(
    changes: ChangeColumns,
    keys: Sequence[bytes],
    sizes: NDArray[np.int64],
    *,
    oversized: Flags,
    decoded: Flags,
    null: Flags,
    looping: Flags,
    deleted: Flags,
) -> list[ValidityRule]:
    """Return the rules of a lead change, in the order in which they count.

    Of a null value only the rules of the key apply. A change that Leadstream caused itself, and
    the time of a deletion's state, are not looked at further.
    """
    keyed = decoded | null
    key_column = TextColumn.from_bytes(keys)
    key_sizes = key_column.lengths
    same = _equal(changes.lead_id, key_column)
    not_text = _decode_errors(keys, keyed & ~same)
    occurred_at, created_at = changes.occurred_at, changes.created_at
    timed = decoded & ~looping
    return [
        ValidityRule(
            oversized,
            lambda row: (
                f"the value has {sizes[row]} bytes; a lead change has at most {MAX_CHANGE_BYTES}"
            ),
            Reason.OVERSIZED,
            "decode",
        ),
        *_id_rules("lead_id", changes.lead_id, decoded),
        ValidityRule(
            keyed & (key_sizes == 0), lambda _: "the key is empty; it must be the lead id"
        ),
        ValidityRule(
            _flags(not_text, len(keys)), lambda _: "the key is not UTF-8", causes=not_text
        ),
        ValidityRule(
            keyed & _over_limit(key_sizes, lambda rows: [keys[row] for row in rows.tolist()]),
            lambda _: f"the key is over {MAX_ID_CHARACTERS} characters",
        ),
        ValidityRule(
            decoded & ~same,
            lambda _: (
                "the key and lead_id differ; "
                "changes of a lead keep their order only under its own key"
            ),
        ),
        *_id_rules("event_id", changes.event_id, decoded),
        ValidityRule(
            timed & ((occurred_at < MIN_TIME_MS) | (occurred_at >= END_TIME_MS)),
            lambda row: (
                f"occurred_at is {occurred_at[row]} ms, not a time between the years 1970 and 9999"
            ),
        ),
        ValidityRule(
            timed & ~deleted & changes.has_state & (created_at > occurred_at),
            lambda row: _created_after(int(created_at[row]), int(occurred_at[row])),
        ),
    ]


def check_state_time(created_at: int | None, occurred_at: int) -> None:
    """Raise Poison INVALID_EVENT if a state was created after `occurred_at` (both ms UTC)."""
    if created_at is not None and created_at > occurred_at:
        raise Poison(Reason.INVALID_EVENT, "validate", _created_after(created_at, occurred_at))


def _created_after(created_at: int, occurred_at: int) -> str:
    return f"created_at is {created_at - occurred_at} ms after occurred_at"


def _id_rules(name: str, ids: TextColumn, decoded: Flags) -> tuple[ValidityRule, ValidityRule]:
    over = _over_limit(ids.lengths, lambda rows: ids.take(rows).to_list())
    return (
        ValidityRule(decoded & (ids.lengths == 0), lambda _: f"{name} is empty"),
        ValidityRule(decoded & over, lambda _: f"{name} is over {MAX_ID_CHARACTERS} characters"),
    )


def _over_limit(
    sizes: NDArray[np.int64], texts: Callable[[NDArray[np.intp]], Sequence[bytes]]
) -> Flags:
    """Return which texts have too many characters; one of so many bytes has no more characters."""
    over = sizes > MAX_ID_CHARACTERS
    if over.any():
        rows = np.flatnonzero(over)
        characters = [len(text.decode("utf-8", "replace")) for text in texts(rows)]
        over[rows] = np.array(characters) > MAX_ID_CHARACTERS
    return over


def _decode_errors(keys: Sequence[bytes], rows: Flags) -> dict[int, Exception]:
    errors: dict[int, Exception] = {}
    for row in np.flatnonzero(rows).tolist():
        try:
            keys[row].decode()
        except UnicodeDecodeError as error:
            errors[row] = error
    return errors


def _equal(texts: TextColumn, others: TextColumn) -> Flags:
    if use_columns(len(others)):
        return texts.equal(others)
    pairs = zip(texts.to_list(), others.to_list(), strict=True)
    return np.array([one == other for one, other in pairs], np.bool_)


def _flags(rows: Mapping[int, object], n: int) -> Flags:
    flags = np.zeros(n, np.bool_)
    flags[list(rows)] = True
    return flags
