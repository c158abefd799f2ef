"""What goes in and what comes out: one process, a real broker and a real CRM."""

import json
import uuid
from typing import Any

import pytest

from leadstream.kafka.batch import Output
from schemas.codec import Reader
from tests.integration.conftest import ServedConsumer
from tests.integration.running import DISPOSITIONS, until
from tests.unit.pipelines import STATE

pytestmark = [pytest.mark.broker, pytest.mark.postgres]


def new_id() -> str:
    return f"lead-{uuid.uuid4().hex}"


def outputs(
    served: ServedConsumer, *lead_ids: str, count: int
) -> list[tuple[str, dict[str, Any] | None]]:
    """What the predictions topic has for these leads, once there are `count` records of them."""
    reader = Reader("LeadPrediction")

    def found() -> list[tuple[str, dict[str, Any] | None]]:
        records = [
            (key.decode(), None if (value := record.value()) is None else reader.decode(value))
            for record in served.stage.read(served.stage.topics.lead_predictions, 0)
            if (key := record.key()) is not None and key.decode() in lead_ids
        ]
        return records if len(records) >= count else []

    found_: list[tuple[str, dict[str, Any] | None]] = until(found, f"{count} records")
    assert len(found_) == count
    return found_


def predictions(served: ServedConsumer, *lead_ids: str, count: int) -> list[dict[str, Any]]:
    return [record for _, record in outputs(served, *lead_ids, count=count) if record is not None]


def test_a_lead_whose_state_is_in_the_crm_must_score_as_if_its_change_had_carried_it(
    served: ServedConsumer,
) -> None:
    with_state, without_state = new_id(), new_id()
    served.crm.connection.execute(
        "insert into programmes values (901, 'MBA') on conflict do nothing"
    )
    served.crm.connection.execute(
        "insert into campuses values (901, 'Berlin') on conflict do nothing"
    )
    served.crm.add(without_state, programme_id=901, campus_id=901, lead_version=9)
    served.stage.send(
        [served.stage.change(with_state), served.stage.change(without_state, lead=None)]
    )
    ours = {
        record["lead_id"]: record
        for record in predictions(served, with_state, without_state, count=2)
    }
    own = (
        "prediction_id",
        "lead_id",
        "event_id",
        "scored_at",
        "source_partition",
        "source_offset",
        "lead_version",
    )
    assert {k: v for k, v in ours[with_state].items() if k not in own} == {
        k: v for k, v in ours[without_state].items() if k not in own
    }
    assert ours[without_state]["lead_version"] == 9
    assert ours[with_state]["feature_coverage"] == 1.0
    assert ours[with_state]["source_topic"] == served.stage.topics.lead_changes


def test_an_erased_lead_must_leave_a_null_in_the_table_of_scores(served: ServedConsumer) -> None:
    null, deleted = new_id(), new_id()
    served.stage.send([served.stage.change(null), served.stage.change(deleted)])
    outputs(served, null, deleted, count=2)
    served.stage.send(
        [
            Output(served.stage.topics.lead_changes, null.encode(), None),
            served.stage.change(deleted, change_type="DELETED", lead=None, lead_version=2),
        ]
    )
    last = dict(outputs(served, null, deleted, count=4))
    assert last == {null: None, deleted: None}


def test_changes_of_a_lead_that_arrive_together_are_answered_by_the_newest_and_all_are_counted(
    served: ServedConsumer,
) -> None:
    lead = new_id()
    before = served.process.accounting()
    served.stage.send(
        [served.stage.change(lead, event_id=f"{lead} {i}", lead_version=i) for i in range(1, 9)]
    )
    until(
        lambda: sum(served.process.accounting().values()) == sum(before.values()) + 8,
        "all are counted",
    )
    ours = predictions(served, lead, count=served.process.accounting()["scored"] - before["scored"])
    assert ours[-1]["lead_version"] == 8
    assert sum(1 + record["coalesced_changes"] for record in ours) == 8
    assert len(ours) < 8, "nothing was coalesced"


