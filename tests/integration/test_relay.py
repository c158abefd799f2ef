"""The outbox relay: what the CRM commits to Postgres is on Kafka, once and in order."""

import contextlib
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from leadstream.local.broker import Broker
from leadstream.local.kafka import KafkaProcess
from leadstream.local.postgres import Postgres, PostgresProcess
from producer.crm import create_schema
from producer.migrate import migrate
from schemas.codec import Reader
from tests.integration.outboxes import OutboxCrm, outbox_crm
from tests.integration.running import QUICK, Running, Stage, until
from tests.integration.test_refused_letters import configure

_CHANGE, _OUTCOME = Reader("LeadChanged"), Reader("LeadOutcome")


@pytest.fixture
def crm(postgres: Postgres) -> Iterator[OutboxCrm]:
    with outbox_crm(postgres.url) as crm:
        yield crm


@pytest.fixture
def stage(kafka: Broker, crm: OutboxCrm, tmp_path: Path) -> Stage:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused", partitions=3)
    stage.environment["DATABASE_URL"] = crm.url
    return stage


@contextlib.contextmanager
def relaying(stage: Stage, *arguments: str, **settings: str) -> Iterator[Running]:
    with stage.running("relay", *arguments, **(QUICK | settings)) as process:
        process.event("relay.opened")
        yield process


def changes(stage: Stage, count: int) -> list[dict[str, Any]]:
    """The committed changes, by partition and offset, once there are so many."""
    messages = stage.read(stage.topics.lead_changes, count)
    messages.sort(key=lambda message: (message.partition() or 0, message.offset() or 0))
    decoded = [_CHANGE.decode(message.value() or b"") for message in messages]
    assert [message.key() for message in messages] == [
        change["lead_id"].encode() for change in decoded
    ]
    return decoded


def by_lead(events: list[tuple[str, str]]) -> dict[str, list[str]]:
    grouped = defaultdict(list)
    for lead_id, event_id in events:
        grouped[lead_id].append(event_id)
    return dict(grouped)


def assert_as_the_outbox(stage: Stage, crm: OutboxCrm) -> None:
    """Each row once, and those of a lead in their order."""
    rows = crm.outbox()
    published = [(change["lead_id"], change["event_id"]) for change in changes(stage, len(rows))]
    assert Counter(published) == Counter(rows)
    assert by_lead(published) == by_lead(rows)


@pytest.mark.broker
@pytest.mark.postgres
def test_what_the_crm_does_is_published_with_its_state_as_it_was_at_that_moment(
    stage: Stage, crm: OutboxCrm
) -> None:
    crm.do("insert into programmes values (77, 'Marine Biology')")
    with relaying(stage) as process:
        crm.add(
            "ada",
            lead_score=10,
            status="new",
            programme_id=77,
            lead_version=1,
            email="ada@example.com",
        )
        crm.do("update people set lead_score = 20, lead_version = 2 where id = 'ada'")
        crm.do(
            "update people set first_name = 'Ada', email = null, conversion_probability = "
            "0.9 where id = 'ada'"
        )
        crm.do("update people set status = status, lead_score = lead_score where id = 'ada'")
        crm.do(
            "insert into applications (person_id, submitted_at) values ('ada', '2026-01-02 "
            "03:04:05.678+00')"
        )
        crm.do("delete from people where id = 'ada'")
        created, updated, deleted = changes(stage, 3)
        [outcome] = stage.read(stage.topics.lead_outcomes, 1)
        assert process.stop() == 0
    assert [created["change_type"], updated["change_type"], deleted["change_type"]] == [
        "CREATED",
        "UPDATED",
        "DELETED",
    ]
    assert created["lead"]["lead_score"] == 10, (
        "the state of that moment, not of the moment of reading"
    )
    assert updated["lead"] | {"created_at": 0} == {
        **dict.fromkeys(
            ("engagement_score", "touchpoint_count", "lifecycle_state", "source", "campus_name")
        ),
        "created_at": 0,
        "lead_score": 20,
        "status": "new",
        "programme_name": "Marine Biology",
        "numbers": {},
        "categories": {},
    }
    assert [change["lead_version"] for change in (created, updated, deleted)] == [1, 2, 2]
    assert deleted["lead"] is None
    assert {change["origin"] for change in (created, updated, deleted)} == {"crm"}
    assert _OUTCOME.decode(outcome.value() or b"") == {
        "lead_id": "ada",
        "converted": True,
        "decided_at": 1_767_323_045_678,
    }
    assert len(process.events("batch")) <= 6


