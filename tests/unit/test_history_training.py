"""What a model learns from is what was known then, and what then happened; nothing else."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable, write_deltalake

from consumer.history.coverage import DailyCounts, find_gaps, refuse_gaps
from leadstream.cli.main import main
from leadstream.errors import UserError
from leadstream.kafka.batch import Output
from models.registry.versions import ModelRegistry
from models.serve.artifact import dump
from models.train.sampling import KeptShares, representative
from models.train.table import periods
from models.train.training import TrainOptions, train
from producer.simulator import DAY_MS, Shares, SimulatedChange, SimulatedCrm
from producer.table import training_frame
from schemas.codec import Writer
from tests.fakes import MemoryBroker
from tests.histories import CHANGES, OUTCOMES, TOPICS, MemoryHistory, stored
from tests.trained_models import START_MS, TRUST, write_key
from tests.unit.pipelines import NOW_MS, event

pytest.importorskip("duckdb")

from consumer.history.training_rows import (
    RowOptions,
    TrainingRows,
    read_training_rows,
)
from leadstream.cli.training_history import history_frame

_CHANGE, _OUTCOME = Writer("LeadChanged"), Writer("LeadOutcome")
HORIZON = 30.0
STATE = event("x")["lead"] | {"created_at": START_MS}
DISORDER = Shares(late=0.1, repeated=0.1, deleted=0.01, tombstone=0.01, loop=0.1)


def sent(change: SimulatedChange) -> Output:
    value = None if change.record is None else _CHANGE.encode(change.record)
    return Output(CHANGES, change.lead_id.encode(), value)


def decided(lead_id: str, at: int, converted: bool = True) -> Output:
    record = {"lead_id": lead_id, "converted": converted, "decided_at": at}
    return Output(OUTCOMES, lead_id.encode(), _OUTCOME.encode(record))


def changed(lead_id: str, at: int, **fields: Any) -> Output:
    record = event(lead_id, occurred_at=at, **({"lead": STATE} | fields))
    return Output(CHANGES, lead_id.encode(), _CHANGE.encode(record))


def written(root: Path, outputs: Iterable[Output]) -> MemoryBroker:
    broker = MemoryBroker(now=NOW_MS)
    for output in outputs:
        broker.append(output)
    MemoryHistory(broker, root).write()
    return broker


def read(root: Path, **options: Any) -> TrainingRows:
    chosen = {"horizon_days": HORIZON, "allow_gaps": True} | options
    return read_training_rows(str(root), TOPICS, RowOptions(**chosen))


def test_a_table_of_an_older_version_lacks_columns_that_are_null_then(tmp_path: Path) -> None:
    day = START_MS + DAY_MS
    outcomes = [("before", START_MS), ("a", day + 1), ("newest", day + 40 * DAY_MS)]
    changes = [changed("a", day), changed("b", day)]
    written(tmp_path / "now", [*changes, *(decided(*each) for each in outcomes)])
    newer = ("numbers", "categories", "campus_name")
    for table in ("changes", "outcomes"):
        rows = DeltaTable(str(tmp_path / "now" / table)).to_pyarrow_table()
        older = rows.drop_columns([name for name in newer if name in rows.column_names])
        write_deltalake(str(tmp_path / "then" / table), older, partition_by=["month"])
    now, then = read(tmp_path / "now").table, read(tmp_path / "then").table
    assert len(now) == len(then) == 2
    assert then["campus_name"].null_count == then["numbers"].null_count == 2
    same = [name for name in now.column_names if name not in newer]
    assert now.select(same).equals(then.select(same))
    assert history_frame(then)["numbers"].tolist() == [{}, {}]


def true_table(crm: SimulatedCrm, erased: set[str]) -> pd.DataFrame:
    """The table by the simulator's own truth: what converts, and whose outcome can be known."""
    first, last = (
        [a.submitted_at for a in crm.applications() if a.lead_id not in erased][end]
        for end in (0, -1)
    )
    rows = [
        (change.lead_id, change.record["occurred_at"], change.state, change.truth.converts)
        for change in crm.changes()
        if change.record is not None
        and change.truth is not None
        and change.state is not None
        and not change.truth.applied
        and change.lead_id not in erased
        and first <= change.record["occurred_at"] <= last - HORIZON * DAY_MS
    ]
    rows.sort(key=lambda row: (row[1], row[0]))
    lead_ids, as_of, states, converted = zip(*rows, strict=True)
    return training_frame(lead_ids, as_of, states, converted)


