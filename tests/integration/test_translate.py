"""Change events of another system as a CRM meets them: lead changes under their leads' ids, once,
or dead letters.
"""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

# not in its __all__
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from leadstream.kafka.batch import Output
from leadstream.local.broker import Broker
from schemas.codec import Reader
from tests.integration.running import QUICK, Stage, headers_of
from tests.raw_records import send_raw
from tests.unit.test_schemas_foreign import DONE, MESSAGES, ROW, reported

pytestmark = pytest.mark.broker
_CHANGE = Reader("LeadChanged")


@pytest.fixture
def stage(kafka: Broker, tmp_path: Path) -> Stage:
    stage = Stage.on(kafka.bootstrap, tmp_path, "unused")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.create_topics([NewTopic(_foreign(stage), 1, 1)]).values():
        future.result(30)
    stage.read(_foreign(stage), 0)
    return stage


def _foreign(stage: Stage) -> str:
    return f"foreign.{stage.topics.lead_changes}"


def test_what_debezium_wrote_becomes_lead_changes_and_what_is_none_a_letter(stage: Stage) -> None:
    sent = [(m["key"].encode(), m["value"] and m["value"].encode()) for m in MESSAGES["schema"]]
    stage.send(Output(_foreign(stage), key, value) for key, value in [*sent, (b"junk", b"junk")])
    with stage.running(
        "translate", "--from", _foreign(stage), "--format", "debezium", **QUICK
    ) as process:
        messages = stage.read(stage.topics.lead_changes, 6)
        [letter] = stage.letters(1)
        dispositions = {
            disposition: process.metric("translate_records_total", fate=disposition)
            for disposition in ("translated", "unchanged")
        }
        assert process.stop() == 0
    changes = [_CHANGE.decode(message.value() or b"") for message in messages]
    assert Counter(map(reported, changes)) == Counter([*DONE, ("ada", "DELETED", None, None, 0)])
    assert all(
        m.key() == change["lead_id"].encode() for m, change in zip(messages, changes, strict=True)
    )
    assert dict(letter.headers() or [])["dlq.reason"] == b"DECODE_FAILED"
    assert (letter.key(), letter.value()) == (b"junk", b"junk")
    assert dispositions == {"translated": 6, "unchanged": 1}


def test_a_translator_that_is_killed_translates_each_event_once(stage: Stage) -> None:
    rng = random.Random(5)
    ids = [f"e{number}" for number in range(3000)]
    attributes = {"specversion": "1.0", "source": "/crm", "type": "lead.updated"}
    content = [("content-type", b"application/cloudevents+json")]
    stage.send(
        Output(
            _foreign(stage),
            None,
            json.dumps(
                attributes | {"id": each, "data": ROW | {"id": f"lead_{rng.randrange(50)}"}}
            ).encode(),
            list(content),
        )
        for each in ids
    )
    command = ("translate", "--from", _foreign(stage), "--format", "cloudevents")
    with stage.running(*command, **QUICK, LEADSTREAM_BATCH_MAX_RECORDS="50") as process:
        process.event("batch")
        process.kill()
    with stage.running(*command, **QUICK) as process:
        messages = stage.read(stage.topics.lead_changes, len(ids))
        assert process.stop() == 0
    changes = [_CHANGE.decode(message.value() or b"") for message in messages]
    assert Counter(change["event_id"] for change in changes) == Counter(
        f"/crm#{each}" for each in ids
    )
    assert stage.letters(0) == []


SECRET = "ada@example.com"
ODD = [
    b"[]",
    b'"' + SECRET.encode() + b'"',
    b"[" * 100_000,
    b'{"op": [], "source": {"a": "' + SECRET.encode() + b'"}}',
    b'{"id": "a", "created_at": "' + SECRET.encode() + b'"}',
    b'{"id": "a", "lead_score": 1' + b"0" * 900_000 + b', "created_at": "x"}',
    b'{"id": "\\ud800"}',
]


def test_odd_events_and_names_of_headers_cost_their_own_event_and_no_value_is_logged(
    stage: Stage,
) -> None:
    good = json.dumps(ROW | {"source": "web", "programme_id": 7}).encode()
    headers = [(b"\xff\xfe", b"a"), (b"ce_id", b"b")]
    topic = _foreign(stage)
    for value in [good, *ODD, good]:
        send_raw(stage.bootstrap, topic, b"ada", value, headers)
    with stage.running(
        *("translate", "--from", topic, "--format", "debezium"),
        **QUICK,
        LEADSTREAM_DEAD_LETTER_MAX_RATIO="1",
        LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE="0",
    ) as process:
        changes = stage.read(stage.topics.lead_changes, 2)
        letters = stage.letters(len(ODD))
        assert process.stop() == 0
        logged = process.events("dead_letter")
        assert SECRET not in "\n".join(process.lines())
    assert [_CHANGE.decode(m.value() or b"")["lead"]["source"] for m in changes] == ["web", "web"]
    assert sorted(letter.value() or b"" for letter in letters) == sorted(ODD)
    assert all(("unreadable-header-name", b"a") in (m.headers() or []) for m in letters)
    places = [(line["topic"], line["partition"], line["offset"]) for line in logged]
    assert places == [(topic, 0, 1 + offset) for offset in range(len(ODD))]


def test_events_of_salesforce_become_a_change_for_each_record_and_own_fields_come_along(
    stage: Stage,
) -> None:
    header = {"entityName": "Lead", "changeType": "CREATE", "recordIds": ["00Q1", "00Q2"]}
    fields = {"CreatedDate": "2026-01-31T08:15:00Z", "Status": "Open", "GPA__c": 3.5}
    events = [
        {"ChangeEventHeader": header, **fields},
        {"ChangeEventHeader": header | {"changeType": "UPDATE", "changedFields": ["Status"]}},
        {"ChangeEventHeader": header | {"changeType": "DELETE", "recordIds": ["00Q2"]}},
    ]
    stage.send(Output(_foreign(stage), None, json.dumps(each).encode()) for each in events)
    arguments = ("--format", "salesforce", "--columns", "numbers.gpa=GPA__c")
    with stage.running("translate", "--from", _foreign(stage), *arguments, **QUICK) as process:
        messages = stage.read(stage.topics.lead_changes, 3)
        [letter] = stage.letters(1)
        assert process.stop() == 0
    changes = [_CHANGE.decode(message.value() or b"") for message in messages]
    assert sorted((each["lead_id"], each["change_type"]) for each in changes) == [
        ("00Q1", "CREATED"),
        ("00Q2", "CREATED"),
        ("00Q2", "DELETED"),
    ]
    states = [each["lead"] for each in changes if each["lead"]]
    assert [state["numbers"] for state in states] == [{"gpa": 3.5}] * 2
    message = headers_of(letter)["__connect.errors.exception.message"]
    assert "set DATABASE_URL" in message
