"""A change in JSON is the record that Avro of the same change gives, for every change that fits."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from leadstream.lead_fields import INT_LIMIT, LONG_LIMIT
from schemas.codec import Reader, Writer
from schemas.json_records import decode_json
from tests.examples import examples

_READER, _WRITER = Reader("LeadChanged"), Writer("LeadChanged")
texts = st.text(max_size=20)
doubles = st.floats(allow_nan=False, allow_infinity=False)
longs = st.integers(-LONG_LIMIT, LONG_LIMIT - 1)
states = st.fixed_dictionaries(
    {"created_at": longs},
    optional={
        "lead_score": st.none() | doubles,
        "engagement_score": st.none() | doubles,
        "touchpoint_count": st.none() | st.integers(-INT_LIMIT, INT_LIMIT - 1),
        "status": st.none() | texts,
        "source": st.none() | texts,
        "numbers": st.dictionaries(texts, doubles, max_size=3),
        "categories": st.dictionaries(texts, texts, max_size=3),
    },
)
changes = st.fixed_dictionaries(
    {
        "event_id": texts,
        "lead_id": texts,
        "change_type": st.sampled_from(["CREATED", "UPDATED", "DELETED", "RESCORE"]),
        "occurred_at": longs,
    },
    optional={"lead_version": longs, "origin": texts, "lead": st.none() | states},
)


@settings(max_examples=examples(150), deadline=None)
@given(changes, st.booleans())
def test_json_and_avro_of_one_change_are_one_record(change: Any, ascii_only: bool) -> None:
    value = json.dumps(change, ensure_ascii=ascii_only).encode()
    assert decode_json("LeadChanged", value) == _READER.decode(_WRITER.encode(change))


@settings(max_examples=examples(150), deadline=None)
@given(
    st.datetimes(datetime.fromisoformat("1970-01-02"), datetime.fromisoformat("9999-12-30")),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timedelta(minutes=minutes)),
)
def test_a_time_as_text_is_the_same_moment_in_every_zone(
    local: datetime, offset: timedelta
) -> None:
    sign, minutes = "-" if offset < timedelta() else "+", abs(offset) // timedelta(minutes=1)
    text = f"{local.isoformat()}{sign}{minutes // 60:02}:{minutes % 60:02}"
    expected = (local.replace(tzinfo=UTC) - offset - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        milliseconds=1
    )
    value = {"event_id": "e", "lead_id": "a", "change_type": "CREATED", "occurred_at": text}
    assert decode_json("LeadChanged", json.dumps(value).encode())["occurred_at"] == expected