@pytest.mark.broker
@pytest.mark.postgres
def test_kills_at_any_moment_under_concurrent_writers_lose_double_and_disorder_nothing(
    stage: Stage, crm: OutboxCrm
) -> None:
    leads = [f"lead_{i}" for i in range(20)]
    crm.add(*leads)
    stop = threading.Event()

    def write(seed: int) -> None:
        rng = random.Random(seed)
        with psycopg.connect(crm.url) as connection:
            while not stop.is_set():
                # Locked in one order, two writers never wait for each other.
                for lead_id in sorted(rng.sample(leads, rng.randint(1, 4))):
                    connection.execute(
                        "update people set lead_score = %s where id = %s", (rng.random(), lead_id)
                    )
                # Open for a while with its positions drawn, as others commit theirs.
                stop.wait(rng.random() * 0.03)
                if rng.random() < 0.1:
                    connection.rollback()
                else:
                    connection.commit()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for writer in writers:
        writer.start()
    rng = random.Random(7)
    try:
        for _ in range(4):
            with stage.running("relay", **QUICK) as process:
                process.event("relay.opened")
                batches = rng.randint(0, 30)
                read = partial(process.events, "batch")
                until(lambda r=read, n=batches: len(r()) >= n, f"{batches} batches")  # type: ignore[misc]
                process.kill()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    with relaying(stage) as process:
        assert_as_the_outbox(stage, crm)
        assert process.stop() == 0
    assert_as_the_outbox(stage, crm)


@pytest.mark.broker
@pytest.mark.postgres
def test_of_two_relays_the_first_is_fenced_and_says_so(stage: Stage, crm: OutboxCrm) -> None:
    crm.add("ada")
    with relaying(stage) as first:
        first.event("batch")
        with relaying(stage) as second:
            for score in range(5):
                crm.score("ada", score)
            assert first.exit_code() == 1
            assert "another relay of this group has taken over" in first.sentences()[-1]
            assert_as_the_outbox(stage, crm)
            assert second.stop() == 0
    assert_as_the_outbox(stage, crm)


@pytest.mark.broker
@pytest.mark.postgres
def test_postgres_and_brokers_that_go_away_are_waited_for(
    fresh_kafka: KafkaProcess, fresh_postgres: PostgresProcess, tmp_path: Path
) -> None:
    url = fresh_postgres.url
    stage = Stage.on(fresh_kafka.bootstrap, tmp_path, "unused")
    stage.environment["DATABASE_URL"] = url
    with psycopg.connect(url, autocommit=True) as connection:
        create_schema(connection)
        migrate(url)
        OutboxCrm(url, connection).add("ada")
    with relaying(stage) as process:
        assert len(changes(stage, 1)) == 1
        fresh_postgres.kill()
        process.event("relay.held", dependency="postgres")
        assert process.missing().keys() == {"postgres"}
        fresh_postgres.start()
        process.event("relay.resumed", dependency="postgres")
        with psycopg.connect(url, autocommit=True) as connection:
            crm = OutboxCrm(url, connection)
            crm.score("ada", 1)
            assert len(changes(stage, 2)) == 2
            fresh_kafka.kill()
            crm.score("ada", 2)
            process.event("relay.held", dependency="brokers")
            fresh_kafka.start()
            process.event("relay.resumed", dependency="brokers")
            crm.score("ada", 3)
            assert_as_the_outbox(stage, crm)
        assert process.missing() == {}
        assert process.stop() == 0
        assert len(process.lines()) < 60, "the log was flooded"
        assert process.sentences() == []


