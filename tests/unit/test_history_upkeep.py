"""An erased lead is in no file of the history, and files stay few, while writers go on."""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from consumer.history import upkeep as upkeep_module
from consumer.history.erased_leads import hash_id
from consumer.history.table_schemas import CHANGES as CHANGES_TABLE
from consumer.history.table_schemas import PREDICTIONS as PREDICTIONS_TABLE
from consumer.history.table_schemas import TABLES, HistoryTable
from consumer.history.upkeep import HistoryUpkeep, TableUpkeep, UpkeepResult
from leadstream.background import inline
from leadstream.kafka.batch import Output
from tests.fakes import ManualClock, MemoryBroker
from tests.histories import CHANGES, PREDICTIONS, SHADOW, MemoryHistory, files_with, offsets, stored
from tests.unit.pipelines import NOW_MS
from tests.unit.test_history_writer import broker_with, changed, decided, scored

SECRET = "secret_lead_4711"


def keep(root: Path, **options: Any) -> list[UpkeepResult]:
    """Keep every table once."""
    found = [TableUpkeep(str(root), table) for table in TABLES]
    given = {"erase": True, "join": False} | options
    return [upkeep.run(**given) for upkeep in found if upkeep.look()]


def everywhere() -> list[Output]:
    """A lead in all tables, among others."""
    leads = ["before", SECRET, "zebra"]
    return [
        *(changed(lead) for lead in leads),
        *(scored(lead) for lead in leads),
        *(scored(lead, SHADOW) for lead in leads),
        *(decided(lead) for lead in leads),
    ]


@pytest.mark.parametrize(
    "erasure",
    [
        Output(CHANGES, SECRET.encode(), None),
        changed(SECRET, change_type="DELETED"),
        Output(PREDICTIONS, SECRET.encode(), None),
    ],
    ids=["null", "deleted", "null prediction"],
)
def test_an_erased_lead_stays_in_a_file(tmp_path: Path, erasure: Output) -> None:
    broker = broker_with(*everywhere())
    history = MemoryHistory(broker, tmp_path)
    history.write()
    assert len(files_with(tmp_path, SECRET)) == 3
    broker.append(erasure)
    history.write()
    results = keep(tmp_path, join=True, every_file=True)
    assert [result.erased_rows for result in results] == [1, 2, 1]
    assert files_with(tmp_path, SECRET) == []
    for table in ("changes", "predictions", "outcomes"):
        assert {row["lead_id"] for row in stored(tmp_path, table)} == {"before", "zebra"}
    # Only the hash tells that there was one.
    assert any(name.startswith("erasures/") for name in files_with(tmp_path, hash_id(SECRET)))
    assert [result.erased_rows for result in keep(tmp_path)] == [0, 0, 0]
    history.write()


def test_a_row_that_comes_late_brings_the_erased_lead_back(tmp_path: Path) -> None:
    broker = broker_with(Output(CHANGES, SECRET.encode(), None, timestamp=NOW_MS + 5))
    history = MemoryHistory(broker, tmp_path)
    history.write()
    for output in everywhere():
        broker.append(output)
    # The CRM uses the id again: what is about a later time counts.
    broker.append(scored(SECRET, occurred_at=NOW_MS + 6))
    broker.append(decided(SECRET, NOW_MS + 6))
    MemoryHistory(broker, tmp_path).write()
    # In the topic of the erasure the offset decides.
    assert [row["lead_id"] for row in stored(tmp_path, "changes")] == ["before", SECRET, "zebra"]
    assert [row["lead_id"] for row in stored(tmp_path, "predictions")].count(SECRET) == 1
    assert [row["lead_id"] for row in stored(tmp_path, "outcomes")].count(SECRET) == 1


def test_a_row_of_an_erased_lead_in_the_same_commit_is_not_written(tmp_path: Path) -> None:
    broker = broker_with(changed(SECRET), Output(CHANGES, SECRET.encode(), None), changed("other"))
    history = MemoryHistory(broker, tmp_path)
    history.write()
    assert offsets(tmp_path, "changes") == [2]
    assert history.observer.late == {CHANGES: 1}
    assert history.observer.erasures == {CHANGES: 1}
    assert files_with(tmp_path, SECRET) == []


@pytest.mark.parametrize("moment", ["before the erasure", "during the deletion"])
def test_an_append_that_began_before_an_erasure_brings_the_lead_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    broker = broker_with(scored(SECRET), scored("other"))
    slow = MemoryHistory(broker, tmp_path)
    slow.read()
    table = slow.tables.stored[PREDICTIONS_TABLE]
    append = table.append

    def late(*arguments: Any) -> None:
        """Another process erases the lead after this one looked for erasures."""
        monkeypatch.setattr(table, "append", append)
        erasing = MemoryBroker(now=NOW_MS)
        erasing.append(Output(CHANGES, SECRET.encode(), None))
        MemoryHistory(erasing, tmp_path).write()
        if moment == "before the erasure":
            append(*arguments)
        keep(tmp_path)
        if moment == "during the deletion":
            append(*arguments)

    monkeypatch.setattr(table, "append", late)
    slow.writer.flush()
    keep(tmp_path)
    assert [row["lead_id"] for row in stored(tmp_path, "predictions")] == ["other"]
    held = [name for name in files_with(tmp_path, SECRET) if name.endswith(".parquet")]
    # What a refused commit left is no part of the table, and goes after an hour.
    for name in held:
        age = time.time() - 2 * 3600
        os.utime(tmp_path / name, (age, age))
    keep(tmp_path)
    assert files_with(tmp_path, SECRET) == []


