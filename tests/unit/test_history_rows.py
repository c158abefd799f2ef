"""Rows of the history are what the codec reads, whichever decoder read them."""

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from consumer.history.arrow_rows import from_records, months
from consumer.history.table_schemas import (
    CHANGES,
    OUTCOMES,
    PREDICTIONS,
    TABLES,
    HistoryTable,
    record_schema,
    table_schema,
)
from consumer.history.topic_records import HistoryReader
from consumer.scoring.leads import Lead
from leadstream.kafka.topics import Topics
from schemas.codec import Writer
from schemas.columns import COMPILED, MIN_ROWS
from tests.fakes import FakeMessage
from tests.subscriber import prediction
from tests.unit.pipelines import NOW_MS, STATE, FakeLeads, change, event, raw

TOPICS = Topics()
_CHANGE = Writer("LeadChanged")


def odd_text(rng: random.Random) -> str:
    return rng.choice(["", "a", "ü" * 40, "\U0001f600", "null", "x" * 300, '"', "\x00", "\u2028"])


def odd_double(rng: random.Random) -> float:
    return rng.choice([0.0, -0.0, 1.5, float("inf"), -1e308, 5e-324, 1e15])


def odd_state(rng: random.Random) -> dict[str, Any]:
    """A state with every kind of absent, empty, large and repeated value."""

    def optional(value: Any) -> Any:
        return rng.choice([None, value])

    many = rng.choice([0, 1, 3, 70])
    return {
        "created_at": rng.choice([0, NOW_MS - 1, -(2**60), -5]),
        "lead_score": optional(odd_double(rng)),
        "engagement_score": optional(odd_double(rng)),
        "touchpoint_count": optional(rng.choice([0, -(2**31), 2**31 - 1])),
        **{
            name: optional(odd_text(rng))
            for name in ("lifecycle_state", "status", "source", "programme_name", "campus_name")
        },
        "numbers": {f"{odd_text(rng)}{i}": odd_double(rng) for i in range(many)},
        "categories": {f"{odd_text(rng)}{i}": odd_text(rng) for i in range(many)},
    }


def odd_change(rng: random.Random, offset: int) -> FakeMessage:
    lead_id = f"lead {odd_text(rng)[:200]}{offset}"
    record = event(
        lead_id,
        event_id=f"e{offset}",
        lead=rng.choice([None, odd_state(rng)]),
        occurred_at=rng.choice([0, NOW_MS, 253_402_300_799_999]),
        origin=rng.choice(["crm", "leadstream", ""]),
        change_type=rng.choice(["CREATED", "UPDATED", "RESCORE"]),
        lead_version=rng.choice([0, -1, 2**63 - 1]),
    )
    if record["lead"]:
        record["lead"]["created_at"] = min(record["lead"]["created_at"], record["occurred_at"])
    return FakeMessage(TOPICS.lead_changes, 0, offset, lead_id.encode(), _CHANGE.encode(record))


def reader(leads: FakeLeads | None = None) -> HistoryReader:
    return HistoryReader(TOPICS, None, leads)


@pytest.mark.skipif(not COMPILED, reason="the extra fast is not installed")
@pytest.mark.parametrize("seed", range(6))
def test_a_batch_in_columns_has_other_rows_than_its_records_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    messages = [odd_change(rng, offset) for offset in range(60)]
    # Below MIN_ROWS every record goes through the codec.
    alone = [
        reader().read(TOPICS.lead_changes, messages[i : i + MIN_ROWS - 1])
        for i in range(0, 60, MIN_ROWS - 1)
    ]
    together = reader().read(TOPICS.lead_changes, messages)
    assert not together.skipped
    expected = pa.concat_tables([each.rows for each in alone])
    assert together.rows.schema == record_schema(CHANGES)
    assert together.rows.sort_by("offset").to_pylist() == expected.to_pylist()
    assert together.states == {
        kind: sum(each.states[kind] for each in alone) for kind in together.states
    }


@pytest.mark.skipif(not COMPILED, reason="the extra fast is not installed")
def test_a_map_in_which_a_key_occurs_twice_has_two_entries_that_no_reader_can_tell_apart() -> None:
    value = bytearray(_CHANGE.encode(event("lead", {"numbers": {"a": 1.0, "b": 2.0}})))
    at = value.index(b"\x02a")
    value[at + 1 : at + 2] = b"b"
    messages = [*(change(i) for i in range(20)), raw(20, bytes(value), b"lead")]
    found = reader().read(TOPICS.lead_changes, messages)
    assert not found.skipped
    assert found.rows.sort_by("offset")["numbers"][20].as_py(maps_as_pydicts="strict") == {"b": 2.0}


@pytest.mark.parametrize("many", [1, 30])
def test_what_cannot_be_read_costs_more_than_itself(many: int) -> None:
    good = [change(i, f"lead_{i}") for i in range(many)]
    bad = [
        raw(many, b"junk"),
        raw(many + 1, _CHANGE.encode(event("other")), b"key"),
        raw(many + 2, None, b"\xff"),
        change(many + 3, "far", occurred_at=2**62),
        change(many + 4, "loop", occurred_at=2**62, origin="leadstream"),
        raw(many + 5, b"\xc3\x01" + b"x" * 300_000),
    ]
    found = reader().read(TOPICS.lead_changes, [*good, *bad])
    assert found.rows["offset"].to_pylist() == list(range(many))
    reasons = {row: poison.reason.value for row, poison in found.skipped.items()}
    assert reasons == {
        many: "UNKNOWN_FRAMING",
        many + 1: "INVALID_EVENT",
        many + 2: "INVALID_EVENT",
        many + 3: "INVALID_EVENT",
        many + 4: "INVALID_EVENT",
        many + 5: "OVERSIZED",
    }


