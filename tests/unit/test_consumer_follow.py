"""The loop of `follow`: records it cannot read, dependencies that do not answer, and what it sets
off.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from consumer.outcomes.monitor import MonitorOptions, OutcomeMonitor, Recalibrate
from consumer.outcomes.reader import OutcomeReader, horizon_lookup, in_order
from consumer.retrain_requests import RetrainRequests
from leadstream.errors import Poison, Transient, UserError
from leadstream.kafka.batch import Message
from leadstream.kafka.topics import Topics
from leadstream.process.metrics import FollowMetrics
from leadstream.process.status import Status
from leadstream.settings import load_settings
from models.monitor.ledger import DAY_MS, LabeledPrediction
from models.monitor.live import LiveWindows
from models.monitor.triggers import InService, Trigger, Triggers
from models.registry.versions import ModelRegistry
from models.train.recalibrate import Recalibrated
from schemas.codec import Writer
from tests.fakes import FakeMessage
from tests.trained_models import TRUST

NOW = 1_780_000_000_000
TOPICS = Topics()
PREDICTION_RECORD: dict[str, Any] = {
    "prediction_id": "p",
    "lead_id": "a",
    "prediction": False,
    "probability": 0.3,
    "probability_low": 0.0,
    "probability_high": 1.0,
    "confidence": 0.5,
    "grade": "C",
    "raw_score": 0.3,
    "threshold": 0.5,
    "reasons": [],
    "feature_coverage": 1.0,
    "imputed": [],
    "model_used": "random_forest",
    "model_version": "1.0.0",
    "model_sha256": "0" * 64,
    "variant": "champion",
    "event_id": "e",
    "change_type": "UPDATED",
    "lead_version": 1,
    "coalesced_changes": 0,
    "occurred_at": 0,
    "scored_at": 0,
    "source_topic": "crm.lead-changes",
    "source_partition": 0,
    "source_offset": 0,
}
_PREDICTION, _OUTCOME = Writer("LeadPrediction"), Writer("LeadOutcome")


def prediction(lead_id: str, occurred_at: int = NOW - 100 * DAY_MS, **fields: Any) -> FakeMessage:
    record = PREDICTION_RECORD | {
        "lead_id": lead_id,
        "event_id": f"event of {lead_id}",
        "occurred_at": occurred_at,
    }
    return FakeMessage(
        TOPICS.lead_predictions, key_=lead_id.encode(), value_=_PREDICTION.encode(record | fields)
    )


def outcome(
    lead_id: str, decided_at: int = NOW - 99 * DAY_MS, converted: bool = True
) -> FakeMessage:
    record = {"lead_id": lead_id, "converted": converted, "decided_at": decided_at}
    return FakeMessage(TOPICS.lead_outcomes, key_=lead_id.encode(), value_=_OUTCOME.encode(record))


def outcome_reader(horizon: Callable[[str], float | None] = lambda _version: 60.0) -> OutcomeReader:
    return OutcomeReader(TOPICS, horizon, clock_ms=lambda: NOW)


@pytest.mark.parametrize(
    "message",
    [
        FakeMessage(TOPICS.lead_outcomes, value_=b"junk"),
        FakeMessage(TOPICS.lead_outcomes, key_=b"\xff"),
        prediction("a", NOW + 2 * DAY_MS),
        outcome("a", NOW + 2 * DAY_MS),
        prediction("a", -1),
        prediction("a", probability=1.5),
        prediction("a", probability=float("nan")),
        prediction("a", raw_score=float("inf")),
    ],
    ids=[
        "junk",
        "key",
        "prediction ahead",
        "outcome ahead",
        "before 1970",
        "above 1",
        "NaN",
        "infinite",
    ],
)
def test_a_record_that_would_spoil_the_figures_is_refused_and_changes_nothing(
    message: FakeMessage,
) -> None:
    one = outcome_reader()
    with pytest.raises(Poison):
        one.take(message)
    assert (one.ledger.pending, one.records.total()) == (0, 0)


def test_a_clock_that_is_hours_ahead_is_no_reason_to_lose_a_record() -> None:
    one = outcome_reader()
    one.take(prediction("a", NOW + 20 * 3_600_000))
    assert one.ledger.pending == 1


def test_a_version_that_is_not_in_the_store_has_no_horizon_and_is_told_once(tmp_path: Path) -> None:
    reported: list[str] = []
    horizon_days_of = horizon_lookup(ModelRegistry(str(tmp_path), TRUST), reported.append)
    assert [horizon_days_of("9.9.9"), horizon_days_of("9.9.9")] == [None, None]
    assert reported == ["9.9.9"]


def test_judged_predictions_come_in_the_order_of_their_labels_however_they_were_read() -> None:
    one = outcome_reader()
    joined = [
        x
        for m in (
            prediction("b", NOW - 90 * DAY_MS),
            prediction("a"),
            outcome("a"),
            outcome("b", NOW - 80 * DAY_MS),
        )
        for x in one.take(m)
    ]
    joined += one.take(outcome("z", NOW))
    assert [x.prediction.lead_id for x in in_order(joined[::-1], lambda _version: 60.0, set())] == [
        "a",
        "b",
    ]
    assert in_order(joined, lambda _version: 60.0, {"a", "b"}) == []


class FakeTail:
    """Hands out these batches, then stops the loop; an exception in a batch's place is raised.

    A topic that is `busy` always has more to read, once the history has been read.
    """

    def __init__(
        self,
        *batches: Sequence[Message] | Exception,
        known: frozenset[str] = frozenset(),
        busy: str = "",
    ) -> None:
        self.batches = list(batches)
        self.stop: Callable[[], None] = lambda: None
        self.partitions, self.absent, self.at_end, self.known = 3, list[str](), True, known
        self.busy = busy

    def topic_at_end(self, topic: str) -> bool:
        return topic != self.busy

    def poll(self, _timeout: float) -> Sequence[Message]:
        if not self.batches:
            self.stop()
            return []
        batch = self.batches.pop(0)
        self.at_end = not self.busy or len(self.batches) > 2
        if isinstance(batch, Exception):
            raise batch
        return batch


class FakeRequests:
    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[Trigger, str], bool]] = []

    def request(
        self, service: InService, due: Mapping[Trigger, str], *, publish: bool = True
    ) -> None:
        self.asked.append((service.version, dict(due), publish))


class MonitorHarness:
    """A watch with everything real but Kafka, whose clock goes a minute at each look at it."""

    def __init__(
        self,
        store: str,
        options: MonitorOptions | None = None,
        horizon: Callable[[str], float | None] = lambda _version: 60.0,
    ) -> None:
        self.metrics, self.status, self.requests, self.log = (
            FollowMetrics(),
            Status(),
            FakeRequests(),
            CapturingLogger(),
        )
        self.seconds = 0.0
        self.watch = OutcomeMonitor(
            load_settings({}, None),
            options or MonitorOptions(every=1, triggers=Triggers(0, 0)),
            models=ModelRegistry(store, TRUST),
            reader=outcome_reader(horizon),
            live=LiveWindows(horizon),
            requests=self.requests,  # type: ignore[arg-type]
            metrics=self.metrics,
            status=self.status,
            logger=self.log,  # type: ignore[arg-type]
            clock=self.tick,
            clock_ms=lambda: NOW,
        )

    def tick(self) -> float:
        self.seconds += 60
        return self.seconds

    def run(
        self,
        *batches: Sequence[Message] | Exception,
        known: frozenset[str] = frozenset(),
        busy: str = "",
    ) -> "MonitorHarness":
        tail = FakeTail(*batches, known=known, busy=busy)
        tail.stop = self.watch.stop
        self.watch.run(tail)  # type: ignore[arg-type]
        return self

    def events(self, name: str) -> list[dict[str, Any]]:
        return [call.kwargs for call in self.log.calls if call.args == (name,)]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"leadstream_{name}", labels)


DECIDED = [prediction("a"), outcome("a"), outcome("z", NOW)]


def test_a_record_that_cannot_be_read_is_counted_and_its_neighbours_are_judged(
    model_store: str,
) -> None:
    stage = MonitorHarness(model_store).run(
        [DECIDED[0], FakeMessage(TOPICS.lead_outcomes, value_=b"junk"), *DECIDED[1:]], []
    )
    assert stage.metric("records_skipped_total", reason="UNKNOWN_FRAMING") == 1
    assert stage.metric("live_judged", model_version="1.0.0", variant="champion") == 1
    assert stage.metric("outcomes_read_total") == 2
    [skipped] = stage.events("record.skipped")
    assert skipped["topic"] == TOPICS.lead_outcomes


def test_a_store_that_does_not_answer_holds_the_record_and_it_is_taken_once_it_does(
    model_store: str,
) -> None:
    answers: list[float | None] = [None, None]

    def horizon(_version: str) -> float:
        if answers:
            answers.pop()
            raise Transient("model store", "no answer")
        return 60.0

    stage = MonitorHarness(model_store, horizon=horizon).run(DECIDED, [])
    assert stage.metric("live_judged", model_version="1.0.0", variant="champion") == 1
    assert stage.metric("predictions_read_total") == 1
    assert len(stage.events("follow.held")) == len(stage.events("follow.resumed")) == 1
    assert stage.status.missing() == {}


def test_one_kind_of_outcome_leaves_the_ranking_out_of_the_metrics(model_store: str) -> None:
    stage = MonitorHarness(model_store).run(DECIDED, [])
    assert stage.metric("live_roc_auc", model_version="1.0.0", variant="champion") is None
    assert stage.metric("live_base_rate", model_version="1.0.0", variant="champion") == 1


def test_an_erased_lead_leaves_the_live_figures(model_store: str) -> None:
    stage = MonitorHarness(model_store).run(
        DECIDED, [FakeMessage(TOPICS.lead_predictions, key_=b"a")], []
    )
    assert stage.metric("live_judged", model_version="1.0.0", variant="champion") is None


def test_silent_leads_are_judged_by_the_outcomes_of_a_while_ago_not_by_those_just_come(
    model_store: str,
) -> None:
    """The partition that holds a lead's outcome may be read just after the one that holds a newer
    lead's.
    """
    old = [outcome("old", NOW - 200 * DAY_MS), prediction("a"), prediction("b")]
    stage = MonitorHarness(model_store).run(old, [outcome("z", NOW)], [outcome("a")], [])
    [champion] = stage.events("evaluation")[-1]["models"]
    assert (champion["judged"], champion["base_rate"]) == (2, 0.5)


@pytest.mark.parametrize(
    ("busy", "joined"), [(TOPICS.lead_predictions, 2), (TOPICS.lead_outcomes, 1)]
)
def test_predictions_that_come_without_pause_do_not_keep_silent_leads_from_being_judged(
    model_store: str, busy: str, joined: int
) -> None:
    """Then only those that convert would be judged; but while outcomes are read, nobody knows who
    is silent.
    """
    old = [outcome("old", NOW - 200 * DAY_MS), prediction("a"), prediction("b")]
    stage = MonitorHarness(model_store).run(old, [outcome("z", NOW)], [outcome("a")], [], busy=busy)
    assert stage.metric("live_judged", model_version="1.0.0", variant="champion") == joined


@pytest.mark.parametrize(
    ("wanted", "promote"), [(Recalibrate.PROPOSE, False), (Recalibrate.PROMOTE, True)]
)
def test_the_hook_gets_what_the_champions_trees_were_judged_by_and_nothing_else(
    model_store: str, monkeypatch: pytest.MonkeyPatch, wanted: Recalibrate, promote: bool
) -> None:
    called: list[tuple[list[LabeledPrediction], bool, int]] = []

    def hook(
        _registry: object, joined: list[LabeledPrediction], *, promote: bool, now_ms: int
    ) -> Recalibrated:
        called.append((joined, promote, now_ms))
        return Recalibrated("1.0.1", 0.5, promote, [])

    monkeypatch.setattr("models.train.recalibrate.recalibrate_champion", hook)
    others = [
        prediction("a", model_version="0.9.0", event_id="2"),
        prediction("a", variant="challenger", event_id="3"),
        prediction("a", NOW - 101 * DAY_MS, model_version="1.0.1", event_id="4"),
    ]
    stage = MonitorHarness(model_store, MonitorOptions(wanted, 1, Triggers(0, 0))).run(
        [*others, *DECIDED], []
    )
    [(joined, promoted, now_ms)] = called
    found = [(one.prediction.model_version, one.prediction.variant) for one in joined]
    assert found == [("1.0.1", "champion"), ("1.0.0", "champion")]
    assert (promoted, now_ms) == (promote, NOW)
    assert stage.events("recalibrated") == [
        {"version": "1.0.1", "shift": 0.5, "promoted": promote, "objections": []}
    ]


def test_never_means_never(model_store: str) -> None:
    MonitorHarness(model_store).run(
        DECIDED, []
    )  # the hook is not called: there would be a patch, or an error


def test_a_hook_that_needs_a_person_says_so_and_the_figures_go_on(
    model_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hook(*_: object, **__: object) -> None:
        raise UserError("there is no key to sign with")

    monkeypatch.setattr("models.train.recalibrate.recalibrate_champion", hook)
    stage = MonitorHarness(model_store, MonitorOptions(Recalibrate.PROMOTE, 1, Triggers(0, 0))).run(
        DECIDED, []
    )
    assert stage.status.warnings()["recalibration"] == "there is no key to sign with"
    assert stage.metric("live_judged", model_version="1.0.0", variant="champion") == 1


def test_evaluations_come_after_so_many_newly_judged_and_once_at_the_start(
    model_store: str,
) -> None:
    batches = [[prediction(str(i)), outcome(str(i))] for i in range(6)]
    stage = MonitorHarness(model_store, MonitorOptions(every=3, triggers=Triggers(0, 0))).run(
        [outcome("z", NOW)], *batches, []
    )
    assert [line["newly_judged"] for line in stage.events("evaluation")] == [0, 3, 3]


def test_a_store_without_a_champion_still_shows_the_figures(tmp_path: Path) -> None:
    stage = MonitorHarness(str(tmp_path)).run(DECIDED, [])
    assert stage.watch.model() is None
    assert stage.requests.asked == []
    assert stage.metric("live_judged", model_version="1.0.0", variant="champion") == 1


def test_only_outcomes_since_the_champion_was_made_ask_for_a_training(model_store: str) -> None:
    created = 1_735_689_600_000
    before = [prediction("a", created - 90 * DAY_MS), outcome("a", created - 1)]
    after = [prediction("b", created - 90 * DAY_MS), outcome("b", created + 1)]
    for records, wanted in ((before, set()), (after, {Trigger.OUTCOMES})):
        stage = MonitorHarness(model_store, MonitorOptions(every=1, triggers=Triggers(0, 1))).run(
            [*records, outcome("z", NOW)], []
        )
        assert set(stage.requests.asked[-1][1]) == wanted


def test_without_the_topic_of_requests_it_says_so_and_asks_in_the_log(model_store: str) -> None:
    options = MonitorOptions(triggers=Triggers(1, 0))
    stage = MonitorHarness(model_store, options).run([])
    assert stage.requests.asked[-1][2] is False
    assert "leadstream topics create" in stage.status.warnings()["retrain requests"]
    stage = MonitorHarness(model_store, options).run([], known=frozenset({TOPICS.retrain_requests}))
    assert stage.requests.asked[-1][2] is True
    assert stage.status.warnings() == {}


def test_a_request_that_is_not_acknowledged_is_told_once_and_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("consumer.retrain_requests.DELIVERY_SECONDS", 0.1)
    log, metrics = CapturingLogger(), FollowMetrics()
    requests = RetrainRequests(
        load_settings({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, None),
        None,
        verb="follow",
        counter=metrics.retrain,
        logger=log,  # type: ignore[arg-type]
    )
    for _ in range(2):
        with pytest.raises(Transient, match="not acknowledged"):
            requests.request(InService("1.0.0", "ab", None, None), {Trigger.AGE: "old"})
    assert len(log.calls) == 1
    assert (
        metrics.registry.get_sample_value("leadstream_retrain_requested_total", {"trigger": "AGE"})
        == 1
    )
    requests.close()
