"""Records written in columns are the bytes of records written one by one, whatever is in them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leadstream.errors import Poison
from schemas.codec import Reader, Writer
from schemas.columns import Choice, ColumnWriter, Items, NotColumns, records

WRITER = Writer("LeadPrediction")
COLUMNS, READER = ColumnWriter(WRITER), Reader("LeadPrediction")
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

    def choice(of: tuple[str, ...] | list[str], count: int) -> Choice:
        return Choice(np.array(column(draw, st.integers(0, len(of) - 1), count), np.intp), of)

    def counts() -> np.ndarray:
        return np.array(column(draw, st.integers(0, 70 if n == 1 else 3), n), np.int64)

    reasons, imputed = counts(), counts()
    total = int(reasons.sum())
    points = np.array(column(draw, doubles, total), np.float64)
    return {
        "prediction_id": column(draw, texts, n),
        "lead_id": column(draw, texts, n),
        "prediction": np.array(column(draw, st.booleans(), n), np.bool_),
        **{
            name: np.array(column(draw, doubles, n), np.float64)
            for name in ("probability", "probability_low", "probability_high", "confidence", "raw_score")
        },
        "grade": choice("ABCD", n),  # type: ignore[arg-type]  # a text is a sequence of texts
        "threshold": draw(doubles),
        "reasons": Items(reasons, {"feature": choice(draw(names), total), "contribution": points}),
        "feature_coverage": np.array(column(draw, doubles, n), np.float64),
        "imputed": Items(imputed, choice(draw(names), int(imputed.sum()))),
        **{name: draw(texts) for name in ("model_used", "model_version", "model_sha256", "variant")},
        "event_id": column(draw, texts, n),
        "change_type": column(draw, st.sampled_from(CHANGES), n),
        "lead_version": np.array(column(draw, longs, n), np.int64),
        "coalesced_changes": np.array(column(draw, ints, n), np.int64),
        "occurred_at": np.array(column(draw, longs, n), np.int64),
        "scored_at": draw(longs),
        "source_topic": draw(texts) if draw(st.booleans()) else column(draw, texts, n),
        "source_partition": np.array(column(draw, ints, n), np.int64),
        "source_offset": np.array(column(draw, longs, n), np.int64),
    }


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 7).flatmap(lambda n: st.tuples(st.just(n), columns(n))))
def test_columns_are_written_as_their_records_are_one_by_one(drawn: tuple[int, dict[str, Any]]) -> None:
    n, given_ = drawn
    found = records(given_, n)
    assert len(found) == n
    assert COLUMNS.encode(given_, n) == [WRITER.encode(record) for record in found]


def plain(**other: Any) -> dict[str, Any]:
    """Three predictions, but for these columns."""
    numbers = ("probability", "probability_low", "probability_high", "confidence", "raw_score", "feature_coverage")
    whole = ("lead_version", "coalesced_changes", "occurred_at", "source_partition", "source_offset")
    none = np.zeros(3, np.int64)
    return {
        **{name: ["a", "b", "c"] for name in ("prediction_id", "lead_id", "event_id", "source_topic")},
        **dict.fromkeys(("model_used", "model_version", "model_sha256", "variant"), "m"),
        **{name: np.zeros(3) for name in numbers},
        **dict.fromkeys(whole, none),
        "prediction": np.zeros(3, np.bool_),
        "grade": ["A", "B", "D"],
        "threshold": 0.5,
        "reasons": Items(none, {"feature": Choice(none[:0], []), "contribution": np.empty(0)}),
        "imputed": Items(none, []),
        "change_type": ["UPDATED"] * 3,
        "scored_at": 1,
        **other,
    }


def test_what_is_written_can_be_read() -> None:
    values = COLUMNS.encode(plain(), 3)
    assert [READER.decode(value)["lead_id"] for value in values] == ["a", "b", "c"]
    assert [READER.decode(value)["grade"] for value in values] == ["A", "B", "D"]


@pytest.mark.parametrize(
    "other",
    [
        {"lead_id": ["a", "\ud83d", "c"]},
        {"lead_id": ["a", "b"]},
        {"lead_id": ["a", None, "c"]},
        {"grade": ["A", "E", "D"]},
        {"probability": np.zeros(2)},
        {"probability": np.zeros(3, np.int64)},
        {"coalesced_changes": np.array([0, 2**31, 0])},
        {"threshold": "half"},
        {"imputed": ["x", "y", "z"]},
        {"unknown": 1},
    ],
    ids=repr,
)
def test_columns_that_do_not_fit_are_refused_whole_and_never_written_wrong(other: dict[str, Any]) -> None:
    with pytest.raises(NotColumns):
        COLUMNS.encode(plain(**other), 3)


def test_of_records_that_cannot_all_be_written_each_bad_one_is_told_alone() -> None:
    found = records(plain(lead_id=["a", "\ud83d", "c"]), 3)
    WRITER.encode(found[0])
    WRITER.encode(found[2])
    with pytest.raises(Poison, match="lead_id holds a lone surrogate"):
        WRITER.encode(found[1])
