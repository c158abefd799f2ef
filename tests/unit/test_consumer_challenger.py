"""What a challenger may do to a batch, and what it must never do to the champion."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.scoring.leads import Lead
from consumer.scoring.predictions import PredictionWriter, prediction_id
from consumer.scoring.result import Disposition
from leadstream.errors import Poison, Reason, Transient
from leadstream.kafka.batch import Output
from leadstream.variants import challenged
from models.registry.slot import RETRY_SECONDS, ChallengerSlot
from models.registry.store import Store
from models.registry.versions import ModelRegistry
from models.serve.scorer import Model, Scores
from schemas.codec import Writer
from schemas.registry import Registry
from tests.fakes import MemoryPublisher
from tests.trained_models import TRUST, promoted_store, trained
from tests.unit.pipelines import (
    LETTERS,
    NOW_MS,
    PREDICTIONS,
    SHADOW,
    STATE,
    FakeLeads,
    batch,
    change,
    on,
    pipeline,
    predictions,
    raw,
    reasons,
    request,
    results,
)
from tests.unit.test_consumer_service import ServiceHarness

pytestmark = pytest.mark.slow
SHARE = "0.3"
LEADS = [f"lead_{i}" for i in range(30)]
SPLIT: dict[str, Any] = {"LEADSTREAM_CHALLENGER_SHARE": SHARE}


class FailsFor(Model):
    """A model that cannot score leads with this score."""

    score_that_fails = 13.0

    def score(self, columns: Any, as_of: Any, reasons: int = 0, change: Any = None) -> Scores:
        scores = super().score(columns, as_of, reasons, change)
        scored = columns["lead_score"]
        poison = Poison(Reason.SCORING_FAILED, "score", "no tree for 13")
        return replace(
            scores,
            failed={i: poison for i, value in enumerate(scored) if value == self.score_that_fails},
        )


class Breaks(Model):
    """A model with a bug."""

    def score(self, columns: Any, as_of: Any, reasons: int = 0, change: Any = None) -> Scores:
        raise IndexError("list index out of range")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A champion 1.0.0 and a challenger 1.1.0: look, and change nothing."""
    return challenged_store(tmp_path_factory.mktemp("models"))


def challenged_store(folder: Path) -> str:
    url = promoted_store(folder)
    registry = ModelRegistry(url, TRUST)
    registry.promote(registry.publish(trained(2)), "challenger")
    return url


@pytest.fixture
def rival(store: str) -> ChallengerSlot:
    slot = ChallengerSlot(ModelRegistry(store, TRUST))
    slot.follow("1.0.0")
    return slot


def as_(kind: type[Model], rival: ChallengerSlot) -> ChallengerSlot:
    assert rival.loaded is not None
    rival.loaded.__class__ = kind
    return rival


def changes() -> list[Any]:
    return [change(i, lead, {"lead_score": float(i)}) for i, lead in enumerate(LEADS)]


def main(outputs: list[Output]) -> list[Output]:
    return [output for output in outputs if output.topic != SHADOW]


@pytest.mark.slow
def test_in_the_shadow_the_challenger_scores_every_lead_and_the_champion_s_bytes_stay_the_same(
    store: str, rival: ChallengerSlot
) -> None:
    alone = pipeline(store).process(batch(*changes()))
    both = pipeline(store, challenger=rival).process(batch(*changes()))
    assert main(both.outputs) == alone.outputs
    assert (both.dispositions, both.imputed, both.coverage) == (
        alone.dispositions,
        alone.imputed,
        alone.coverage,
    )
    ours, shadows = predictions(both), predictions(both, SHADOW)
    assert [p["lead_id"] for p in shadows] == LEADS
    assert [output.key for output in on(both, SHADOW)] == [lead.encode() for lead in LEADS]
    assert {(p["variant"], p["model_version"]) for p in ours} == {("champion", "1.0.0")}
    assert {(p["variant"], p["model_version"]) for p in shadows} == {("challenger", "1.1.0")}
    same = (
        "event_id",
        "lead_version",
        "occurred_at",
        "scored_at",
        "source_offset",
        "coalesced_changes",
    )
    assert [[p[name] for name in same] for p in ours] == [
        [p[name] for name in same] for p in shadows
    ]
    for p in shadows:
        assert p["prediction_id"] == prediction_id(
            p["event_id"], p["lead_id"], p["model_sha256"], "challenger"
        )
    assert any(a["probability"] != b["probability"] for a, b in zip(ours, shadows, strict=True))
    assert (both.challenger_version, both.challenged) == ("1.1.0", {("shadow", "scored"): 30})
    assert (alone.challenger_version, alone.challenged) == (None, {})
    assert "shadow" in both.seconds