def test_a_score_written_back_must_not_start_a_new_rescoring(served: ServedConsumer) -> None:
    lead, after = new_id(), new_id()
    ignored = served.process.accounting()["ignored"]
    served.stage.send([served.stage.change(lead, origin="leadstream")])
    until(lambda: served.process.accounting()["ignored"] == ignored + 1, "it is counted as ignored")
    served.stage.send([served.stage.change(after)])
    assert [key for key, _ in outputs(served, lead, after, count=1)] == [after]


def test_every_change_of_a_mixed_batch_has_one_fate_in_the_metrics(served: ServedConsumer) -> None:
    before = served.process.accounting()
    lead, junk = new_id(), Output(served.stage.topics.lead_changes, b"lead", b"{}")
    mixture = [
        *(served.stage.change(f"{lead}-{i}") for i in range(50)),
        junk,
        Output(served.stage.topics.lead_changes, f"{lead}-0".encode(), None),
        served.stage.change(f"{lead}-1", origin="leadstream"),
        served.stage.change(f"{lead}-2", lead=None),
    ]
    served.stage.send(mixture)
    until(
        lambda: sum(served.process.accounting().values()) == sum(before.values()) + len(mixture),
        "all are consumed",
    )
    after = served.process.accounting()
    gained = {disposition: after[disposition] - before[disposition] for disposition in DISPOSITIONS}
    assert gained["scored"] + gained["coalesced"] == 50
    assert (gained["dead_lettered"], gained["erased"], gained["ignored"]) == (2, 1, 1)
    assert (
        served.process.metric("dead_letters_total", topic=junk.topic, reason="UNKNOWN_FRAMING") >= 1
    )


@pytest.mark.parametrize(
    "unusable",
    [float("nan"), float("inf"), float("-inf"), -1.0, 1e16],
)
def test_a_number_that_cannot_be_used_is_named_and_the_lead_still_predicted(
    served: ServedConsumer, unusable: float
) -> None:
    lead = new_id()
    served.stage.send([served.stage.change(lead, {"lead_score": unusable})])
    [record] = predictions(served, lead, count=1)
    assert record["imputed"] == ["lead_score"]


def test_a_request_in_any_of_the_three_forms_is_answered_once_with_results_and_predictions(
    served: ServedConsumer,
) -> None:
    leads, unknown = [new_id() for _ in range(4)], new_id()
    served.crm.add(*leads)
    asked = [leads[1], unknown, leads[0], leads[1]]
    names = [uuid.uuid4().hex for _ in range(3)]
    topic = served.stage.topics.rescore_requests
    served.stage.send(
        [
            served.stage.request(names[0], asked),
            Output(topic, names[1].encode(), json.dumps(asked).encode()),
            Output(
                topic,
                None,
                json.dumps({"request_id": names[2], "lead_ids": [*asked, 5, ""]}).encode(),
            ),
        ]
    )
    ours = predictions(served, *leads, count=6)
    results = {r["request_id"]: r for r in served.stage.results(3) if r["request_id"] in names}
    for name in names:
        result = results[name]
        assert [p["lead_id"] for p in result["predictions"]] == [leads[1], leads[0]]
        errors = [(error["lead_id"], error["code"]) for error in result["errors"]]
        malformed = [("5", "INVALID_ID"), ("", "INVALID_ID")] if name == names[2] else []
        assert errors == [(unknown, "LEAD_NOT_FOUND"), *malformed]
        assert result["total_processed"] == 3 + len(malformed)
        assert result["successful_predictions"] == 2
        answers = {p["lead_id"]: p["probability"] for p in result["predictions"]}
        assert answers == {p["lead_id"]: p["probability"] for p in ours if p["event_id"] == name}
        assert {p["change_type"] for p in ours if p["event_id"] == name} == {"RESCORE"}


def test_no_lead_id_and_no_personal_data_ever_stands_in_the_log_or_the_metrics(
    served: ServedConsumer,
) -> None:
    lead = new_id()
    served.crm.add(lead, first_name="Zaphod", email="zaphod@example.com", phone="+1 202 555 0199")
    served.stage.send(
        [served.stage.change(lead, lead=None), served.stage.change(lead, {"created_at": -1})]
    )
    predictions(served, lead, count=1)
    everything = "\n".join(served.process.lines()) + served.process.get("/metrics")[1].decode()
    for secret in (lead, "Zaphod", "zaphod@example.com", "555 0199", STATE["programme_name"]):
        assert secret not in everything
