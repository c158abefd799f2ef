"""An import adds each state once, next to a writer, and none of an erased lead."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.history import delta_store
from consumer.history.delta_store import StoredTable
from consumer.history.import_writer import MAX_CONFLICTS, ImportWriter, import_place
from consumer.history.table_schemas import CHANGES as CHANGES_TABLE
from consumer.history.table_schemas import OUTCOMES as OUTCOMES_TABLE
from consumer.history.upkeep import TableUpkeep
from consumer.history.writer import HistoryTables
from leadstream.errors import Transient
from leadstream.kafka.batch import Output
from producer.log_import import past_change
from tests.histories import CHANGES, MemoryHistory, files_with, offsets, stored
from tests.unit.pipelines import NOW_MS
from tests.unit.test_history_writer import broker_with, changed

PLACE = import_place(CHANGES_TABLE)[0]
DAY = 86_400_000


def state(status: str = "A", created_at: int = NOW_MS - 40 * DAY) -> dict[str, Any]:
    return {"created_at": created_at, "status": status, "numbers": {"gpa": 1.0}, "categories": {}}


def past(*leads: str, at: int = NOW_MS - DAY) -> list[dict[str, Any]]:
    return [past_change(lead, at, state()) for lead in leads]


def written(root: Path | str, *records: dict[str, Any], **options: Any) -> ImportWriter:
    writer = ImportWriter(HistoryTables(str(root)), **options)
    writer.add(CHANGES_TABLE, records)
    writer.close()
    return writer


def leads(root: Path) -> list[str]:
    return [row["lead_id"] for row in stored(root, "changes")]


def test_a_second_import_writes_the_states_again(tmp_path: Path) -> None:
    first = written(tmp_path, *past("a", "b", "a"))
    assert first.result.written == {"changes": 2}
    assert first.result.known == {"changes": 1}
    # A later log has all of the earlier one, and more.
    second = written(tmp_path, *past("b", "a"), *past("a", at=NOW_MS))
    assert second.result.written == {"changes": 1}
    assert second.result.known == {"changes": 2}
    assert leads(tmp_path) == ["a", "b", "a"]
    assert offsets(tmp_path, "changes", PLACE) == [0, 1, 2]
    [row, *_] = stored(tmp_path, "changes")
    assert (row["state_source"], row["status"], row["numbers"]) == ("import", "A", {"gpa": 1.0})
    assert row["month"] == row["occurred_at"].strftime("%Y-%m")


def test_outcomes_are_written_twice(tmp_path: Path) -> None:
    outcome = {"lead_id": "a", "converted": True, "decided_at": NOW_MS}
    for _ in range(2):
        writer = ImportWriter(HistoryTables(str(tmp_path)))
        writer.add(OUTCOMES_TABLE, [outcome, {**outcome, "lead_id": "b"}])
        writer.close()
    assert [row["lead_id"] for row in stored(tmp_path, "outcomes")] == ["a", "b"]
    assert writer.result.known == {"outcomes": 2}


def test_a_dry_run_makes_a_table(tmp_path: Path) -> None:
    root = tmp_path / "history"
    assert written(root, *past("a"), dry_run=True).result.written == {"changes": 1}
    assert not root.exists()
    written(root, *past("a"))
    found = written(root, *past("a", "b"), dry_run=True)
    assert (found.result.written, found.result.known) == ({"changes": 1}, {"changes": 1})
    assert leads(root) == ["a"]


def before_append(
    table: StoredTable, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let something happen between the look at a table and its next append."""
    append = table.append

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(table, "append", append)
        act()
        append(*arguments)

    monkeypatch.setattr(table, "append", late)


def test_two_imports_next_to_each_other_write_a_state_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = HistoryTables(str(tmp_path))
    slow, table = ImportWriter(tables), tables.stored[CHANGES_TABLE]
    slow.add(CHANGES_TABLE, past("a", "b"))
    before_append(table, lambda: written(tmp_path, *past("b", "c")), monkeypatch)
    slow.close()
    assert leads(tmp_path) == ["b", "c", "a"]
    assert slow.result.written == {"changes": 1}
    assert offsets(tmp_path, "changes", PLACE) == [0, 1, 2]


def test_an_import_that_is_always_overtaken_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, tries = HistoryTables(str(tmp_path)), []

    def conflict(*_: Any) -> None:
        tries.append(1)
        raise delta_store.CommitConflict("again")

    monkeypatch.setattr(tables.stored[CHANGES_TABLE], "append", conflict)
    writer = ImportWriter(tables)
    writer.add(CHANGES_TABLE, past("a"))
    with pytest.raises(Transient, match="other commits were faster"):
        writer.close()
    assert len(tries) == MAX_CONFLICTS


def test_an_import_next_to_a_writer_makes_it_lose_or_repeat_records(tmp_path: Path) -> None:
    broker = broker_with(changed("a"), changed("b"))
    history = MemoryHistory(broker, tmp_path)
    history.read()
    written(tmp_path, *past("c"))
    history.writer.flush()
    broker.append(changed("d"))
    history.read()
    written(tmp_path, *past("e"))
    history.writer.flush()
    assert history.observer.conflicts == {}
    assert offsets(tmp_path, "changes") == [0, 1, 2]
    assert offsets(tmp_path, "changes", PLACE) == [0, 1]


def test_a_change_of_the_stream_is_imported_again(tmp_path: Path) -> None:
    history = MemoryHistory(broker_with(changed("a", event_id="e1")), tmp_path)
    history.write()
    again = {**past("a")[0], "event_id": "e1"}
    assert written(tmp_path, again, every=True).result.known == {"changes": 1}
    assert written(tmp_path, again).result.written == {"changes": 1}


def test_a_lead_that_was_erased_comes_back_by_an_import(tmp_path: Path) -> None:
    broker = broker_with(changed("secret_lead"), Output(CHANGES, b"secret_lead", None))
    MemoryHistory(broker, tmp_path).write()
    writer = written(tmp_path, *past("secret_lead", "other"))
    assert writer.result.erased == {"changes": 1}
    TableUpkeep(str(tmp_path), CHANGES_TABLE).look()
    for table in (CHANGES_TABLE,):
        upkeep = TableUpkeep(str(tmp_path), table)
        assert upkeep.look()
        upkeep.run(erase=True, join=False)
    assert leads(tmp_path) == ["other"]
    assert files_with(tmp_path, "secret_lead") == []


def test_an_erasure_leaves_the_imported_rows_of_a_lead(tmp_path: Path) -> None:
    written(tmp_path, *past("secret_lead", "other"))
    history = MemoryHistory(broker_with(Output(CHANGES, b"secret_lead", None)), tmp_path)
    history.write()
    upkeep = TableUpkeep(str(tmp_path), CHANGES_TABLE)
    assert upkeep.look()
    assert upkeep.run(erase=True, join=False).erased_rows == 1
    assert leads(tmp_path) == ["other"]
    assert files_with(tmp_path, "secret_lead") == []


def test_an_erasure_during_an_import_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = HistoryTables(str(tmp_path))
    writer, table = ImportWriter(tables), tables.stored[CHANGES_TABLE]
    writer.add(CHANGES_TABLE, past("secret_lead", "other"))

    def erase() -> None:
        MemoryHistory(broker_with(Output(CHANGES, b"secret_lead", None)), tmp_path).write()
        upkeep = TableUpkeep(str(tmp_path), CHANGES_TABLE)
        assert upkeep.look()
        upkeep.run(erase=True, join=False)

    before_append(table, erase, monkeypatch)
    writer.close()
    assert leads(tmp_path) == ["other"]
    assert writer.result.erased == {"changes": 1}