def test_a_challenger_gives_in_the_shadow_what_it_would_give_as_the_champion(
    store: str, rival: ChallengerSlot, tmp_path: Path
) -> None:
    registry = ModelRegistry(challenged_store(tmp_path), TRUST)
    registry.promote("1.1.0")
    champion = predictions(pipeline(registry.url).process(batch(*changes())))
    shadows = predictions(pipeline(store, challenger=rival).process(batch(*changes())), SHADOW)
    own = {"prediction_id", "variant"}
    assert [{k: v for k, v in p.items() if k not in own} for p in shadows] == [
        {k: v for k, v in p.items() if k not in own} for p in champion
    ]


def test_a_row_that_fails_in_the_challenger_costs_its_shadow_alone(
    store: str, rival: ChallengerSlot
) -> None:
    alone = pipeline(store).process(batch(*changes()))
    both = pipeline(store, challenger=as_(FailsFor, rival)).process(batch(*changes()))
    assert main(both.outputs) == alone.outputs
    assert [p["lead_id"] for p in predictions(both, SHADOW)] == [
        lead for lead in LEADS if lead != "lead_13"
    ]
    assert both.challenged == {("shadow", "scored"): 29, ("shadow", "failed"): 1}


def test_a_row_that_fails_in_the_champion_has_no_shadow_and_its_letter_names_the_champion(
    store: str, rival: ChallengerSlot
) -> None:
    outcome = pipeline(store, challenger=rival).process(
        batch(change(0), change(1, "far", {"lead_score": 1e14}))
    )
    assert reasons(outcome) == ["SCORING_FAILED"]
    assert dict(on(outcome, LETTERS)[0].headers or [])["dlq.model_version"] == b"1.0.0"
    assert [p["lead_id"] for p in predictions(outcome, SHADOW)] == ["lead_1"]
    assert outcome.challenged == {("shadow", "scored"): 1}


@pytest.mark.parametrize("share", ["0", SHARE])
def test_a_bug_that_only_the_challenger_has_must_not_end_the_process(
    store: str, rival: ChallengerSlot, share: str
) -> None:
    alone = pipeline(store).process(batch(*changes()))
    broken = as_(Breaks, rival)
    both = pipeline(store, challenger=broken, LEADSTREAM_CHALLENGER_SHARE=share).process(
        batch(*changes())
    )
    assert both.outputs == alone.outputs
    assert (
        both.challenger_error
        == "version 1.1.0 cannot score (IndexError('list index out of range'))"
    )
    assert both.challenger_version is None
    wanted = LEADS if share == "0" else [lead for lead in LEADS if challenged(lead, float(share))]
    assert both.challenged == {("shadow" if share == "0" else "split", "failed"): len(wanted)}


def test_a_split_gives_each_lead_one_answer_by_the_model_that_its_id_says(
    store: str, rival: ChallengerSlot
) -> None:
    outcome = pipeline(store, challenger=rival, **SPLIT).process(batch(*changes()))
    assert on(outcome, SHADOW) == []
    assert [p["lead_id"] for p in predictions(outcome)] == LEADS
    theirs = {p["lead_id"] for p in predictions(outcome) if p["variant"] == "challenger"}
    assert theirs == {lead for lead in LEADS if challenged(lead, float(SHARE))}
    assert 0 < len(theirs) < len(LEADS)
    for prediction in predictions(outcome):
        version = "1.1.0" if prediction["lead_id"] in theirs else "1.0.0"
        assert prediction["model_version"] == version
    assert outcome.dispositions == Counter({Disposition.SCORED: 30})
    assert outcome.challenged == {("split", "scored"): len(theirs)}
    assert len(outcome.coverage) == 30
    assert "split" in outcome.seconds


def test_the_champion_s_share_of_a_split_is_the_same_bytes_as_without_one(
    store: str, rival: ChallengerSlot
) -> None:
    alone = {output.key: output for output in pipeline(store).process(batch(*changes())).outputs}
    for output in pipeline(store, challenger=rival, **SPLIT).process(batch(*changes())).outputs:
        assert output.key is not None
        assert (output == alone[output.key]) is not challenged(output.key.decode(), float(SHARE))


