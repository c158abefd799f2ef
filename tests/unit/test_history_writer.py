"""Each record is in its table exactly once, whatever ends or fences the writer."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from consumer.history import delta_store
from consumer.history.table_schemas import CHANGES as CHANGES_TABLE
from consumer.history.table_schemas import PREDICTIONS as PREDICTIONS_TABLE
from consumer.history.table_schemas import TABLES, table_schema
from consumer.history.writer import MAX_CONFLICTS
from leadstream.errors import Fenced, SettingsError, Transient, UserError
from leadstream.kafka.batch import Output
from schemas.codec import Writer
from tests.fakes import MemoryBroker
from tests.histories import (
    CHANGES,
    OUTCOMES,
    PREDICTIONS,
    SHADOW,
    MemoryHistory,
    files_with,
    offsets,
    stored,
)
from tests.subscriber import prediction
from tests.unit.pipelines import NOW_MS, event

_CHANGE, _PREDICTION = Writer("LeadChanged"), Writer("LeadPrediction")
_OUTCOME = Writer("LeadOutcome")


def changed(lead_id: str, **fields: Any) -> Output:
    return Output(CHANGES, lead_id.encode(), _CHANGE.encode(event(lead_id, **fields)))


def scored(lead_id: str, topic: str = PREDICTIONS, **fields: Any) -> Output:
    return Output(topic, lead_id.encode(), _PREDICTION.encode(prediction(lead_id, **fields)))


def decided(lead_id: str, at: int = NOW_MS) -> Output:
    record = {"lead_id": lead_id, "converted": True, "decided_at": at}
    return Output(OUTCOMES, lead_id.encode(), _OUTCOME.encode(record))


def broker_with(*outputs: Output) -> MemoryBroker:
    broker = MemoryBroker(now=NOW_MS)
    for output in outputs:
        broker.append(output)
    return broker


def test_each_topic_goes_to_its_table_and_is_read_on_from_there(tmp_path: Path) -> None:
    broker = broker_with(
        changed("a"), changed("b"), scored("a"), scored("a", SHADOW), decided("a"), decided("b")
    )
    first = MemoryHistory(broker, tmp_path)
    first.write()
    assert first.observer.rows == {CHANGES: 2, PREDICTIONS: 1, SHADOW: 1, OUTCOMES: 2}
    assert [row["lead_id"] for row in stored(tmp_path, "changes")] == ["a", "b"]
    assert [row["topic"] for row in stored(tmp_path, "predictions")] == [PREDICTIONS, SHADOW]
    assert offsets(tmp_path, "outcomes", OUTCOMES) == [0, 1]
    broker.append(changed("c"))
    # The group's offsets are those of nobody: the table decides.
    broker.committed.clear()
    second = MemoryHistory(broker, tmp_path)
    second.write()
    assert second.observer.rows == {CHANGES: 1}
    assert offsets(tmp_path, "changes") == [0, 1, 2]


def test_an_offset_of_the_group_beyond_the_table_would_leave_records_out(tmp_path: Path) -> None:
    broker = broker_with(*(changed(f"lead {i}") for i in range(5)))
    broker.committed["history", CHANGES] = 3
    MemoryHistory(broker, tmp_path).write()
    assert offsets(tmp_path, "changes") == [0, 1, 2, 3, 4]


def test_a_writer_that_ends_before_its_commit_loses_nothing(tmp_path: Path) -> None:
    broker = broker_with(changed("a"))
    MemoryHistory(broker, tmp_path).read()
    broker.append(changed("b"))
    MemoryHistory(broker, tmp_path).write()
    assert offsets(tmp_path, "changes") == [0, 1]


def test_two_writers_on_one_partition_write_it_once(tmp_path: Path) -> None:
    broker = broker_with(*(changed(f"lead {i}") for i in range(4)))
    zombie, owner = MemoryHistory(broker, tmp_path), MemoryHistory(broker, tmp_path)
    zombie.read()
    owner.write()
    broker.append(changed("lead 4"))
    zombie.read()
    zombie.writer.flush()  # of what it holds, only the last is new
    owner.write()
    assert offsets(tmp_path, "changes") == [0, 1, 2, 3, 4]
    assert zombie.observer.rows[CHANGES] == 1
    assert owner.observer.rows[CHANGES] == 4


def test_a_commit_that_another_writer_overtakes_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = broker_with(changed("a"), changed("b"))
    slow, fast = MemoryHistory(broker, tmp_path), MemoryHistory(broker, tmp_path)
    slow.read()
    fast.read()
    append = slow.tables.stored[CHANGES_TABLE].append

    def overtaken(*arguments: Any) -> None:
        fast.writer.flush()
        append(*arguments)

    monkeypatch.setattr(slow.tables.stored[CHANGES_TABLE], "append", overtaken)
    slow.writer.flush()
    assert offsets(tmp_path, "changes") == [0, 1]
    assert slow.observer.conflicts == {"changes": 1}
    assert slow.observer.rows[CHANGES] == 0


def test_an_answer_of_the_store_that_is_lost_writes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = broker_with(changed("a"), scored("a"))
    history = MemoryHistory(broker, tmp_path)
    history.read()
    table = history.tables.stored[CHANGES_TABLE]
    append = table.append

    def lost(*arguments: Any) -> None:
        append(*arguments)
        raise Transient(delta_store.DEPENDENCY, "no answer")

    monkeypatch.setattr(table, "append", lost)
    with pytest.raises(Transient, match="history store: no answer"):
        history.writer.flush()
    monkeypatch.setattr(table, "append", append)
    history.clock.now += 11
    assert history.writer.flush_due()
    assert offsets(tmp_path, "changes") == [0]
    assert offsets(tmp_path, "predictions", PREDICTIONS) == [0]


def test_a_writer_that_is_always_overtaken_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = MemoryHistory(broker_with(changed("a")), tmp_path)
    history.read()

    def conflict(*_: Any) -> None:
        raise delta_store.CommitConflict("again")

    monkeypatch.setattr(history.tables.stored[CHANGES_TABLE], "append", conflict)
    with pytest.raises(Transient, match="other commits were faster"):
        history.writer.flush()
    assert history.observer.conflicts == {"changes": MAX_CONFLICTS}


def test_rows_of_a_partition_that_moved_away_are_left_to_its_new_owner(tmp_path: Path) -> None:
    broker = broker_with(changed("a"), scored("a"))
    history = MemoryHistory(broker, tmp_path)
    history.read()
    history.source.owned -= {(CHANGES, 0)}
    history.writer.flush()
    assert stored(tmp_path, "changes") == []
    assert offsets(tmp_path, "predictions", PREDICTIONS) == [0]
    # It comes back: from the table's offset, not from where this process was.
    history.source.owned |= {(CHANGES, 0)}
    broker.append(changed("b"))
    history.write()
    assert offsets(tmp_path, "changes") == [0, 1]


def test_a_commit_comes_after_the_stated_time_or_when_much_is_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = MemoryHistory(broker_with(changed("a")), tmp_path)
    assert not history.writer.flush_due()
    history.read()
    assert not history.writer.flush_due()
    history.clock.now += 10
    assert history.writer.flush_due()
    assert not history.writer.flush_due()
    monkeypatch.setattr("consumer.history.writer.MAX_ROWS", 1)
    history = MemoryHistory(broker_with(changed("a")), tmp_path / "other")
    history.read()
    assert history.writer.flush_due()


def test_records_without_rows_are_read_again_at_each_start(tmp_path: Path) -> None:
    broker = broker_with(Output(CHANGES, b"a", b"junk"), Output(CHANGES, b"b", b"junk"))
    MemoryHistory(broker, tmp_path).write()
    again = MemoryHistory(broker, tmp_path)
    again.write()
    assert again.observer.poisons == []


def test_a_topic_that_was_made_again_ends_with_a_sentence(tmp_path: Path) -> None:
    MemoryHistory(broker_with(changed("a"), changed("b")), tmp_path).write()
    with pytest.raises(UserError, match=r"partition 0 ends at offset 1, but the history has it"):
        MemoryHistory(broker_with(changed("c")), tmp_path).write()


def test_a_table_that_went_back_is_read_again_by_a_new_membership(tmp_path: Path) -> None:
    broker = broker_with(changed("a"))
    history = MemoryHistory(broker, tmp_path)
    history.write()
    broker.append(changed("b"))
    history.read()
    # A backup of the time before is put in its place.
    log = sorted((tmp_path / "changes" / "_delta_log").glob("*.json"))
    log[-1].unlink()
    history.tables.stored[CHANGES_TABLE].exists()
    with pytest.raises(Fenced, match="went back from offset 1"):
        history.writer.flush()


def test_the_log_of_a_table_outlives_its_rows_and_must_not_hold_an_id(tmp_path: Path) -> None:
    broker = broker_with(changed("secret_lead"), scored("secret_lead"), decided("secret_lead"))
    MemoryHistory(broker, tmp_path).write()
    found = files_with(tmp_path, "secret_lead")
    assert len(found) == 3
    assert not any("_delta_log" in name for name in found)
    assert not any("_delta_log" in name for name in files_with(tmp_path, "Berlin"))


def test_a_field_that_a_newer_version_adds_gets_a_column(tmp_path: Path) -> None:
    broker = broker_with(changed("a"))
    old = MemoryHistory(broker, tmp_path)
    old.write()
    for table in TABLES:
        newer = MemoryHistory(broker, tmp_path).tables.stored[table]
        newer.schema = newer.schema.append(pa.field("later", pa.float64()))
        newer.open()
        assert "later" in newer.delta.schema().to_arrow().names
    # The older version, which runs on, fills the columns that it does not know with nulls.
    broker.append(changed("b"))
    old.write()
    assert [row["later"] for row in stored(tmp_path, "changes")] == [None, None]
    assert offsets(tmp_path, "changes") == [0, 1]
    assert old.observer.conflicts == {}


def test_a_table_of_a_release_with_shorter_reasons_is_written_on(tmp_path: Path) -> None:
    shorter = pa.list_(pa.struct([("feature", pa.string()), ("contribution", pa.float64())]))
    fields = [
        field.with_type(shorter) if field.name == "reasons" else field
        for field in table_schema(PREDICTIONS_TABLE)
    ]
    DeltaTable.create(
        str(tmp_path / "predictions"), pa.schema(fields), partition_by=["month"], mode="ignore"
    )
    MemoryHistory(broker_with(scored("a")), tmp_path).write()
    [row] = stored(tmp_path, "predictions")
    assert row["reasons"] == [{"feature": "lead_score", "contribution": 0.1}]
    assert row["base_probability"] == 0.15


def test_a_column_of_another_type_ends_with_a_sentence(tmp_path: Path) -> None:
    DeltaTable.create(str(tmp_path / "changes"), pa.schema([("lead_id", pa.int64())]))
    with pytest.raises(UserError, match=r"column lead_id of type .*long.*, not .*string"):
        MemoryHistory(MemoryBroker(), tmp_path).tables.open()


@pytest.mark.parametrize("url", ["nosuch://host/history", "s3a2://bucket"])
def test_a_url_that_no_store_takes_ends_with_a_sentence(url: str) -> None:
    with pytest.raises(SettingsError, match="neither a folder nor a URL that Delta Lake takes"):
        MemoryHistory(MemoryBroker(), url).tables.open()


def test_a_store_that_is_read_only_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = MemoryHistory(broker_with(changed("a")), tmp_path)
    history.read()

    def refused(*_: Any, **__: Any) -> None:
        raise OSError("Generic LocalFileSystem error: Read-only file system (os error 30)")

    with monkeypatch.context() as patch:
        patch.setattr(delta_store, "write_deltalake", refused)
        with pytest.raises(Transient, match=r"history store: changes: .*Read-only file system"):
            history.writer.flush()
    history.writer.flush()
    assert offsets(tmp_path, "changes") == [0]
