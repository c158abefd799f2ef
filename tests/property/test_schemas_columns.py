"""Records written or read in columns are those written or read one by one, whatever is in them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leadstream.dictionary import DictionaryColumn
from leadstream.errors import Poison
from schemas.codec import Reader, Writer
from schemas.columns import (
    ColumnReader,
    ColumnWriter,
    DecodedColumns,
    ListColumn,
    MapColumn,
    MissingColumnError,
    OptionalMoments,
    OptionalNumbers,
    TextColumn,
    UnsupportedColumns,
    to_records,
)
from tests.examples import examples

WRITER = Writer("LeadPrediction")
READER = Reader("LeadPrediction")
REASONS = (
    "reasons.feature",
    "reasons.contribution",
    "reasons.value",
    "reasons.percentile",
    "reasons.given_rate",
)
CHANGES = ("CREATED", "UPDATED", "DELETED", "RESCORE")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
doubles = st.floats(allow_nan=True)
longs = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-70, 70))
ints = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-70, 70))
names = st.lists(texts, min_size=1, max_size=4)


def column(draw: st.DrawFn, of: st.SearchStrategy[Any], n: int) -> list[Any]:
    return draw(st.lists(of, min_size=n, max_size=n))


@st.composite
def columns(draw: st.DrawFn, n: int) -> dict[str, Any]:
    """Columns of n predictions."""

    def choice(of: Sequence[Any], count: int) -> DictionaryColumn:
        return DictionaryColumn(
            np.array(column(draw, st.integers(0, len(of) - 1), count), np.intp), of
        )

    reasons = np.array(column(draw, st.integers(0, 70 if n == 1 else 3), n), np.int64)
    total = int(reasons.sum())
    points = np.array(column(draw, doubles, total), np.float64)
    return {
        "prediction_id": column(draw, texts, n),
        "lead_id": column(draw, texts, n),
        "prediction": np.array(column(draw, st.booleans(), n), np.bool_),
        **{
            name: np.array(column(draw, doubles, n), np.float64)
            for name in (
                "probability",
                "probability_low",
                "probability_high",
                "confidence",
                "raw_score",
            )
        },
        "grade": choice("ABCD", n),
        "threshold": draw(doubles),
        "reasons": ListColumn(
            reasons,
            {
                "feature": choice(draw(names), total),
                "contribution": points,
                "value": text_column(column(draw, st.one_of(texts, st.none()), total)),
                "percentile": OptionalNumbers(np.array(column(draw, doubles, total), np.float64)),
                "given_rate": OptionalNumbers(np.array(column(draw, doubles, total), np.float64)),
            },
        ),
        "base_probability": draw(doubles),
        "target": draw(texts),
        "valid_until": OptionalMoments(np.array(column(draw, st.integers(-1, 2**50), n), np.int64)),
        "horizon_days": draw(st.one_of(st.none(), st.floats(allow_nan=False))),
        "feature_coverage": np.array(column(draw, doubles, n), np.float64),
        "imputed": choice(draw(st.lists(names, min_size=1, max_size=3)), n),
        **{
            name: draw(texts) for name in ("model_used", "model_version", "model_sha256", "variant")
        },
        "event_id": TextColumn.from_bytes([text.encode() for text in column(draw, texts, n)]),
        "change_type": choice(CHANGES, n),
        "lead_version": np.array(column(draw, longs, n), np.int64),
        "coalesced_changes": np.array(column(draw, ints, n), np.int64),
        "occurred_at": np.array(column(draw, longs, n), np.int64),
        "scored_at": draw(longs),
        "source_topic": draw(texts) if draw(st.booleans()) else column(draw, texts, n),
        "source_partition": np.array(column(draw, ints, n), np.int64),
        "source_offset": np.array(column(draw, longs, n), np.int64),
    }


@settings(deadline=None, max_examples=examples(150))
@given(st.integers(0, 7).flatmap(lambda n: st.tuples(st.just(n), columns(n))))
def test_columns_are_written_as_their_records_are_one_by_one(
    drawn: tuple[int, dict[str, Any]],
) -> None:
    n, given_ = drawn
    found = to_records(given_, n)
    assert len(found) == n
    assert COLUMNS.encode(given_, n) == [WRITER.encode(record) for record in found]


def text_column(values: Sequence[str | None]) -> TextColumn:
    """A column of texts and nulls."""
    full = TextColumn.from_bytes([(value or "").encode() for value in values])
    absent = np.array([value is None for value in values], np.bool_)
    return TextColumn(full.data, full.offsets, np.where(absent, -1, full.lengths))


def no_reasons() -> dict[str, Any]:
    """The columns of the reasons of predictions without any."""
    return {
        "feature": DictionaryColumn(np.empty(0, np.int64), []),
        "contribution": np.empty(0),
        "value": text_column([]),
        "percentile": OptionalNumbers(np.empty(0)),
        "given_rate": OptionalNumbers(np.empty(0)),
    }


def basic(**other: Any) -> dict[str, Any]:
    """Three predictions, but for these columns."""
    numbers = (
        "probability",
        "probability_low",
        "probability_high",
        "confidence",
        "raw_score",
        "feature_coverage",
    )
    full = (
        "lead_version",
        "coalesced_changes",
        "occurred_at",
        "source_partition",
        "source_offset",
    )
    none = np.zeros(3, np.int64)
    return {
        **{
            name: ["a", "b", "c"]
            for name in ("prediction_id", "lead_id", "event_id", "source_topic")
        },
        **dict.fromkeys(("model_used", "model_version", "model_sha256", "variant"), "m"),
        **{name: np.zeros(3) for name in numbers},
        **dict.fromkeys(full, none),
        "prediction": np.zeros(3, np.bool_),
        "grade": DictionaryColumn(np.array([0, 1, 3]), "ABCD"),
        "threshold": 0.5,
        "reasons": ListColumn(none, no_reasons()),
        "base_probability": 0.2,
        "target": "has_application",
        "horizon_days": None,
        "valid_until": OptionalMoments(np.array([-1, 0, 1_750_000_000_000])),
        "imputed": DictionaryColumn(none, [[]]),
        "change_type": DictionaryColumn(none, ["UPDATED"]),
        "scored_at": 1,
        **other,
    }


COLUMNS = ColumnWriter(WRITER, (*(basic().keys() - {"reasons"}), *REASONS))


def test_what_is_written_can_be_read() -> None:
    values = COLUMNS.encode(basic(), 3)
    assert [READER.decode(value)["lead_id"] for value in values] == ["a", "b", "c"]
    assert [READER.decode(value)["grade"] for value in values] == ["A", "B", "D"]


@pytest.mark.parametrize(
    "other",
    [
        {"lead_id": ["a", "\ud83d", "c"]},
        {"lead_id": ["a", "b"]},
        {"lead_id": ["a", None, "c"]},
        {"lead_id": TextColumn(np.zeros(3, np.uint8), np.zeros(3, np.int64), np.array([1, -1, 1]))},
        {"grade": DictionaryColumn(np.zeros(3, np.int64), "E")},
        {"grade": DictionaryColumn(np.array([0, 4, 0]), "ABCD")},
        {"grade": DictionaryColumn(np.array([0, -1, 0]), "ABCD")},
        {
            "reasons": ListColumn(
                np.array([-1, 1, 0]),
                no_reasons(),
            )
        },
        {
            "reasons": ListColumn(
                np.array([0, 1, 0]),
                no_reasons(),
            )
        },
        {"horizon_days": OptionalNumbers(np.zeros(2))},
        {"horizon_days": np.zeros(3)},
        {"probability": np.zeros(2)},
        {"probability": np.zeros(3, np.int64)},
        {"coalesced_changes": np.array([0, 2**31, 0])},
        {"threshold": "half"},
        {"imputed": ["x", "y", "z"]},
    ],
    ids=repr,
)
def test_columns_that_do_not_fit_are_refused_whole_and_never_written_wrong(
    other: dict[str, Any],
) -> None:
    with pytest.raises(UnsupportedColumns):
        COLUMNS.encode(basic(**other), 3)


@pytest.mark.parametrize(
    "columns", [{"unknown": 1}, {"lead_id": None}, {"reasons": None}], ids=repr
)
def test_a_column_too_many_or_too_few_is_a_bug_and_never_a_silent_fall_back(
    columns: dict[str, Any],
) -> None:
    """Another error than UnsupportedColumns, for which the caller encodes record by record."""
    given_ = {name: value for name, value in basic(**columns).items() if value is not None}
    with pytest.raises(MissingColumnError, match=next(iter(columns))):
        COLUMNS.encode(given_, 3)


@pytest.mark.parametrize("field", ["raw_score", "reasons.percentile"])
def test_a_field_of_the_schema_without_a_column_stops_the_process_when_it_starts(
    field: str,
) -> None:
    names_ = {*(basic().keys() - {"reasons"}), *REASONS}
    with pytest.raises(MissingColumnError, match=rf"LeadPrediction: .*; add or remove {field}$"):
        ColumnWriter(WRITER, names_ - {field})
    with pytest.raises(MissingColumnError, match=r"LeadPrediction: no column for reasons, imputed"):
        ColumnReader(READER)
    with pytest.raises(MissingColumnError, match=r"LeadPrediction: no column for reasons"):
        ColumnReader(READER, ("lead_version", "reasons"))


def test_of_records_that_cannot_all_be_written_each_bad_one_is_told_alone() -> None:
    found = to_records(basic(lead_id=["a", "\ud83d", "c"]), 3)
    WRITER.encode(found[0])
    WRITER.encode(found[2])
    with pytest.raises(Poison, match="lead_id holds a lone surrogate"):
        WRITER.encode(found[1])


CHANGE_WRITER, CHANGE_READER = Writer("LeadChanged"), Reader("LeadChanged")
CHANGE_COLUMNS = ColumnReader(CHANGE_READER)

optional_texts, optional_doubles = st.none() | texts, st.none() | doubles
states = st.fixed_dictionaries(
    {
        "created_at": longs,
        **dict.fromkeys(("lead_score", "engagement_score"), optional_doubles),
        "touchpoint_count": st.none() | ints,
        **dict.fromkeys(
            ("lifecycle_state", "status", "source", "programme_name", "campus_name"), optional_texts
        ),
        "numbers": st.dictionaries(st.sampled_from("abé") | texts, doubles, max_size=3),
        "categories": st.dictionaries(st.sampled_from("abé") | texts, texts, max_size=3),
    }
)
changes = st.fixed_dictionaries(
    {
        **dict.fromkeys(("event_id", "lead_id", "origin"), texts),
        "change_type": st.sampled_from(CHANGES),
        **dict.fromkeys(("occurred_at", "lead_version"), longs),
        "lead": st.none() | states,
    }
)


def row_of(table: DecodedColumns, row: int) -> dict[str, Any]:
    """A LeadChanged as the columns have it; of its maps the values of some keys."""
    found: dict[str, Any] = {}
    for path, values in table.columns.items():
        field = path.removeprefix("lead.")
        if isinstance(values, MapColumn):
            asked = {key: values.lookup(key) for key in ("a", "b", "é")}
            found[field] = {
                key: of.dictionary_encode()[row]
                if isinstance(of, TextColumn)
                else None
                if np.isnan(of[row])
                else of[row]
                for key, of in asked.items()
            }
        elif isinstance(values, TextColumn):
            found[field] = values.dictionary_encode()[row]
        elif path == "change_type":
            found[field] = CHANGE_COLUMNS.symbols[path][values[row]]
        else:
            found[field] = (
                None if values.dtype == np.float64 and np.isnan(values[row]) else values[row]
            )
    return found


def plain_of(record: dict[str, Any]) -> dict[str, Any]:
    """A decoded record in the same form: a NaN is no number, and a state that is absent has no
    fields.
    """
    lead = record["lead"]
    absent = dict.fromkeys(CHANGE_COLUMNS_OF_STATE) | {
        "created_at": 0,
        "numbers": {},
        "categories": {},
    }
    flat = record | (absent if lead is None else lead) | {"lead": lead is not None}
    for field in ("numbers", "categories"):
        flat[field] = {key: flat[field].get(key) for key in ("a", "b", "é")}
        flat[field] = {key: None if value != value else value for key, value in flat[field].items()}
    return {field: None if value != value else value for field, value in flat.items()}


CHANGE_COLUMNS_OF_STATE = (
    "lead_score",
    "engagement_score",
    "touchpoint_count",
    "lifecycle_state",
    "status",
    "source",
    "programme_name",
    "campus_name",
)


@settings(deadline=None, max_examples=examples(150))
@given(st.lists(changes, max_size=6))
def test_what_the_writer_writes_is_read_in_columns_as_it_is_one_by_one(
    records_: list[dict[str, Any]],
) -> None:
    values = [CHANGE_WRITER.encode(record) for record in records_]
    table = CHANGE_COLUMNS.decode(values)
    assert table.decoded.all()
    for row, value in enumerate(values):
        assert row_of(table, row) == plain_of(CHANGE_READER.decode(value))


def changed(value: bytes, at: int, by: bytes, without: int) -> bytes:
    at %= len(value) + 1
    return value[:at] + by + value[at + without :]


@settings(deadline=None, max_examples=examples(400))
@given(
    st.lists(
        st.builds(
            changed,
            changes.map(CHANGE_WRITER.encode),
            st.integers(0, 10**6),
            st.binary(max_size=9),
            st.integers(0, 9),
        ),
        max_size=6,
    )
)
def test_of_damaged_values_none_is_read_in_columns_but_as_the_codec_reads_it(
    values: list[bytes],
) -> None:
    table = CHANGE_COLUMNS.decode(values)
    for row in np.flatnonzero(table.decoded).tolist():
        assert row_of(table, row) == plain_of(CHANGE_READER.decode(values[row]))


@pytest.mark.parametrize(
    "text",
    [
        b"\x80",
        b"\xc0\x80",
        b"\xc3",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf0\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"a\xe2\x82",
    ],
)
def test_a_text_that_python_refuses_is_never_read(text: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        text.decode()
    record = {
        "event_id": "\x01" * len(text),
        "lead_id": "l",
        "change_type": "UPDATED",
        "occurred_at": 1,
        "origin": "crm",
        "lead": None,
    }
    value = CHANGE_WRITER.encode(record)
    assert CHANGE_COLUMNS.decode(
        [value, value.replace(b"\x01" * len(text), text)]
    ).decoded.tolist() == [
        True,
        False,
    ]


def test_numbers_of_more_than_64_bits_and_lengths_beyond_the_value_are_left_to_the_codec() -> None:
    value = CHANGE_WRITER.encode(
        {"event_id": "", "lead_id": "", "change_type": "UPDATED", "occurred_at": 0, "lead": None}
    )
    head, body = value[:10], value[10:]
    for first in (
        b"\xff" * 9 + b"\x02",
        b"\xff" * 10 + b"\x01",
        b"\x80" * 10 + b"\x00",
        b"\xfe\xff\xff\xff\x0f",
        b"\x01",
    ):
        assert not CHANGE_COLUMNS.decode([head + first + body[1:]]).decoded.any()
    assert CHANGE_COLUMNS.decode(
        [head + b"\x80\x80\x00" + body[1:]]
    ).decoded.all()  # a longer zero is a zero


def test_a_null_and_a_value_of_another_schema_are_left_to_the_codec() -> None:
    value = CHANGE_WRITER.encode(
        {"event_id": "e", "lead_id": "l", "change_type": "UPDATED", "occurred_at": 0, "lead": None}
    )
    assert CHANGE_COLUMNS.decode(
        [None, value, b"", b"\x00" + value[1:], value[:10]]
    ).decoded.tolist() == [
        False,
        True,
    ] + 3 * [False]


def test_distinct_texts_are_told_apart_also_where_their_number_is_that_of_the_rows() -> None:
    texts_ = [str(i % 700) for i in range(3000)]
    assert TextColumn.from_bytes([text.encode() for text in texts_]).dictionary_encode() == texts_
