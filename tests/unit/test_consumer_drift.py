"""Drift in the service: what is counted, what is said of it, and when it is over."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.scoring.leads import Lead
from leadstream.errors import Transient
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import Record
from models.registry.versions import ModelRegistry
from models.serve.scorer import Model
from tests.fakes import FakeMessage, MemoryPublisher
from tests.trained_models import TRUST, promoted_store, trained
from tests.unit.pipelines import STATE, FakeLeads, avro_request, batch, change, pipeline, raw
from tests.unit.test_consumer_service import ServiceHarness


class DriftHarness(ServiceHarness):
    """A service with windows of 100 leads; a batch has ten records.

    `reported` is what `on_drift` heard.
    """

    def __post_init__(self) -> None:
        self.reported: list[tuple[str, str]] = []
        self.further = {"drift_window": 100, "on_drift": self.heard}
        super().__post_init__()

    def heard(self, model: Model, sentence: str) -> None:
        assert self.metrics.lock.acquire(blocking=False), (
            "a hook must not hold up those who read the metrics"
        )
        self.metrics.lock.release()
        self.reported.append((model.version, sentence))

    def go_on(self) -> None:
        self.service._stop.clear()
        self.now += 5
        self.run()

    def drifts(self) -> list[tuple[str, str]]:
        return [
            (event, fields["feature"])
            for event, fields in self.log.lines
            if event in ("drift.alarm", "drift.over")
        ]


def like_training(first: int, count: int, **state: Any) -> list[FakeMessage]:
    """Changes of leads whose inputs, over any hundred of them, are shared out as in training, but
    for some `state`.
    """
    known = trained().manifest["drift"]["inputs"]
    messages = []
    for i in range(first, first + count):
        lead = {
            name: _drawn(one, (i * step) % 100 / 100)
            for step, (name, one) in zip(PRIMES, known.items(), strict=True)
        }
        messages.append(change(i, f"lead_{i}", lead | state))
    return messages


PRIMES = (1, 3, 7, 11, 13, 17, 19, 23)  # none divides 100: each input in an order of its own


def _drawn(known: dict[str, Any], at: float) -> Any:
    """The value at a share of training's rows, the missing ones first."""
    at -= known["missing"]
    if at < 0:
        return None
    values = [
        *known.get("values", ()),
        *(int(edge) if edge == int(edge) else edge for edge in known.get("edges", ())),
    ]
    if "edges" in known:
        values.append(values[-1] + 1)
    for value, share in zip(values, known["shares"], strict=True):
        at -= share
        if at < 0:
            return value
    return values[-1]


def test_leads_like_those_of_training_make_figures_but_no_alarm(model_store: str) -> None:
    harness = DriftHarness(model_store)
    harness.send(*like_training(0, 100))
    harness.run()
    assert harness.metric("drift_windows_total") == 1
    for feature in trained().manifest["drift"]["inputs"]:
        assert harness.metric("drift_alarm", feature=feature) == 0
        assert (harness.metric("drift_psi", feature=feature) or 1) < 0.2, feature
    assert harness.metric("drift_missing_share", feature="campus_name") == pytest.approx(
        0.12, abs=0.03
    )
    assert harness.metric("drift_unseen_share", feature="source") == 0
    assert harness.metric("drift_unseen_share", feature="lead_score") is None
    assert harness.metric("drift_psi", feature="probability") is not None
    assert harness.metric("drift_alarm", feature="probability") is None
    assert (harness.drifts(), harness.reported, harness.status.warnings()) == ([], [], {})


def test_a_drifted_input_is_named_once_by_log_warning_and_hook_until_it_is_over(
    model_store: str,
) -> None:
    harness = DriftHarness(model_store)
    for first in (0, 100):
        harness.send(*like_training(first, 100, source="a new network"))
        harness.go_on()
    assert harness.metric("drift_windows_total") == 2
    assert harness.metric("drift_alarm", feature="source") == 1
    assert harness.metric("drift_unseen_share", feature="source") == 1
    assert harness.metric("drift_alarm", feature="status") == 0
    assert harness.drifts() == [("drift.alarm", "source")]
    [fields] = [fields for event, fields in harness.log.lines if event == "drift.alarm"]
    assert fields["psi"] > 0.2 > 0.001 > fields["p_value"]
    warning = harness.status.warnings()["drift"]
    assert warning.startswith(
        "the last 100 changes of 100 leads are not like the training of 1.0.0: source (PSI "
    )
    assert harness.status.missing().keys() == {"assignment"}
    [(version, sentence)] = harness.reported
    assert (version, sentence.split(":")[0]) == ("1.0.0", warning.split(":")[0])

    harness.send(*like_training(200, 100))
    harness.go_on()
    assert harness.drifts() == [("drift.alarm", "source"), ("drift.over", "source")]
    assert harness.metric("drift_alarm", feature="source") == 0
    assert harness.status.warnings() == {}
    assert len(harness.reported) == 1


