"""The history of a CRM that is in its Postgres, its outbox, or a topic of Debezium."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leadstream.cli.main import main
from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres
from producer.crm import connected, create_schema, fill, training_table
from producer.outbox_log import changes_of_outbox
from producer.simulator import SimulatedCrm
from schemas.codec import Writer
from tests.fakes import MemoryBroker
from tests.histories import CHANGES, MemoryHistory, stored
from tests.integration.described import contacts_crm
from tests.integration.outboxes import outbox_crm, schema_of_its_own
from tests.integration.running import Stage
from tests.unit.test_schemas_foreign import MESSAGES

Import = Callable[..., dict[str, Any]]
AUDIT = """
create table sales{s}.audit (
    number bigserial primary key, contact uuid, attribute text, was text, became text,
    changed_on timestamp, new_row jsonb
)
"""
FIELD_LOG = """
[history]
schema = "sales{s}"
table = "audit"
lead = "contact"
field = "attribute"
old = "was"
new = "became"
at = "changed_on"
"""
ROW_LOG = """
[history]
schema = "sales{s}"
table = "audit"
lead = "contact"
at = "changed_on"
row = "new_row"
"""


@pytest.fixture
def imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Import:
    """Import into the history of this test, and return the report."""
    monkeypatch.setenv("LEADSTREAM_HISTORY", str(tmp_path / "history"))

    def run(*words: str, code: int = 0, **settings: str) -> dict[str, Any]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        assert main(["history", "import", *words, "--json"]) == code
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    return run


def statuses(folder: Path) -> list[tuple[str, str | None]]:
    rows = stored(folder / "history", "changes")
    return [(row["lead_id"], row["status"]) for row in rows]


@pytest.mark.postgres
def test_an_audit_table_of_fields_or_of_rows_becomes_other_states(
    postgres: Postgres, tmp_path: Path, imported: Import
) -> None:
    with contacts_crm(postgres.url, tmp_path) as crm:
        crm.do(AUDIT.format(s=crm.suffix))
        ada = crm.add(stage="won", source_id=2, created_on="2025-01-01 12:00", gpa="3.50")
        gone = crm.add(stage="won", deleted_at="2025-02-01", created_on="2025-01-01 12:00")
        log = [
            (ada, "stage", "open", "won", "2025-03-01 12:00"),
            (ada, "source_id", "1", "2", "2025-02-01 12:00"),
            (ada, "gpa", None, "3.5", "2025-02-01 12:00"),
            (ada, "gpa", "3.50", "3.50", "2025-02-02 12:00"),
            (ada, "source_id", "9", "1", "2025-01-10 12:00"),
            (ada, "full_name", "A", "B", "2025-02-01 12:00"),
            (gone, "stage", "open", "won", "2025-01-20 12:00"),
        ]
        columns = "contact, attribute, was, became, changed_on"
        statement = f"insert into sales{crm.suffix}.audit ({columns}) values (%s, %s, %s, %s, %s)"
        for row in log:
            crm.do(statement, *row)
        applied = (
            f"insert into {crm.applications} (contact_id, state, submitted_on) values (%s, %s, %s)"
        )
        crm.do(applied, ada, "submitted", "2025-03-01")
        crm.do(applied, ada, "draft", "2025-02-01")
        settings = {"DATABASE_URL": crm.url, "LEADSTREAM_FIELDS": str(crm.file)}
        described = crm.file.read_text()
        crm.file.write_text(described + FIELD_LOG.format(s=crm.suffix))
        since = ("--tracked-since", "2025-01-01", "--tracked", "country_code")
        found = imported("--postgres", *since, **settings)
        assert found["not_placed"] == {"unknown_lead": 1, "unread_field": 1, "unreadable": 1}
        rows = stored(tmp_path / "history", "changes")
        assert [
            (
                row["occurred_at"].isoformat()[:16],
                row["status"],
                row["source"],
                row["numbers"].get("gpa"),
                row["touchpoint_count"],
                row["categories"],
            )
            for row in rows
        ] == [
            ("2025-01-01T11:00", "open", None, None, None, {"country": "DE"}),
            ("2025-01-10T11:00", "open", "fair", None, None, {"country": "DE"}),
            ("2025-02-01T11:00", "open", "web", 3.5, None, {"country": "DE"}),
            ("2025-02-02T11:00", "open", "web", 3.5, None, {"country": "DE"}),
            ("2025-03-01T11:00", "won", "web", 3.5, None, {"country": "DE"}),
        ]
        [outcome] = stored(tmp_path / "history", "outcomes")
        assert outcome["decided_at"].isoformat()[:16] == "2025-03-01T22:59"
        again = imported("--postgres", *since, **settings)
        assert (again["changes"]["written"], again["changes"]["known"]) == (0, 5)
        # The same CRM logs full rows, by a trigger of its own.
        crm.do(f"delete from sales{crm.suffix}.audit")
        crm.file.write_text(described + ROW_LOG.format(s=crm.suffix))
        full = f"""insert into sales{crm.suffix}.audit (contact, changed_on, new_row)
            select contact_uuid, %s, to_jsonb(c) || %s::jsonb from {crm.contacts} c"""
        crm.do(full, "2025-04-01 12:00", json.dumps({"stage": "lost", "deleted_at": None}))
        crm.do(full, "2025-01-10 12:00", "{}")  # a moment that is there
        found = imported("--postgres", **settings)
        assert found["changes"] == {"written": 1, "known": 1, "erased": 0}
        assert found["not_placed"] == {"unknown_lead": 2}
        assert statuses(tmp_path)[-1] == (ada, "lost")
        # The leads of this database, next to a log in a file.
        (tmp_path / "log.csv").write_text(
            "contact,attribute,was,became,changed_on\n"
            f"{ada},stage,open,won,2025-03-01 12:00\n{ada},stage,new,open,2025-01-15 12:00\n"
        )
        crm.file.write_text(described + FIELD_LOG.format(s=crm.suffix))
        file = str(tmp_path / "log.csv")
        found = imported(file, "--format", "fields", *since, **settings)
        assert found["changes"] == {"written": 1, "known": 2, "erased": 0}
        assert statuses(tmp_path)[-1] == (ada, "open")


@pytest.mark.postgres
def test_a_crm_without_kafka_remembers_nothing_before_its_first_relay(
    postgres: Postgres, tmp_path: Path, imported: Import
) -> None:
    with outbox_crm(postgres.url) as crm:
        crm.add("ada", "gone", status="new")
        crm.score("ada", 60.25)
        crm.do("delete from people where id = 'gone'")
        crm.do("insert into applications (person_id, submitted_at) values ('ada', now())")
        found = imported("--outbox", DATABASE_URL=crm.url)
        assert found["changes"] == {"written": 2, "known": 0, "erased": 0}
        assert found["not_placed"] == {"deleted": 2}
        assert found["outcomes"]["written"] == 1
        scores = [row["lead_score"] for row in stored(tmp_path / "history", "changes")]
        assert scores == [None, 60.25]
        # The relay publishes the same changes with the same ids, and the writer got one of them.
        crm.score("ada", 70)
        *_, last = [
            each
            for each in changes_of_outbox(crm.url, None)
            if isinstance(each, dict) and each.get("lead_id") == "ada" and "lead" in each
        ]
        broker = MemoryBroker()
        broker.append(Output(CHANGES, b"ada", Writer("LeadChanged").encode(last)))
        MemoryHistory(broker, tmp_path / "history").write()
        again = imported("--outbox", DATABASE_URL=crm.url)
        assert again["changes"] == {"written": 0, "known": 3, "erased": 0}
        assert again["outcomes"]["known"] == 1


@pytest.mark.postgres
def test_the_simulated_crm_has_other_states_in_the_history_than_in_its_own_table(
    postgres: Postgres, tmp_path: Path, imported: Import
) -> None:
    with schema_of_its_own(postgres.url) as (url, _), connected(url) as conn:
        create_schema(conn)
        start = 1_735_689_600_000
        fill(conn, SimulatedCrm(7, start=start, leads=40, days=60))
        found = imported("--postgres", DATABASE_URL=url)
        rows = conn.execute(
            "select event_id, lead_id, state from lead_history where state is not null"
        ).fetchall()
        assert found["changes"]["written"] == len(rows) > 40
        history = {row["event_id"]: row for row in stored(tmp_path / "history", "changes")}
        for event_id, lead_id, state in rows:
            row = history[event_id]
            assert row["lead_id"] == lead_id
            assert {name: row[name] for name in state if name != "created_at"} == {
                name: value for name, value in state.items() if name != "created_at"
            }
        [outcomes] = conn.execute("select count(distinct person_id) from applications").fetchone()  # type: ignore[misc]
        assert found["outcomes"]["written"] == outcomes
        # The short form has a row of training for some of these moments, and for no other.
        table = training_table(url, 30)
        moments = {
            (row["lead_id"], round(row["occurred_at"].timestamp() * 1000))
            for row in history.values()
        }
        assert set(zip(table["lead_id"], table["as_of"], strict=True)) <= moments
        assert imported("--postgres", DATABASE_URL=url)["changes"]["written"] == 0


@pytest.mark.broker
def test_a_topic_of_debezium_and_its_file_become_the_same_states_twice(
    kafka: Broker, tmp_path: Path, imported: Import
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused")
    messages = MESSAGES["plain"]
    topic = stage.topics.rescore_requests  # any topic of this test
    stage.send(
        Output(topic, each["key"].encode(), each["value"] and each["value"].encode())
        for each in messages
    )
    lines = [json.dumps({"key": each["key"], "value": each["value"]}) for each in messages]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, "junk"]))
    words = ("--format", "debezium")
    found = imported(str(tmp_path / "events.jsonl"), *words)
    assert found["changes"]["written"] == 1
    # The lead ada was deleted at the end, and so was what it had been.
    assert {lead for lead, _ in statuses(tmp_path)} == {"before"}
    assert found["not_placed"]["not_a_row"] == 1
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap}
    again = imported("--from", topic, *words, **environment)
    assert again["changes"] == {"written": 0, "known": 1, "erased": 0}
    assert again["not_placed"]["deleted"] == found["not_placed"]["deleted"] > 0


def test_a_source_that_is_named_twice_or_not_at_all_is_guessed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEADSTREAM_HISTORY", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    for words, error in (
        ([], "name one source"),
        (["x.csv", "--outbox"], "name one source"),
        (["x.csv"], "--format is missing"),
        (["--from", "topic"], "add --format debezium"),
        (["--postgres"], "DATABASE_URL"),
    ):
        assert main(["history", "import", *words]) == 2
        assert error in capsys.readouterr().err