def test_in_a_split_a_row_that_fails_in_the_challenger_is_the_champion_s(
    store: str, rival: ChallengerSlot
) -> None:
    lead = next(lead for lead in LEADS if challenged(lead, float(SHARE)))
    bad = change(0, lead, {"lead_score": 13.0})
    [alone] = pipeline(store).process(batch(bad)).outputs
    outcome = pipeline(store, challenger=as_(FailsFor, rival), **SPLIT).process(batch(bad))
    assert outcome.outputs == [alone]
    assert outcome.dispositions == Counter({Disposition.SCORED: 1})
    assert outcome.challenged == {("split", "failed"): 1}


def test_a_row_that_fails_in_both_is_one_dead_letter(store: str, rival: ChallengerSlot) -> None:
    outcome = pipeline(store, challenger=rival, LEADSTREAM_CHALLENGER_SHARE="1").process(
        batch(change(0, state={"lead_score": 1e14}))
    )
    assert reasons(outcome) == ["SCORING_FAILED"]
    assert outcome.dispositions == Counter({Disposition.DEAD_LETTERED: 1})


def test_a_request_has_its_answer_and_the_shadow_its_predictions(
    store: str, rival: ChallengerSlot
) -> None:
    leads = FakeLeads({"a": Lead(STATE, 1), "b": Lead(STATE | {"lead_score": 13.0}, 1)})
    ask = batch(request(0, {"request_id": "r", "lead_ids": ["a", "b", "nobody"]}))
    alone = pipeline(store, leads).process(ask)
    both = pipeline(store, leads, challenger=as_(FailsFor, rival)).process(ask)
    assert main(both.outputs) == alone.outputs
    assert [p["lead_id"] for p in predictions(both, SHADOW)] == ["a"]
    assert [p["event_id"] for p in predictions(both, SHADOW)] == ["r"]


def test_a_request_of_a_split_tells_the_probability_that_was_published(
    store: str, rival: ChallengerSlot
) -> None:
    leads = FakeLeads({lead: Lead(STATE, 1) for lead in LEADS})
    outcome = pipeline(store, leads, challenger=rival, **SPLIT).process(batch(request(0, LEADS)))
    [result] = results(outcome)
    published = {p["lead_id"]: p for p in predictions(outcome)}
    assert {p["variant"] for p in published.values()} == {"champion", "challenger"}
    assert [p["probability"] for p in result["predictions"]] == [
        published[lead]["probability"] for lead in LEADS
    ]
    assert result["model_used"] == "random_forest"


def test_a_request_that_cannot_be_answered_leaves_nothing_in_the_shadow(
    store: str, rival: ChallengerSlot
) -> None:
    leads = FakeLeads({"lead_1": Lead(STATE, 1)})
    outcome = pipeline(store, leads, challenger=rival).process(
        batch(request(0, {"request_id": "\ud800", "lead_ids": ["lead_1"]}))
    )
    assert [output.topic for output in outcome.outputs] == [LETTERS]


def test_an_erased_lead_is_erased_in_the_shadow_too_but_only_where_there_is_one(
    store: str, rival: ChallengerSlot
) -> None:
    erased = batch(raw(0, None), change(1, "lead_2", change_type="DELETED"))

    def nulls(**given: Any) -> list[tuple[str, bytes | None]]:
        outputs = pipeline(store, **given).process(erased).outputs
        assert all(output.value is None for output in outputs)
        return [(output.topic, output.key) for output in outputs]

    champion = [(PREDICTIONS, b"lead_1"), (PREDICTIONS, b"lead_2")]
    assert nulls() == nulls(challenger=rival, **SPLIT) == champion
    assert nulls(challenger=rival) == [
        champion[0],
        (SHADOW, b"lead_1"),
        champion[1],
        (SHADOW, b"lead_2"),
    ]


def test_a_challenger_that_has_just_become_the_champion_is_none(
    store: str, rival: ChallengerSlot
) -> None:
    own = ChallengerSlot(ModelRegistry(store, TRUST))
    own.loaded = ModelRegistry(store, TRUST).verify("1.0.0")
    outcome = pipeline(store, challenger=own).process(batch(*changes()))
    assert on(outcome, SHADOW) == []
    assert outcome.challenger_version is None


