"""The history as its operators meet it: processes that are killed and shared, and what the tables
then hold, offset by offset.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from leadstream.kafka.batch import Message, Output
from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres
from schemas.codec import Reader, Writer
from tests.histories import files_with, stored
from tests.integration.forked import run_verb
from tests.integration.outboxes import outbox_crm
from tests.integration.running import QUICK, Stage, until
from tests.subscriber import prediction
from tests.unit.pipelines import NOW_MS

pytestmark = pytest.mark.broker
_PREDICTION, _OUTCOME = Writer("LeadPrediction"), Writer("LeadOutcome")
_CHANGE = Reader("LeadChanged")


def scored(topic: str, lead_id: str) -> Output:
    return Output(topic, lead_id.encode(), _PREDICTION.encode(prediction(lead_id)))


def decided(topic: str, lead_id: str) -> Output:
    record = {"lead_id": lead_id, "converted": True, "decided_at": NOW_MS}
    return Output(topic, lead_id.encode(), _OUTCOME.encode(record))


def places_of(messages: Iterable[Message]) -> set[tuple[str, int, int]]:
    return {(m.topic(), m.partition(), m.offset()) for m in messages}


def written(folder: Path, table: str) -> list[tuple[str, int, int]]:
    """The place of every row, those that are there twice too; empty without a table."""
    if not (folder / table / "_delta_log").exists():
        return []
    rows = DeltaTable(str(folder / table)).to_pyarrow_table(
        columns=["topic", "partition", "offset"]
    )
    return sorted(zip(*(rows[name].to_pylist() for name in rows.schema.names), strict=True))


def test_every_record_is_in_its_table_once_after_kills_and_with_two_processes(
    kafka: Broker, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused")
    folder = tmp_path / "history"
    topics = stage.topics
    settings = {
        "LEADSTREAM_HISTORY": str(folder),
        "LEADSTREAM_HISTORY_COMMIT_SECONDS": "0.2",
        **QUICK,
    }
    leads = [f"lead_{i}" for i in range(300)]
    others = [
        *(scored(topics.lead_predictions, lead) for lead in leads),
        *(scored(topics.shadow_predictions, lead) for lead in leads[:50]),
        *(decided(topics.lead_outcomes, lead) for lead in leads[:50]),
        Output(topics.lead_changes, b"junk", b"junk"),
    ]
    stage.send([*stage.changes("lead", 2000), *others])
    with stage.running("history", "write", **settings) as process:
        until(lambda: written(folder, "changes"), "a first commit")
        process.kill()
    stage.send(stage.changes("more", 1000))
    with (
        stage.running("history", "write", **settings) as one,
        stage.running("history", "write", **settings) as two,
    ):
        until(lambda: len(written(folder, "changes")) >= 3000, "all changes")
        for process in (one, two):
            process.until_ready()
        stage.send(stage.changes("last", 500))
        until(lambda: len(written(folder, "changes")) >= 3500, "the last changes")
        assert one.stop() == two.stop() == 0
        assert one.sentences() == two.sentences() == []
    junk = [m for m in stage.read(topics.lead_changes, 3501) if m.value() == b"junk"]
    for table, names in (
        ("changes", [topics.lead_changes]),
        ("predictions", [topics.lead_predictions, topics.shadow_predictions]),
        ("outcomes", [topics.lead_outcomes]),
    ):
        expected = {place for name in names for place in places_of(stage.read(name, 50))}
        assert written(folder, table) == sorted(expected - places_of(junk)), table
    values = {
        (m.partition(), m.offset()): m.value() or b"" for m in stage.read(topics.lead_changes, 1)
    }
    for row in stored(folder, "changes")[::100]:
        record = _CHANGE.decode(values[row["partition"], row["offset"]])
        assert (row["event_id"], row["lead_id"]) == (record["event_id"], record["lead_id"])
        assert row["status"] == record["lead"]["status"]
    found = verb("status", stage.environment | settings, tmp_path)
    assert {each["table"]: each["rows"] for each in found} == {
        "changes": 3500,
        "predictions": 350,
        "outcomes": 50,
    }
    assert sum(found[0]["offsets"][topics.lead_changes].values()) == 3501


def verb(name: str, environment: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """What a verb prints about the tables."""
    words = {"status": ["history", "status"], "compact": ["history", "compact"]}[name]
    done = run_verb(*words, "--json", folder=folder, environ=environment)
    done.check_returncode()
    tables: list[dict[str, Any]] = json.loads(done.stdout)["tables"]
    return tables


def test_an_erased_lead_leaves_every_file_by_itself_and_a_rest_by_hand(
    kafka: Broker, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused")
    folder, topics, secret = tmp_path / "history", stage.topics, "secret_lead_4711"
    settings = {
        "LEADSTREAM_HISTORY": str(folder),
        "LEADSTREAM_HISTORY_COMMIT_SECONDS": "0.1",
        "LEADSTREAM_HISTORY_ERASURE_HOURS": "0",
    }
    leads = ["before", secret, "zebra"]
    stage.send(
        [
            *(stage.change(lead) for lead in leads),
            *(scored(topics.lead_predictions, lead) for lead in leads),
            *(decided(topics.lead_outcomes, lead) for lead in leads),
        ]
    )
    with stage.running("history", "write", **settings) as process:
        until(lambda: len(files_with(folder, secret)) == 3, "the lead is in all tables")
        stage.send([Output(topics.lead_changes, secret.encode(), None)])
        until(lambda: not files_with(folder, secret), "the lead is in no file")
        until(lambda: process.metric("history_erased_rows_total", table="outcomes") == 1, "counted")
        assert process.stop() == 0
        assert secret not in "\n".join(process.lines())
    for table in ("changes", "predictions", "outcomes"):
        assert {row["lead_id"] for row in stored(folder, table)} == {"before", "zebra"}
    later = {"LEADSTREAM_HISTORY_ERASURE_HOURS": "24"}
    with stage.running("history", "write", **settings | later) as process:
        stage.send([Output(topics.lead_changes, b"before", None)])
        until(
            lambda: process.metric(
                "history_records_total", topic=topics.lead_changes, fate="erased"
            ),
            "it is recorded",
        )
        assert process.stop() == 0
    assert len(files_with(folder, "before")) == 3
    done = verb("compact", stage.environment | settings, tmp_path)
    assert [each["erased_rows"] for each in done] == [1, 1, 1]
    assert files_with(folder, "before") == []


@pytest.mark.postgres
def test_a_store_that_cannot_be_written_holds_the_writer_and_loses_nothing(
    kafka: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused")
    folder = tmp_path / "history"
    with outbox_crm(postgres.url) as crm:
        crm.add("known")
        settings = {
            "LEADSTREAM_HISTORY": str(folder),
            "LEADSTREAM_HISTORY_COMMIT_SECONDS": "0.1",
            "DATABASE_URL": crm.url,
        }
        folder.write_text("a file where a folder should be")
        now = round(time.time() * 1000)
        stage.send(
            [stage.change(lead, lead=None, occurred_at=now) for lead in ("known", "unknown")]
        )
        with stage.running("history", "write", **settings) as process:
            until(lambda: "history store" in process.missing(), "it says what is missing")
            folder.unlink()
            process.until_ready()
            until(lambda: len(written(folder, "changes")) == 2, "both are written")
            process.event("history.resumed", dependency="history store")
            assert process.metric("history_states_total", source="database") == 1
            assert process.metric("history_states_total", source="missing") == 1
            assert process.stop() == 0
        sources = {row["lead_id"]: row["state_source"] for row in stored(folder, "changes")}
        assert sources == {"known": "database", "unknown": None}