def test_the_rows_of_a_disordered_year_are_those_of_the_simulators_truth(tmp_path: Path) -> None:
    crm = SimulatedCrm(3, start=START_MS, leads=800, horizon_days=HORIZON)
    deliveries = list(crm.deliveries(DISORDER))
    erased = {each.lead_id for each in deliveries if each.state is None}
    assert len(erased) > 10
    written(
        tmp_path,
        [
            *(decided(each.lead_id, each.submitted_at) for each in crm.applications()),
            *map(sent, deliveries),
        ],
    )
    found = read(tmp_path)
    pd.testing.assert_frame_equal(history_frame(found.table), true_table(crm, erased))
    left_out = found.source["left_out"]
    reasons = {"score_written_back", "repeat", "after_conversion", "before_outcomes", "young"}
    assert set(left_out) == reasons
    assert sum(left_out.values()) + len(found.table) == len(stored(tmp_path, "changes"))
    assert found.source["state_source"] == {"event": 1.0}
    assert found.source["tables"]["changes"]["offsets"] == {CHANGES: {0: len(deliveries)}}


def test_a_sample_keeps_conversions_and_names_the_share_of_the_others(tmp_path: Path) -> None:
    at = NOW_MS - 400 * DAY_MS
    converting = [f"won {i}" for i in range(100)]
    others = [f"lost {i}" for i in range(3000)]
    written(
        tmp_path,
        [
            decided("first", at),
            *(changed(lead, at + 1000 + i) for i, lead in enumerate([*converting, *others])),
            *(decided(lead, at + DAY_MS) for lead in converting),
            decided("last", at + 200 * DAY_MS),
        ],
    )
    assert read(tmp_path, max_rows=3100).source["sampling"] is None
    found = read(tmp_path, max_rows=1000)
    frame = history_frame(found.table)
    kept = set(frame["lead_id"])
    assert set(converting) <= kept
    assert 900 < len(frame) <= 1000
    sampling = found.source["sampling"]
    assert sampling["conversions"] == {"rows": 100, "kept": 100, "share": 1.0, "weight": 1.0}
    assert sampling["others"]["kept"] == len(frame) - 100
    assert found.kept == KeptShares(1.0, (len(frame) - 100) / 3000)
    # By the hash of the lead, so anyone can say which leads are in.
    buckets = {lead: int(hashlib.sha256(lead.encode()).hexdigest()[:8], 16) for lead in others}
    inside = [buckets[lead] for lead in others if lead in kept]
    assert max(inside) < min(buckets[lead] for lead in others if lead not in kept)
    many = read(tmp_path, max_rows=100)
    assert many.source["sampling"]["conversions"]["kept"] <= 50
    assert len(many.table) <= 100


def test_a_moment_of_a_lead_counts_once_with_its_newest_version(tmp_path: Path) -> None:
    at = NOW_MS - 400 * DAY_MS
    written(
        tmp_path,
        [
            decided("first", at),
            changed("a", at + 5, lead_version=2, lead=STATE | {"status": "newest"}),
            changed("a", at + 5, lead_version=1, lead=STATE | {"status": "older"}),
            changed("a", at + 6, lead_version=3, lead=STATE | {"numbers": {"visits": 3.0}}),
            changed("future", NOW_MS * 2),
            changed("stateless", at + 7, lead=None),
            decided("a", at + 6 + round(HORIZON * DAY_MS)),
            decided("liar", NOW_MS * 2),
            decided("last", at + 100 * DAY_MS, converted=False),
        ],
    )
    found = read(tmp_path)
    frame = history_frame(found.table)
    assert frame["status"].tolist()[0] == "newest"
    # At the horizon is within it; a millisecond before is not.
    assert frame["converted"].tolist() == [False, True]
    assert frame["numbers"].tolist()[1] == {"visits": 3.0}
    assert found.source["left_out"] == {"ahead_of_clock": 1, "repeat": 1, "without_state": 1}


