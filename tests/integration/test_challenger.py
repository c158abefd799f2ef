"""A new model next to the champion, in running processes: in the shadow, in a split, moved,
retired, tampered with.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from leadstream.cli.topics import find_differences
from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from leadstream.settings import load_settings
from leadstream.variants import challenged
from models.monitor.ledger import DAY_MS
from models.registry.store import Store
from models.registry.versions import ModelRegistry
from schemas.codec import Reader
from tests.integration.running import Running, Stage, until
from tests.integration.test_follow import HORIZON_DAYS, START, outcome
from tests.trained_models import TRUST, promoted_store, trained

pytestmark = pytest.mark.broker


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    """A champion 1.0.0, and 1.1.0 and 1.2.0 that may challenge it."""
    registry = ModelRegistry(promoted_store(tmp_path / "models"), TRUST)
    for seed in (2, 3):
        registry.publish(trained(seed))
    return registry


def stage(kafka: Broker, folder: Path, registry: ModelRegistry) -> Stage:
    return Stage.on(kafka.bootstrap, folder, registry.url)


def shadows(stage: Stage, count: int) -> list[dict[str, Any]]:
    reader = Reader("LeadPrediction")
    records = stage.read(stage.topics.shadow_predictions, count)
    return [reader.decode(value) for record in records if (value := record.value()) is not None]


def warnings(process: Running) -> dict[str, str]:
    found: dict[str, str] = json.loads(process.get("/readyz")[1])["warnings"]
    return found


def test_in_the_shadow_every_lead_has_one_prediction_of_each_and_the_alias_is_followed(
    tmp_path: Path, kafka: Broker, registry: ModelRegistry
) -> None:
    stage_ = stage(kafka, tmp_path, registry)
    with stage_.running() as process:
        process.until_ready()
        stage_.send(stage_.changes("alone", 50))
        stage_.predictions(50)
        registry.promote("1.1.0", "challenger")
        process.event("challenger.loaded", version="1.1.0")
        stage_.send(stage_.changes("first", 200))
        assert len(shadows(stage_, 200)) == 200
        registry.promote("1.2.0", "challenger")
        process.event("challenger.loaded", version="1.2.0")
        model = json.loads(process.get("/model")[1])
        assert (model["version"], model["challenger"]["version"], model["challenger"]["share"]) == (
            "1.0.0",
            "1.2.0",
            0,
        )
        stage_.send(stage_.changes("second", 200))
        stage_.send([Output(stage_.topics.lead_changes, b"first_0", None)])
        shadows(stage_, 401)
        registry.retire("challenger")
        process.event("challenger.left", version="1.2.0")
        stage_.send(stage_.changes("after", 50))
        ours = stage_.predictions(501)
        theirs = shadows(stage_, 401)
        assert json.loads(process.get("/model")[1])["challenger"]["version"] is None
        assert process.metric("challenger_predictions_total", mode="shadow", result="scored") == 400
        assert process.accounting()["scored"] == 500
        assert process.stop() == 0
        batches = process.events("batch")
    assert {batch.get("challenger_version") for batch in batches} == {None, "1.1.0", "1.2.0"}
    assert {(p["variant"], p["model_version"]) for p in ours} == {("champion", "1.0.0")}
    assert len({p["lead_id"] for p in ours}) == len(ours) == 500
    assert sorted((p["lead_id"], p["variant"], p["model_version"]) for p in theirs) == sorted(
        (f"{prefix}_{i}", "challenger", version)
        for prefix, version in (("first", "1.1.0"), ("second", "1.2.0"))
        for i in range(200)
    )
    same = {
        p["lead_id"]: (p["event_id"], p["source_partition"], p["source_offset"], p["scored_at"])
        for p in ours
    }
    for p in theirs:
        assert same[p["lead_id"]] == (
            p["event_id"],
            p["source_partition"],
            p["source_offset"],
            p["scored_at"],
        )
    nulls = [
        record.key()
        for record in stage_.read(stage_.topics.shadow_predictions, 401)
        if record.value() is None
    ]
    assert nulls == [b"first_0"]


def test_in_a_split_a_lead_keeps_its_variant_over_changes_processes_and_restarts(
    tmp_path: Path, kafka: Broker, registry: ModelRegistry
) -> None:
    registry.promote("1.1.0", "challenger")
    stage_ = stage(kafka, tmp_path, registry)
    share = {"LEADSTREAM_CHALLENGER_SHARE": "0.3"}
    with stage_.running(**share) as first, stage_.running(**share) as second:
        for process in (first, second):
            process.until_ready()
            process.event("challenger.loaded")
        stage_.send(stage_.changes("lead", 500))
        stage_.predictions(500)
        assert sum(process.accounting()["scored"] for process in (first, second)) == 500
        assert first.stop() == second.stop() == 0
    stage_.send(
        [stage_.change(f"lead_{i}", event_id=f"again {i}", lead_version=2) for i in range(500)]
    )
    with stage_.running(**share) as again:
        found = stage_.predictions(1_000)
        assert again.stop() == 0
    assert len(found) == 1_000
    expected = {
        f"lead_{i}": ("challenger", "1.1.0")
        if challenged(f"lead_{i}", 0.3)
        else ("champion", "1.0.0")
        for i in range(500)
    }
    assert 100 < sum(variant == "challenger" for variant, _ in expected.values()) < 200
    for prediction in found:
        assert (prediction["variant"], prediction["model_version"]) == expected[
            prediction["lead_id"]
        ]
    assert stage_.read(stage_.topics.shadow_predictions, 0) == []


def test_a_tampered_challenger_is_a_warning_and_leaves_the_champion_s_stream_untouched(
    tmp_path: Path, kafka: Broker, registry: ModelRegistry
) -> None:
    registry.promote("1.1.0", "challenger")
    artifact = Store(registry.url).read("versions/1.1.0/model.joblib", 2**26) or b""
    Store(registry.url).replace(
        "versions/1.1.0/model.joblib", artifact[:-1] + bytes([artifact[-1] ^ 1])
    )
    stage_ = stage(kafka, tmp_path, registry)
    with stage_.running() as process:
        process.until_ready()
        assert warnings(process)["challenger"].startswith(
            "model version 1.1.0: its artifact has sha256"
        )
        stage_.send(stage_.changes("lead", 100))
        found = stage_.predictions(100)
        assert {(p["variant"], p["model_version"]) for p in found} == {("champion", "1.0.0")}
        assert process.metric("model_loads_total", variant="challenger", result="refused") == 1
        registry.promote("1.2.0", "challenger")
        until(lambda: not warnings(process), "the warning ends")
        process.event("challenger.loaded", version="1.2.0")
        assert process.stop() == 0
    assert stage_.read(stage_.topics.shadow_predictions, 0) == []


def test_without_a_shadow_topic_the_challenger_waits_and_the_champion_does_not(
    tmp_path: Path, kafka: Broker, registry: ModelRegistry
) -> None:
    registry.promote("1.1.0", "challenger")
    stage_ = stage(kafka, tmp_path, registry)
    missing = f"{stage_.topics.shadow_predictions}.none"
    with stage_.running(LEADSTREAM_TOPIC_LEAD_PREDICTIONS_SHADOW=missing) as process:
        process.until_ready()
        stage_.send(stage_.changes("lead", 100))
        stage_.predictions(100)
        assert missing in warnings(process)["challenger"]
        assert process.metric("held_batches_total", dependency="brokers") == 0
        assert process.stop() == 0


def compared(stage: Stage, *words: str) -> dict[str, Any]:
    with stage.running("models", "compare", "--json", *words) as verb:
        assert verb.exit_code() == 0, verb.lines()
        found: dict[str, Any] = json.loads("\n".join(verb.lines()))
    return found


def test_a_comparison_is_of_what_was_published_and_of_what_became_of_those_leads(
    tmp_path: Path, kafka: Broker, registry: ModelRegistry
) -> None:
    """400 leads in the shadow, then 400 in a split; a third converts after five days, the rest is
    never heard of. Ten more are as of days that both versions learned from.
    """
    registry.promote("1.1.0", "challenger")
    stage_ = stage(kafka, tmp_path, registry)

    def changes(prefix: str, first_day: float) -> list[Output]:
        return [
            stage_.change(
                f"{prefix}_{i}",
                {"lead_score": i % 100.0, "created_at": START - 500 * DAY_MS},
                occurred_at=START + round((first_day + i / 10) * DAY_MS),
            )
            for i in range(400)
        ]

    for prefix, share in (("shadow", "0"), ("split", "0.5")):
        with stage_.running(LEADSTREAM_CHALLENGER_SHARE=share) as process:
            process.event("challenger.loaded")
            if prefix == "shadow":
                stage_.send(changes("learned", -450)[:10])
            stage_.send(changes(prefix, 0 if prefix == "shadow" else 50))
            ours = {p["lead_id"]: p for p in stage_.predictions(410 if prefix == "shadow" else 810)}
            assert process.stop() == 0
    theirs = {p["lead_id"]: p for p in shadows(stage_, 410)}
    days = {lead: (p["occurred_at"] - START) / DAY_MS for lead, p in ours.items()}
    converted = {lead: int(lead.split("_")[1]) % 3 == 0 for lead in ours}
    stage_.send([outcome(stage_, "long ago", True, -1)])
    stage_.send(
        outcome(stage_, lead, True, days[lead] + 5) for lead in sorted(theirs) if converted[lead]
    )
    assert compared(stage_)["n"] == 0, "conversions are known, and nothing else yet"
    stage_.send(
        outcome(stage_, lead, True, days[lead] + 5) for lead in sorted(ours) if converted[lead]
    )
    stage_.send([outcome(stage_, "yesterday", False, HORIZON_DAYS + 130)])
    found = compared(stage_)
    assert (found["champion"], found["challenger"], found["mode"], found["n"]) == (
        "1.0.0",
        "1.1.0",
        "shadow",
        400,
    )
    assert found["trained_on"] == 8, "the four that converted, by each version"
    theirs = {lead: made for lead, made in theirs.items() if lead.startswith("shadow")}
    for side, predictions_of in (("champion", ours), ("challenger", theirs)):
        brier = (
            sum((predictions_of[lead]["probability"] - converted[lead]) ** 2 for lead in theirs)
            / 400
        )
        assert found["figures"][side]["brier"] == pytest.approx(brier)
    difference = found["figures"]["challenger"]["brier"] - found["figures"]["champion"]["brier"]
    assert found["low"] < found["difference"] < found["high"]
    assert found["difference"] == pytest.approx(difference)
    split = compared(stage_, "--mode", "split")
    assert split["mode"] == "split"
    # Pairs of neighbours of 400 leads in two arms of one size: about a third of them are left over.
    assert 100 <= split["n"] <= 170


def test_a_shadow_that_is_kept_until_it_can_be_compared_is_no_fault_of_the_topic(
    tmp_path: Path, kafka: Broker, model_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_ = Stage.on(kafka.bootstrap, tmp_path, model_store)
    monkeypatch.chdir(tmp_path)
    for name, value in stage_.environment.items():
        monkeypatch.setenv(name, value)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})

    def keep(topic: str, milliseconds: str) -> None:
        entry = ConfigEntry(
            "retention.ms", milliseconds, incremental_operation=AlterConfigOpType.SET
        )
        asked = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        for future in admin.incremental_alter_configs([asked]).values():
            future.result(30)

    for longer in ("7776000000", "-1"):
        keep(stage_.topics.shadow_predictions, longer)
        until(lambda: not find_differences(load_settings()), "longer is no fault")
    keep(stage_.topics.shadow_predictions, "60000")
    until(
        lambda: [d.what for d in find_differences(load_settings())] == ["retention.ms"],
        "shorter is",
    )
    keep(stage_.topics.shadow_predictions, "604800000")
    keep(stage_.topics.lead_changes, "7776000000")
    until(
        lambda: (
            [d.topic for d in find_differences(load_settings())] == [stage_.topics.lead_changes]
        ),
        "only there",
    )