@pytest.mark.broker
@pytest.mark.postgres
def test_after_a_restore_no_new_row_is_skipped_and_old_ones_are_trimmed(
    stage: Stage, crm: OutboxCrm
) -> None:
    crm.add("ada", "ben", "cleo")
    with relaying(stage) as process:
        assert len(changes(stage, 3)) == 3
        assert process.stop() == 0
    # As after a restore: the last row was never written, and its position is drawn again.
    crm.do("delete from leadstream_outbox where position = 3")
    crm.do("alter table leadstream_outbox alter position restart with 3")
    crm.score("ada", 50)
    with stage.running("relay") as process:
        assert process.exit_code() == 1
        assert (
            "does not have the row that was published last (position 3)" in process.sentences()[-1]
        )
    crm.add("dora")
    crm.do(
        "update leadstream_outbox set occurred_at = now() - interval '8 days' where "
        "lead_id <> 'ben'"
    )
    with relaying(stage, "--after", "2", "--no-state") as process:
        published = changes(stage, 5)
        assert [change["lead_id"] for change in published].count("ada") == 2
        assert sum(change["lead"] is None for change in published) == 2
        assert process.event("outbox.trimmed")["rows"] == 2
        # One is too young, and the last one tells what was published.
        assert [lead_id for lead_id, _ in crm.outbox()] == ["ben", "dora"]
        assert process.stop() == 0


@pytest.mark.broker
@pytest.mark.postgres
def test_marked_changes_and_rows_that_cannot_be_written_all_get_through(
    stage: Stage, crm: OutboxCrm
) -> None:
    crm.add("marked")
    with crm.connection.transaction():
        crm.do("set local leadstream.origin = 'leadstream'")
        crm.score("marked", 1)
    crm.add("long", status="x" * 300_000)
    crm.add("early", lead_score="NaN", engagement_score="Infinity", touchpoint_count=3)
    crm.do("update people set created_at = 'infinity', lead_version = -1 where id = 'early'")
    crm.do("update people set id = 'renamed' where id = 'marked'")
    with relaying(stage) as process:
        states = defaultdict(list)
        for change in changes(stage, 7):
            states[change["lead_id"]].append(change)
        assert process.stop() == 0
    assert [change["origin"] for change in states["marked"]] == ["crm", "leadstream", "crm"]
    assert states["long"][0]["lead"] is None
    state = states["early"][0]["lead"]
    assert (state["lead_score"], state["engagement_score"], state["touchpoint_count"]) == (
        None,
        None,
        3,
    )
    assert states["early"][1]["lead"] is None, "no time of creation is no state"
    assert states["marked"][2]["change_type"] == "DELETED"
    assert states["renamed"][0]["change_type"] == "CREATED"
    assert_as_the_outbox(stage, crm)


@pytest.mark.broker
@pytest.mark.postgres
def test_an_odd_row_of_the_outbox_costs_itself_and_is_counted(stage: Stage, crm: OutboxCrm) -> None:
    add = "insert into leadstream_outbox (record, lead_id, change_type, occurred_at) values "
    crm.add(*[f"before_{number}" for number in range(20)])
    crm.do(f"{add} ('LeadChanged', 'secret_late', 'UPDATED', 'infinity')")
    crm.add(*[f"between_{number}" for number in range(20)])
    crm.do(f"{add} ('LeadChanged', 'secret_early', 'UPDATED', '-infinity')")
    crm.do(f"{add} ('LeadChanged', 'secret_kind', 'no such kind', now())")
    crm.do(f"{add} ('LeadChanged', 'secret_none', null, now())")
    crm.do(f"{add} ('LeadChanged', repeat('secret', 400000), 'UPDATED', now())")
    crm.add("after")
    with relaying(stage) as process:
        found = changes(stage, 41)
        until(lambda: process.metric("relay_rows_total", record="skipped") == 5, "five are skipped")
        assert len(found) == 41
        assert process.events("relay.held") == []
        assert len({line["position"] for line in process.events("row.skipped")}) == 5
        assert not any("secret" in line for line in process.lines())
        assert process.stop() == 0


@pytest.mark.broker
@pytest.mark.postgres
def test_a_topic_that_accepts_less_than_before_must_not_hold_the_relay_for_ever(
    stage: Stage, crm: OutboxCrm
) -> None:
    plain = {"LEADSTREAM_KAFKA_COMPRESSION_TYPE": "none"}
    with relaying(stage, **plain) as process:
        crm.add("first")
        changes(stage, 1)
        configure(stage, stage.topics.lead_changes, max_message_bytes="600")
        crm.add("long", status="x" * 1000)
        crm.add(*[f"short_{number}" for number in range(20)])
        found = {change["lead_id"]: change for change in changes(stage, 22)}
        assert found["long"]["lead"] is None
        assert found["short_7"]["lead"] is not None
        assert process.stop() == 0
