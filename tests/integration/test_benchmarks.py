"""The benchmarks of speed count what they did, and compare like with like.

Nothing here is timed.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

from benchmarks import compression, throughput
from benchmarks.environment import BenchmarkEnvironment, open_environment
from benchmarks.figures import FigureRow, Spread
from benchmarks.latency import LatencyRun
from benchmarks.leads import events, trained
from benchmarks.scale import longest_pauses
from benchmarks.straightforward import PlainModel
from features import columns_of
from leadstream.errors import UserError
from leadstream.local.broker import Broker
from models.serve.scorer import Model
from schemas.codec import Reader

COUNT = 6_000


@pytest.mark.broker
@pytest.mark.long
def test_throughput_counts_every_event_of_every_contender(
    kafka: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "throughput.json"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    # A rate needs two commits of a full batch.
    monkeypatch.setattr(
        sys, "argv", f"throughput --events {COUNT} --repeats 1 --json {path}".split()
    )
    throughput.main()
    result = json.loads(path.read_text("utf-8"))
    names = {*throughput.REASONS, *throughput.LOOPS.values()}
    assert result["runs"].keys() == names
    for [run] in result["runs"].values():
        assert run["records"] == run["leads"] == COUNT
        assert run["commits"] >= 3
    labels = {row["label"] for row in result["rows"]}
    assert names < labels
    assert {row["label"] for row in result["rows"] if row["met"] is not None} == {
        "no reasons / copy",
        "3 reasons / copy",
        "3 reasons / straightforward",
        "3 reasons / no reasons",
    }
    assert {"3 reasons: commit, µs", "no reasons: the rest, µs"} < labels
    assert (
        "straightforward: pandas" in capsys.readouterr().out
    )  # the rest of the name is on the next line at 80 columns


@pytest.mark.broker
def test_a_benchmark_in_which_events_are_missing_is_an_error_and_no_result(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    with open_environment("test", say=lambda _: None) as environment:
        topic = environment.topic("predictions")
        environment.preload(topic, events(10))
        assert environment.watch(topic, 10).leads == 10
        with pytest.raises(UserError, match="10 records are visible"):
            environment.watch(topic, 9)
        environment.remove(topic)


def test_a_benchmark_on_the_mock_would_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEADSTREAM_LOCAL_BROKER", "mock")
    with (
        pytest.raises(UserError, match="a broker with transactions"),
        open_environment("test", say=lambda _: None),
    ):
        pass


def test_the_straightforward_loop_that_says_something_else_would_be_no_comparison() -> None:
    done = trained()
    manifest = {**done.manifest, "version": "1.0.0", "artifact": {"sha256": ""}}
    reader = Reader("LeadChanged")
    changes = [reader.decode(value) for _, value in events(COUNT)]
    as_of = np.array([change["occurred_at"] for change in changes])
    service = Model(done.artifact, manifest).score(
        columns_of([change["lead"] for change in changes]), as_of
    )
    plain = PlainModel(done.artifact, manifest).predictions(changes)
    for name, column in (
        ("raw_score", service.raw),
        ("probability", service.probability),
        ("probability_low", service.low),
        ("probability_high", service.high),
        ("feature_coverage", service.coverage),
        ("prediction", service.prediction),
    ):
        assert [prediction[name] for prediction in plain] == column.tolist(), name
    assert [prediction["grade"] for prediction in plain] == service.grade
    assert [tuple(prediction["imputed"]) for prediction in plain] == service.imputed


@pytest.mark.broker
def test_a_compression_that_is_not_set_would_send_as_much_as_none(
    kafka: Broker, tmp_path: Path
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    environment = BenchmarkEnvironment(kafka.bootstrap, tmp_path, (), admin)
    records = list(events(3_000))
    sent = {
        codec: compression.publish(environment, records, codec).sent_bytes
        for codec in ("none", "lz4", "gzip")
    }
    assert sent["gzip"] < sent["lz4"] < sent["none"], sent
    assert sent["none"] > sum(len(value) for _, value in records) / len(records)


def test_events_are_of_different_leads_and_of_the_size_that_is_said() -> None:
    reader = Reader("LeadChanged")
    found = list(events(5_000, first=7))
    assert len({key for key, _ in found}) == 5_000
    assert {key.decode() for key, _ in found} == {
        reader.decode(value)["lead_id"] for _, value in found
    }
    assert all(reader.decode(value)["lead"] is None for _, value in events(10, without_state=True))
    assert all(112 <= len(value) <= 183 for _, value in found)


def test_a_stall_meets_every_event_that_it_delays() -> None:
    due = np.arange(1_000) / 100
    seen = due + 0.001
    seen[(due >= 5) & (due < 6)] = 6.0
    run = LatencyRun(100, due, seen)
    assert run.at(0.5) == pytest.approx(1)
    assert run.at(0.99) == pytest.approx(920, abs=10)
    assert abs(run.lag()[2]) < 1


def test_a_lag_that_grows_is_told() -> None:
    due = np.arange(3_000) / 100
    first, last, growth = LatencyRun(100, due, due * 1.2).lag()
    assert first < last
    assert growth == pytest.approx(100 * (1 - 1 / 1.2), rel=0.05)


def test_a_missed_bar_is_said() -> None:
    low = FigureRow("x", Spread.from_values([1, 2, 3]), minimum=2.5)
    assert low.met is False
    assert low.cells()[-1] == "≥ 2.5 MISSED"
    assert FigureRow("x", Spread.from_values([1, 2, 3]), maximum=2.5).cells()[-1] == "≤ 2.5 met"
    assert FigureRow("x", Spread.from_values([1])).met is None


def test_a_pause_counts_in_every_window_that_it_reaches_into() -> None:
    batches = np.array([0.0, 0.1, 0.2, 0.7, 0.8, 0.9, 1.0])
    assert longest_pauses(batches, [(0.3, 0.6), (0.75, 0.95), (0.05, 0.3)]) == pytest.approx(
        [0.5, 0.1, 0.5]
    )