@pytest.mark.parametrize("many", [2, 30])
def test_a_change_without_state_gets_the_state_of_now_or_none_and_both_are_counted(
    many: int,
) -> None:
    young = STATE | {"created_at": NOW_MS + 1}
    leads = FakeLeads({"known": Lead(dict(STATE), 3), "young": Lead(young, 3)})
    messages = [change(i, f"lead_{i}") for i in range(many)]
    messages += [
        change(many + i, lead_id, lead=None)
        for i, lead_id in enumerate(["known", "unknown", "young"])
    ]
    found = reader(leads).read(TOPICS.lead_changes, messages)
    rows = found.rows.sort_by("offset").to_pylist()
    assert [row["state_source"] for row in rows] == ["event"] * many + ["database", None, None]
    assert [row["status"] for row in rows[many:]] == ["new", None, None]
    assert found.states == {"event": many, "database": 1, "missing": 2}
    assert leads.queries == [["known", "unknown", "young"]]
    without = reader().read(TOPICS.lead_changes, messages)
    assert without.states == {"event": many, "database": 0, "missing": 3}


def test_an_erasure_that_becomes_a_row_keeps_the_lead() -> None:
    messages = [
        change(0, "a", change_type="DELETED", occurred_at=NOW_MS - 5),
        raw(1, None, b"b"),
        change(2, "c", change_type="DELETED", occurred_at=9_000_000_000_000),
    ]
    found = reader().read(TOPICS.lead_changes, messages)
    assert len(found.rows) == 0
    sent = messages[0].timestamp()[1]
    assert [(each.lead_id, each.until_ms, each.offset) for each in found.erasures] == [
        ("a", min(NOW_MS - 5, sent + 86_400_000), 0),
        ("b", sent, 1),
        ("c", sent + 86_400_000, 2),
    ]


def test_predictions_and_outcomes_keep_every_field() -> None:
    codec = Writer("LeadPrediction")
    record = prediction("lead")
    message = FakeMessage(TOPICS.shadow_predictions, 3, 9, b"lead", codec.encode(record))
    found = reader().read(TOPICS.shadow_predictions, [message])
    [row] = found.rows.to_pylist()
    times = ("occurred_at", "scored_at", "valid_until")
    assert {name: row[name] for name in record if name not in times} == {
        name: value for name, value in record.items() if name not in times
    }
    assert [round(row[name].timestamp() * 1000) for name in times] == [
        record[name] for name in times
    ]
    assert (row["topic"], row["partition"], row["offset"]) == (TOPICS.shadow_predictions, 3, 9)
    outcome = {"lead_id": "lead", "converted": True, "decided_at": NOW_MS}
    messages = [
        FakeMessage(TOPICS.lead_outcomes, 0, 0, b"lead", Writer("LeadOutcome").encode(outcome)),
        FakeMessage(TOPICS.lead_outcomes, 0, 1, b"lead", b"junk"),
        FakeMessage(
            TOPICS.lead_outcomes,
            0,
            2,
            b"lead",
            Writer("LeadOutcome").encode(outcome | {"decided_at": -1}),
        ),
    ]
    found = reader().read(TOPICS.lead_outcomes, messages)
    assert [row["converted"] for row in found.rows.to_pylist()] == [True]
    assert sorted(found.skipped) == [1, 2]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_field_of_a_record_that_has_no_column_is_lost(table: HistoryTable) -> None:
    columns = table_schema(table).names
    assert len(set(columns)) == len(columns)
    empty = from_records(record_schema(table), [])
    assert len(empty) == 0
    assert {"lead_id", table.time, "topic", "partition", "offset", "written_at", "month"} <= set(
        columns
    )


def test_the_names_of_the_columns_are_a_contract_with_those_that_query_them() -> None:
    assert table_schema(OUTCOMES).names == [
        *("lead_id", "converted", "decided_at", "topic", "partition", "offset"),
        *("written_at", "month"),
    ]
    assert table_schema(CHANGES).names == [
        *("event_id", "lead_id", "change_type", "occurred_at", "lead_version", "origin"),
        *("created_at", "lead_score", "engagement_score", "touchpoint_count", "lifecycle_state"),
        *("status", "source", "programme_name", "campus_name", "numbers", "categories"),
        *("state_source", "topic", "partition", "offset", "written_at", "month"),
    ]
    assert {"prediction_id", "probability", "reasons", "variant", "scored_at"} <= set(
        table_schema(PREDICTIONS).names
    )


def test_a_time_belongs_to_the_month_of_utc() -> None:
    times = np.array(["2026-11-30T23:59:59.999", "2026-12-01", "1970-01-01"], "datetime64[us]")
    found = months(pa.array(times).cast(pa.timestamp("us", tz="UTC")))
    assert found.to_pylist() == ["2026-11", "2026-12", "1970-01"]