def test_a_file_that_another_process_is_about_to_commit_is_deleted(tmp_path: Path) -> None:
    broker = broker_with(changed("a"))
    history = MemoryHistory(broker, tmp_path)
    history.write()
    fresh = tmp_path / "changes" / "month=2025-06" / "part-fresh.parquet"
    fresh.write_bytes(b"PAR1")
    keep(tmp_path)
    assert fresh.exists()
    broker.append(changed("b"))
    history.write()
    assert offsets(tmp_path, "changes") == [0, 1]


def test_small_files_are_joined_while_a_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "SMALL_FILES", 4)
    broker = MemoryBroker(now=NOW_MS)
    history = MemoryHistory(broker, tmp_path)
    upkeep = TableUpkeep(str(tmp_path), CHANGES_TABLE)
    for number in range(4):
        broker.append(changed(f"lead {number}"))
        history.write()
        assert upkeep.look()
        assert upkeep.needs_joining() == (number == 3)
    history.read()
    broker.append(changed("next"))
    history.read()
    assert upkeep.run(erase=False, join=True).joined_files == 4
    history.writer.flush()
    assert offsets(tmp_path, "changes") == [0, 1, 2, 3, 4]
    assert upkeep.look()
    assert len(upkeep._stored.delta.file_uris()) == 2
    assert not upkeep.needs_joining()


class _UpkeepRecorder:
    def __init__(self) -> None:
        self.results: list[UpkeepResult] = []
        self.failures: list[str] = []

    def kept(self, result: UpkeepResult) -> None:
        self.results.append(result)

    def upkeep_failed(self, table: str, detail: str) -> None:
        self.failures.append(table)


def test_an_erasure_waits_a_quarter_of_the_stated_time_whatever_starts_again(
    tmp_path: Path,
) -> None:
    broker = broker_with(*everywhere())
    history = MemoryHistory(broker, tmp_path)
    history.write()
    broker.append(Output(CHANGES, SECRET.encode(), None))
    history.write()
    recorded = time.time()
    clock = ManualClock()

    def run(hours_later: float, in_charge: bool = True) -> list[str]:
        """Look once, as a process that has just started."""
        seen = _UpkeepRecorder()
        upkeep = HistoryUpkeep(
            str(tmp_path),
            seen,
            inline,
            erasure_hours=8,
            clock=clock,
            wall_clock=lambda: recorded + hours_later * 3600,
        )
        for _ in range(2):
            upkeep.run_due(lambda _table: in_charge)
        assert seen.failures == []
        return [result.table for result in seen.results if result.erased_rows]

    assert run(1.9) == []
    assert run(2.1, in_charge=False) == []
    assert run(2.1) == ["changes", "predictions", "outcomes"]
    assert run(2.1) == []
    assert files_with(tmp_path, SECRET) == []


def test_a_store_that_fails_during_the_upkeep_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MemoryHistory(broker_with(*everywhere()), tmp_path).write()
    seen, clock = _UpkeepRecorder(), ManualClock()
    upkeep = HistoryUpkeep(str(tmp_path), seen, inline, erasure_hours=8, clock=clock)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("deltalake.DeltaTable.vacuum", fail)
        upkeep.run_due(lambda table: table is CHANGES_TABLE)
        upkeep.run_due(lambda _table: False)
    assert seen.failures == ["changes"]


@pytest.mark.parametrize("seed", range(4))
def test_erasures_among_many_rows_leave_the_rows_that_the_rule_leaves(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    broker = MemoryBroker(now=NOW_MS)
    histories = [MemoryHistory(broker, tmp_path) for _ in range(2)]
    alive: dict[str, list[int]] = {}
    for offset in range(60):
        lead = f"lead_{rng.randrange(8)}"
        if rng.random() < 0.15:
            broker.append(Output(CHANGES, lead.encode(), None))
            alive[lead] = []
        else:
            broker.append(changed(lead, occurred_at=NOW_MS + rng.randrange(-9, 9)))
            alive.setdefault(lead, []).append(offset)
        if rng.random() < 0.2:
            rng.choice(histories).write()
        if rng.random() < 0.1:
            keep(tmp_path, join=rng.random() < 0.5, every_file=True)
    histories[0].write()
    keep(tmp_path)
    expected = sorted(offset for each in alive.values() for offset in each)
    assert offsets(tmp_path, "changes") == expected


def test_each_table_is_kept_by_one_process(tmp_path: Path) -> None:
    history = MemoryHistory(MemoryBroker(), tmp_path)

    def kept() -> list[HistoryTable]:
        return [table for table in TABLES if history.writer.in_charge(table)]

    assert kept() == list(TABLES)
    history.source.owned = frozenset({(SHADOW, 0), (CHANGES, 1)})
    assert kept() == []