def test_a_late_erasure_counts_before_its_rows_are_deleted(tmp_path: Path) -> None:
    at = NOW_MS - 400 * DAY_MS
    broker = written(
        tmp_path,
        [decided("first", at), *(changed(lead, at + 1) for lead in "ab"), decided("a", at + 2)],
    )
    broker.append(Output(CHANGES, b"a", None))
    broker.append(decided("last", at + 100 * DAY_MS))
    MemoryHistory(broker, tmp_path).write()
    found = read(tmp_path)
    assert found.table["lead_id"].to_pylist() == ["b"]
    assert found.source["left_out"] == {"erased": 1}


def test_no_history_and_no_outcomes_are_a_sentence_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no history of changes and outcomes at .*history write"):
        read(tmp_path)
    written(tmp_path, [changed("a", NOW_MS - DAY_MS)])
    with pytest.raises(UserError, match=r"has no outcomes: send them to crm\.lead-outcomes"):
        read(tmp_path)


def test_files_that_are_gone_are_a_sentence_and_no_stack_trace(tmp_path: Path) -> None:
    written(tmp_path, [decided("first", NOW_MS - DAY_MS), changed("a", NOW_MS - DAY_MS)])
    for file in tmp_path.glob("changes/month=*/*.parquet"):
        file.unlink()
    with pytest.raises(UserError, match=r"the history at .* cannot be read: .*begin again"):
        read(tmp_path)


def series(days: Iterable[int], each: int = 5, partition: int = 0) -> DailyCounts:
    return DailyCounts(OUTCOMES, partition, dict.fromkeys(days, each))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (series(range(100)), []),
        (series([*range(40), *range(60, 100)]), [(40, 59)]),
        (series([*range(40), *range(46, 100)]), []),  # a holiday
        (series(range(0, 100, 10), each=1), []),  # few outcomes: chance
        (series(range(70)), [(70, 99)]),  # the end
    ],
)
def test_days_without_outcomes_are_a_gap_only_if_chance_cannot_explain_them(
    counts: DailyCounts, expected: list[tuple[int, int]]
) -> None:
    assert [(gap.first, gap.last) for gap in find_gaps([counts], 0, 99)] == expected


def test_a_partition_that_is_lost_is_a_gap_although_others_go_on() -> None:
    full, lost = series(range(100)), series([*range(30), *range(80, 100)], partition=1)
    added = series(range(90, 100), partition=2)
    [gap] = find_gaps([full, lost, added], 0, 99)
    assert (gap.first, gap.last) == (30, 79)
    sentence = (
        r"the history has no outcome from 1970-01-31 to 1970-03-21 \(crm.lead-outcomes, partition "
        r"1\), where about \d+ were expected: .*--since 1970-03-22.*--allow-gaps"
    )
    with pytest.raises(UserError, match=sentence):
        refuse_gaps("outcome", [gap])


def test_a_history_with_a_gap_refuses_unless_told_otherwise(tmp_path: Path) -> None:
    at = NOW_MS - 400 * DAY_MS

    def day(i: int) -> int:
        return at + i * DAY_MS

    written(
        tmp_path,
        [
            *(decided(f"{i} {k}", day(i)) for i in [*range(40), *range(80, 130)] for k in "abc"),
            *(changed(f"{i} {k}", day(i) + 1) for i in [*range(20), *range(40, 130)] for k in "de"),
        ],
    )
    with pytest.raises(UserError, match="no outcome from"):
        read(tmp_path, allow_gaps=False)
    gaps = read(tmp_path).source
    assert [len(gaps[name]["gaps"]) for name in ("outcomes", "states")] == [1, 1]
    later = read(tmp_path, allow_gaps=False, since_ms=day(81))
    assert later.source["outcomes"]["gaps"] == []
    assert later.table["as_of"][0].as_py() >= day(81)


