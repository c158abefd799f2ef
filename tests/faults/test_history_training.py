"""A model learns the truth of a year, although its writer was killed again and again."""

import hashlib
import json
from pathlib import Path

import pytest
from deltalake import DeltaTable

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from models.registry.versions import ModelRegistry
from models.serve.artifact import dump
from models.train import reasons
from models.train.training import TrainOptions, train
from producer.simulator import SimulatedChange, SimulatedCrm
from schemas.codec import Writer
from tests.integration.running import QUICK, Stage, until
from tests.trained_models import START_MS, TRUST, write_key
from tests.unit.test_history_training import DISORDER, HORIZON, true_table

pytestmark = [pytest.mark.broker, pytest.mark.long]
pytest.importorskip("duckdb")

KILLS = 20
_CHANGE, _OUTCOME = Writer("LeadChanged"), Writer("LeadOutcome")


def position(folder: Path, topic: str) -> int:
    """How many changes the history has passed, of both partitions."""
    if not (folder / "changes" / "_delta_log").exists():
        return 0
    table = DeltaTable(str(folder / "changes"))
    return sum(table.transaction_version(f"{topic}-{partition}") or 0 for partition in (0, 1))


def test_a_model_of_a_history_whose_writer_was_killed_is_that_of_the_truth(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasons, "MAX_ROWS", 8_000)  # as the verb does
    crm = SimulatedCrm(11, start=START_MS, leads=1500, horizon_days=HORIZON)
    stage = Stage.on(kafka.bootstrap, tmp_path, str(tmp_path / "models"))
    topics, folder = stage.topics, tmp_path / "history"
    settings = {
        "LEADSTREAM_HISTORY": str(folder),
        "LEADSTREAM_HISTORY_COMMIT_SECONDS": "0.2",
        "LEADSTREAM_MODEL_SIGNING_KEY": str(write_key(tmp_path / "models")),
        **QUICK,
    }

    def sent(change: SimulatedChange) -> Output:
        value = None if change.record is None else _CHANGE.encode(change.record)
        return Output(topics.lead_changes, change.lead_id.encode(), value)

    deliveries = list(crm.deliveries(DISORDER))
    erased = {each.lead_id for each in deliveries if each.state is None}
    applications = crm.applications()
    # The time that is known ends with the newest outcome, which must not be of an erased lead.
    assert applications[-1].lead_id not in erased
    stage.send(
        Output(
            topics.lead_outcomes,
            each.lead_id.encode(),
            _OUTCOME.encode(
                {"lead_id": each.lead_id, "converted": True, "decided_at": each.submitted_at}
            ),
        )
        for each in applications
    )

    def passed() -> int:
        return position(folder, topics.lead_changes)

    def wait_beyond(before: int) -> None:
        until(lambda: passed() > before, "a commit")

    size = -(-len(deliveries) // KILLS)
    for start in range(0, len(deliveries), size):
        before = passed()
        with stage.running("history", "write", **settings) as process:
            stage.send(map(sent, deliveries[start : start + size]))
            wait_beyond(before)
            process.kill()
    with stage.running("history", "write", **settings) as process:
        until(lambda: passed() == len(deliveries), "the rest")
        assert process.until_ready().stop() == 0
    words = ("--horizon", f"{HORIZON:g}", "--recipe", "additive", "--calibrator", "sigmoid")
    with stage.running("train", "--history", "--json", *words, **settings) as process:
        assert process.exit_code(300) == 0, process.sentences()
        text = "\n".join(process.lines())
    printed = json.JSONDecoder().raw_decode(text[text.index("{\n") :])[0]
    options = TrainOptions(horizon_days=HORIZON, recipe="additive", calibrator="sigmoid")
    payload = dump(train(true_table(crm, erased), options).artifact)
    manifest = ModelRegistry(stage.environment["MODEL_STORE"], TRUST).verify("1.0.0").manifest
    assert manifest["artifact"]["sha256"] == hashlib.sha256(payload).hexdigest()
    left_out = printed["data"]["history"]["left_out"]
    assert {"repeat", "score_written_back", "after_conversion"} <= left_out.keys()