def test_a_registry_that_does_not_know_the_shadow_topic_must_stop_the_challenger_and_not_the_batch(
    store: str,
) -> None:
    line = pipeline(store)
    closed = Writer("LeadPrediction", Registry("http://127.0.0.1:9"), SHADOW)
    line._codecs = replace(line._codecs, shadow=closed)
    assert "registry" in (line.obstacle(lambda _topic: None) or "")
    assert pipeline(store).obstacle(lambda topic: f"no {topic}") == f"no {SHADOW}"
    assert pipeline(store).obstacle(lambda _topic: None) is None
    assert pipeline(store, **SPLIT).obstacle(lambda topic: f"no {topic}") is None


def test_shadow_predictions_are_written_by_the_schema_of_their_own_topic(
    store: str, rival: ChallengerSlot
) -> None:
    class Marking(Writer):
        def header(self) -> bytes:
            return b"shadow's " + super().header()

    line = pipeline(store, challenger=rival)
    line._scorer._shadow = PredictionWriter(Marking("LeadPrediction"), SHADOW)
    for output in line.process(batch(*changes())).outputs:
        assert (output.value or b"").startswith(b"shadow's ") is (output.topic == SHADOW)


def model_info(harness: ServiceHarness) -> dict[str, str]:
    """The version of each variant in service, by the metrics."""
    [family] = [f for f in harness.metrics.registry.collect() if f.name == "leadstream_model_info"]
    return {sample.labels["variant"]: sample.labels["version"] for sample in family.samples}


def rounds(harness: ServiceHarness, *steps: Any) -> None:
    """One change to each step: run the step, let two seconds pass, and turn the loop until all is
    done.
    """
    for step in steps:
        step()
        harness.now += 2
        harness.service._stop.clear()
        harness.send(change(0, f"lead_{int(harness.now)}"))
        harness.run()


def versions(harness: ServiceHarness) -> list[tuple[str, str | None]]:
    return [
        (fields["model_version"], fields.get("challenger_version"))
        for event, fields in harness.log.lines
        if event == "batch"
    ]


@pytest.mark.slow
def test_a_challenger_comes_moves_and_goes_between_batches_without_a_restart(
    tmp_path: Path,
) -> None:
    registry = ModelRegistry(promoted_store(tmp_path), TRUST)
    registry.publish(trained(2))
    registry.publish(trained(3))
    harness = ServiceHarness(registry.url)
    seen: list[dict[str, str]] = []

    def look_and(move: Callable[[], object]) -> Callable[[], None]:
        def step() -> None:
            seen.append(model_info(harness))
            move()

        return step

    rounds(
        harness,
        lambda: None,
        lambda: registry.promote("1.1.0", "challenger"),
        look_and(lambda: registry.promote("1.2.0", "challenger")),
        lambda: registry.promote("1.2.0"),
        look_and(registry.rollback),
        lambda: registry.retire("challenger"),
    )
    assert versions(harness) == [
        ("1.0.0", None),
        ("1.0.0", "1.1.0"),
        ("1.0.0", "1.2.0"),
        ("1.2.0", None),
        ("1.0.0", "1.2.0"),
        ("1.0.0", None),
    ]
    assert seen == [{"champion": "1.0.0", "challenger": "1.1.0"}, {"champion": "1.2.0"}]
    assert model_info(harness) == {"champion": "1.0.0"}
    assert harness.metric("challenger_predictions_total", mode="shadow", result="scored") == 3
    assert harness.metric("model_loads_total", variant="challenger", result="loaded") == 3
    assert [event for event in harness.log.events() if event.startswith("challenger")] == [
        "challenger.loaded",
        "challenger.loaded",
        "challenger.left",
        "challenger.loaded",
        "challenger.left",
    ]
    assert len(harness.broker.records[PREDICTIONS]) == 6
    assert len(harness.broker.records[SHADOW]) == 3


def test_a_tampered_challenger_is_a_warning_and_a_count_and_the_champion_goes_on(
    tmp_path: Path,
) -> None:
    url = challenged_store(tmp_path)
    Store(url).replace("versions/1.1.0/model.joblib", b"tampered with")
    harness = ServiceHarness(url)
    rounds(harness, lambda: None, lambda: None)
    assert versions(harness) == [("1.0.0", None)] * 2
    assert harness.status.warnings()["challenger"].startswith(
        "model version 1.1.0: its artifact has size"
    )
    assert "challenger" not in harness.status.missing()
    assert harness.metric("model_loads_total", variant="challenger", result="refused") == 1
    rounds(harness, lambda: ModelRegistry(url, TRUST).retire("challenger"))
    assert harness.status.warnings() == {}