def test_a_sample_is_moved_to_the_rate_of_all_rows() -> None:
    labels = np.arange(30_000) % 3 == 0
    kept = KeptShares(1.0, 0.1)
    rate = kept.rate(labels)
    assert rate == pytest.approx(10_000 / 210_000)
    assert np.log(0.5) + kept.shift == pytest.approx(np.log(rate / (1 - rate)))
    assert labels[representative(kept, labels, 0)].mean() == pytest.approx(rate, rel=0.1)
    assert representative(None, labels, 0).all()


FEW = (
    "--history",
    "--least-leads",
    "200",
    "--least-conversions",
    "20",
    "--json",
    "--allow-gaps",
)
QUICK = ("--recipe", "additive", "--calibrator", "sigmoid", "--no-calendar", "--horizon", "30")


@pytest.mark.slow
def test_the_verb_trains_on_the_truth_and_retrains_on_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = SimulatedCrm(4, start=START_MS, leads=900, horizon_days=HORIZON)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MODEL_STORE": str(tmp_path / "models"),
        "LEADSTREAM_MODEL_SIGNING_KEY": str(write_key(tmp_path / "key")),
        "LEADSTREAM_HISTORY": str(tmp_path / "history"),
    }.items():
        monkeypatch.setenv(name, value)
    applied = crm.applications()
    outputs = [*map(sent, crm.changes()), *(decided(a.lead_id, a.submitted_at) for a in applied)]
    written(tmp_path / "history", outputs)
    assert main(["train", *FEW, *QUICK]) == 0
    first = json.loads(capsys.readouterr().out)
    table = true_table(crm, set())
    options = TrainOptions(
        horizon_days=HORIZON,
        recipe="additive",
        calibrator="sigmoid",
        calendar=False,
        min_leads=200,
        min_conversions=20,
    )
    payload = dump(train(table, options).artifact)
    registry = ModelRegistry(str(tmp_path / "models"), TRUST)
    manifest = registry.verify(first["version"]).manifest
    assert manifest["artifact"]["sha256"] == hashlib.sha256(payload).hexdigest()
    assert first["data"]["history"]["sampling"] is None

    assert main(["retrain", *FEW, "--max-rows", "1000"]) == 0
    out, err = capsys.readouterr()
    second = json.loads(out)
    assert "history: sampled by lead: " in err
    sampled = registry.verify(second["version"])
    assert sampled.manifest["options"]["recipe"] == "additive"
    assert sampled.manifest["calibration"]["shift"] != 0
    part = periods(table, 1)[0][0]
    stated = sampled.score(part.columns, part.as_of).probability
    # The sample converts more often; the probabilities are those of all rows.
    assert second["data"]["base_rate"] > 1.5 * table["converted"].mean()
    assert stated.mean() == pytest.approx(table["converted"].mean(), rel=0.2)


def test_options_of_a_file_and_of_a_history_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LEADSTREAM_HISTORY", raising=False)
    monkeypatch.setenv("MODEL_STORE", str(tmp_path / "models"))
    monkeypatch.setenv("LEADSTREAM_MODEL_SIGNING_KEY", str(write_key(tmp_path / "key")))
    assert main(["train", "--history"]) == 2
    assert "LEADSTREAM_HISTORY" in capsys.readouterr().err
    assert main(["train", "--history", "--base-rate", "0.1"]) == 2
    assert "--base-rate goes with a file" in capsys.readouterr().err
    for words in (("--max-rows", "12"), ("--since", "yesterday")):
        with pytest.raises(SystemExit):
            main(["train", "--history", *words])
    assert "'yesterday' is not a day such as 2025-03-01" in capsys.readouterr().err