def test_what_comes_within_a_second_of_a_full_window_is_in_none(model_store: str) -> None:
    harness = DriftHarness(model_store)
    harness.send(*like_training(0, 100), *like_training(100, 100, source="a new network"))
    harness.run()
    harness.send(*like_training(200, 100))
    harness.go_on()
    assert harness.metric("drift_windows_total") == 2
    assert harness.drifts() == []


def test_a_batch_that_was_not_committed_must_not_count_and_counts_once_when_it_comes_again(
    model_store: str,
) -> None:
    harness = DriftHarness(model_store)
    harness.send(*like_training(0, 90))
    tries: list[int] = []

    class FailingCommits(MemoryPublisher):
        def commit(self, outputs: Iterable[Record], batch: Batch) -> None:
            tries.append(len(batch.messages))
            if len(tries) < 40:
                raise Transient("brokers", "the transaction was aborted")
            super().commit(outputs, batch)

    harness.publisher = FailingCommits(harness.broker, harness.source)
    harness.run()
    assert harness.committed() == 90
    assert len(harness.service._drift._watch._changes) == 90  # type: ignore[union-attr]


def test_another_model_begins_a_window_of_its_own_and_the_old_alarm_is_taken_back(
    tmp_path: Path,
) -> None:
    store = promoted_store(tmp_path)
    registry = ModelRegistry(store, TRUST)
    harness = DriftHarness(store)
    harness.send(*like_training(0, 190, source="a new network"))
    harness.run()
    assert harness.metric("drift_alarm", feature="source") == 1
    registry.promote(registry.publish(trained(3)))
    harness.send(*like_training(190, 10, source="a new network"))
    harness.go_on()
    assert harness.metric("model_loads_total", variant="champion", result="loaded") == 2
    assert harness.metric("drift_windows_total") == 1
    assert harness.metric("drift_psi", feature="source") is None
    assert harness.drifts() == [("drift.alarm", "source"), ("drift.over", "source")]
    assert harness.status.warnings() == {}
    harness.send(*like_training(200, 90, source="a new network"))
    harness.go_on()
    assert [version for version, _ in harness.reported] == ["1.0.0", "1.1.0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damaged",
    [
        lambda _: None,
        lambda _: {},
        lambda _: [],
        lambda _: {"inputs": "none"},
        lambda known: {**known, "rows": 10**400},
    ],
    ids=["null", "empty", "list", "no inputs", "rows"],
)
def test_a_model_without_a_usable_reference_serves_unwatched_and_the_log_says_so_once(
    damaged: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    part = damaged(trained().manifest["drift"])
    if isinstance(part, dict):
        part.pop("independent_rows", None)
    manifest = {**trained().manifest, "drift": part}
    registry = ModelRegistry(str(tmp_path), TRUST)
    registry.promote(registry.publish(replace(trained(), manifest=manifest)))
    harness = DriftHarness(str(tmp_path))
    harness.send(*like_training(0, 120))
    harness.run()
    assert harness.committed() == 120
    assert harness.metric("drift_windows_total") == 0
    assert harness.log.events().count("drift.unwatched") == 1


def test_a_manifest_from_before_independent_rows_were_counted_is_still_watched(
    tmp_path: Path,
) -> None:
    part = {
        name: value
        for name, value in trained().manifest["drift"].items()
        if name != "independent_rows"
    }
    registry = ModelRegistry(str(tmp_path), TRUST)
    registry.promote(
        registry.publish(replace(trained(), manifest={**trained().manifest, "drift": part}))
    )
    harness = DriftHarness(str(tmp_path))
    harness.send(*like_training(0, 100))
    harness.run()
    assert harness.metric("drift_windows_total") == 1


def test_only_changes_that_were_scored_and_that_no_operator_chose_are_watched(
    model_store: str,
) -> None:
    leads = FakeLeads({"asked for": Lead(STATE, 1)})
    outcome = pipeline(model_store, leads).process(
        batch(
            change(0, "scored"),
            change(1, "coalesced", lead_version=1),
            change(2, "coalesced", lead_version=2),
            change(3, "too large", {"lead_score": 1e15}),
            change(4, "rescored", change_type="RESCORE"),
            raw(5, b"junk", b"junk"),
            avro_request(6, "request", ["asked for"]),
        )
    )
    assert [part.keys for part in outcome.scored] == [[b"scored", b"coalesced"]]
    [part] = outcome.scored
    created = part.scores.matrix.names.index("days_since_creation")
    assert part.scores.matrix.values[part.rows, created].tolist() == [1.0, 1.0]


def test_the_manifest_says_how_the_newest_period_differs_from_those_before() -> None:
    part = trained().manifest["drift"]
    assert part["newest"].keys() == part["inputs"].keys()
    assert json.loads(json.dumps(part)) == part
    for name, newest in part["newest"].items():
        assert 0 <= newest["psi"] < 0.2, name
        assert newest["missing"] == pytest.approx(part["inputs"][name]["missing"], abs=0.05)
        assert (newest["unseen"] is None) == ("edges" in part["inputs"][name])
    assert 0 < part["independent_rows"] < part["rows"]
