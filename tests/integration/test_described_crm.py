"""A CRM of another shape from end to end: migrate, insert, relay, run, rescore, erase, outcome."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from features import own_fields
from features.spec import specify
from leadstream.cli.main import main
from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres
from models.registry.versions import ModelRegistry
from models.train.training import TrainOptions
from producer.simulator import SimulatedCrm
from producer.table import training_frame
from schemas.codec import Reader
from tests.integration.described import ContactsCrm, contacts_crm
from tests.integration.running import QUICK, Stage, until
from tests.trained_models import CREATED_MS, START_MS, TRUST, train_once, write_key

pytestmark = [pytest.mark.broker, pytest.mark.postgres, pytest.mark.slow]

# What may differ between two scores of the same state at the same moment.
PROVENANCE = {
    "prediction_id",
    "event_id",
    "change_type",
    "scored_at",
    "source_partition",
    "source_offset",
    "valid_until",
}


@pytest.fixture
def crm(postgres: Postgres, tmp_path: Path) -> Iterator[ContactsCrm]:
    with contacts_crm(postgres.url, tmp_path) as crm:
        yield crm


def store_with_own_fields(folder: Path, crm: ContactsCrm) -> str:
    """A store whose champion reads gpa, country and consent, and learned that they matter."""
    rows = []
    for change in SimulatedCrm(1, start=START_MS, leads=1500).changes():
        if change.record is None or change.state is None or change.truth is None:
            continue
        if not change.truth.applied:
            high = change.truth.converts
            gpa = 3.0 + (int(change.record["lead_version"]) % 10) / 10 * (1 if high else -1)
            own = {
                "numbers": {"gpa": gpa},
                "categories": {"country": "DE" if high else "FR", "consent": "true"},
            }
            rows.append((change, {**change.state, **own}))
    table = training_frame(
        [change.lead_id for change, _ in rows],
        [change.record["occurred_at"] for change, _ in rows if change.record],
        [state for _, state in rows],
        [bool(change.truth and change.truth.converts) for change, _ in rows],
    )
    options = TrainOptions(
        created_at=CREATED_MS,
        recipe="audited",
        calibrator="venn_abers",
        specification=specify(own=own_fields(crm.description.feature_document())),
        allow_leaks=("numbers.gpa", "categories.country"),
    )
    registry = ModelRegistry(str(folder), TRUST)
    registry.promote(registry.publish(train_once(table, options)))
    write_key(folder)
    return str(folder)


def test_a_described_crm_would_train_on_its_own_fields_and_serve_them_as_missing(
    kafka: Broker,
    crm: ContactsCrm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = Stage.on(kafka.bootstrap, tmp_path, store_with_own_fields(tmp_path / "store", crm))
    stage.environment |= {"DATABASE_URL": crm.url, "LEADSTREAM_FIELDS": str(crm.file)}
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)
    assert main(["db", "migrate", "--fields"]) == 0

    def predictions(count: int) -> list[dict[str, Any]]:
        return sorted(stage.predictions(count), key=lambda each: each["source_offset"])

    with stage.running(**QUICK) as consumer, stage.running("relay", **QUICK) as relay:
        relay.event("relay.opened")
        consumer.until_ready()
        lead_id = crm.add(created_on="2026-01-31 12:00", row_version=3)
        [first] = predictions(1)
        assert (first["lead_id"], first["lead_version"]) == (lead_id, 3)
        assert not {"numbers.gpa", "categories.country"} & set(first["imputed"])
        # The same lead, read from Postgres as of the same moment.
        stage.send(
            [
                stage.change(
                    lead_id,
                    lead=None,
                    occurred_at=first["occurred_at"],
                    change_type="RESCORE",
                    lead_version=3,
                )
            ]
        )
        again = predictions(2)[1]
        same = first.keys() - PROVENANCE
        assert {name: again[name] for name in same} == {name: first[name] for name in same}
        # The verb, which asks for all leads that are not deleted. The model learned inputs that no
        # road of this CRM brings, so no score would lose them.
        assert main(["rescore", "--all"]) == 0
        third = predictions(3)[2]
        assert (third["lead_version"], third["imputed"]) == (3, first["imputed"])
        # An own field is an input: another value is another score.
        crm.do(f"update {crm.contacts} set gpa = 1.0, country_code = 'FR', row_version = 4")
        assert predictions(4)[3]["probability"] < first["probability"]
        crm.do(f"update {crm.contacts} set gpa = 4.0, updated_by = 'leadstream', row_version = 5")
        until(lambda: consumer.accounting()["ignored"] == 1, "the write-back is ignored")
        crm.do(
            f"insert into {crm.applications} (contact_id, state, submitted_on)"
            " values (%s, 'submitted', '2026-02-01')",
            lead_id,
        )
        [outcome] = stage.read(stage.topics.lead_outcomes, 1)
        decoded = Reader("LeadOutcome").decode(outcome.value() or b"")
        assert (decoded["lead_id"], decoded["decided_at"]) == (lead_id, 1_769_986_799_999)
        crm.do(f"update {crm.contacts} set deleted_at = now(), row_version = 6")
        records = stage.read(stage.topics.lead_predictions, 5)
        assert [each.key() for each in records if each.value() is None] == [lead_id.encode()]
        assert not stage.read(stage.topics.dead_letters, 0)
        # Another producer brings more than Postgres has.
        stage.send([stage.change("elsewhere")])
        stage.read(stage.topics.lead_predictions, 6)
        assert main(["rescore", "elsewhere"]) == 1
        assert "1 of these leads would lose a score that was made with" in capsys.readouterr().err
        assert main(["rescore", lead_id]) == 0
        assert relay.stop() == 0
        assert consumer.stop() == 0