def test_a_challenger_that_breaks_leaves_after_the_batch_which_the_champion_has_scored(
    tmp_path: Path,
) -> None:
    harness = ServiceHarness(challenged_store(tmp_path))
    rounds(harness, lambda: None, lambda: as_(Breaks, harness.challenger), lambda: None)
    assert versions(harness) == [("1.0.0", "1.1.0"), ("1.0.0", None), ("1.0.0", None)]
    assert len(harness.broker.records[PREDICTIONS]) == 3
    assert "cannot score" in harness.status.warnings()["challenger"]
    assert harness.metric("challenger_predictions_total", mode="shadow", result="failed") == 1
    assert model_info(harness) == {"champion": "1.0.0"}


def test_a_shadow_topic_that_is_missing_must_not_hold_a_batch(tmp_path: Path) -> None:
    harness = ServiceHarness(challenged_store(tmp_path))

    class Lacking(MemoryPublisher):
        there = False

        def topic_problem(self, topic: str) -> str | None:
            return None if self.there else f"topic {topic}: unknown"

        def commit(self, outputs: Any, batch: Any) -> None:
            outputs = list(outputs)
            assert self.there or not any(topic == SHADOW for topic, *_ in outputs)
            super().commit(outputs, batch)

    harness.publisher = publisher = Lacking(harness.broker, harness.source)
    rounds(harness, lambda: None, lambda: None)
    assert versions(harness) == [("1.0.0", None)] * 2
    assert harness.status.warnings() == {"challenger": f"topic {SHADOW}: unknown"}
    assert harness.metric("model_loads_total", variant="challenger", result="unanswered") == 1
    publisher.there = True
    harness.now += RETRY_SECONDS
    rounds(harness, lambda: None)
    assert versions(harness)[-1] == ("1.0.0", "1.1.0")
    assert harness.status.warnings() == {}


def test_a_shadow_topic_that_takes_nothing_costs_one_try_and_not_the_stream(tmp_path: Path) -> None:
    harness = ServiceHarness(challenged_store(tmp_path))

    class RefusingShadow(MemoryPublisher):
        tries = 0

        def commit(self, outputs: Any, batch: Any) -> None:
            outputs = list(outputs)
            self.tries += 1
            if any(topic == SHADOW for topic, *_ in outputs):
                raise Transient("brokers", "topic authorization failed")
            super().commit(outputs, batch)

    harness.publisher = publisher = RefusingShadow(harness.broker, harness.source)
    rounds(harness, lambda: None, lambda: None)
    assert versions(harness) == [("1.0.0", None)] * 2
    assert publisher.tries == 3
    assert "topic authorization failed" in harness.status.warnings()["challenger"]
    assert harness.status.missing().keys() == {"assignment"}
    harness.publisher = MemoryPublisher(harness.broker, harness.source)
    harness.now += RETRY_SECONDS
    rounds(harness, lambda: None)
    assert versions(harness)[-1] == ("1.0.0", "1.1.0")


def test_brokers_that_fail_for_a_moment_must_not_move_the_leads_of_a_split(tmp_path: Path) -> None:
    harness = ServiceHarness(
        challenged_store(tmp_path), settings={"LEADSTREAM_CHALLENGER_SHARE": "1"}
    )

    class FailingFirstCommit(MemoryPublisher):
        tries = 0

        def commit(self, outputs: Any, batch: Any) -> None:
            self.tries += 1
            if self.tries == 1:
                raise Transient("brokers", "the transaction was aborted")
            super().commit(outputs, batch)

    harness.publisher = publisher = FailingFirstCommit(harness.broker, harness.source)
    rounds(harness, lambda: None)
    assert publisher.tries == 2
    assert versions(harness) == [("1.0.0", "1.1.0")]
    assert harness.metric("challenger_predictions_total", mode="split", result="scored") == 1


def test_the_moment_of_a_change_is_the_moment_that_both_models_are_asked_about(
    store: str, rival: ChallengerSlot
) -> None:
    outcome = pipeline(store, challenger=rival).process(batch(change(0, occurred_at=NOW_MS - 5)))
    assert [p["occurred_at"] for p in predictions(outcome) + predictions(outcome, SHADOW)] == [
        NOW_MS - 5
    ] * 2
