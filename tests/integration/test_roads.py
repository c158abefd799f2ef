"""One lead of a described CRM by every road: the prediction has the same bytes."""

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from consumer.run.postgres import PostgresLeads
from consumer.scoring.pipeline import Pipeline
from leadstream.kafka.batch import Output
from leadstream.local.postgres import Postgres
from producer.importer import ImportedRow, lead_change_of_row, read_rows
from producer.mapping import load_mapping
from producer.migrate import migrate
from producer.outbox import Outbox
from producer.outbox_records import lead_change_record
from producer.rescore import rescore_event
from schemas.codec import Reader, Writer
from schemas.description_file import read_document
from schemas.foreign_converters import CONVERTERS
from schemas.foreign_formats import ConversionOptions, ForeignFormat, ForeignMessage
from schemas.foreign_rows import parse_columns
from schemas.json_records import decode_json
from tests.fakes import FakeMessage
from tests.integration.described import ContactsCrm, contacts_crm
from tests.unit.pipelines import CHANGES, batch, pipeline

pytestmark = pytest.mark.postgres
# 2026-02-10, as all roads say: how a change was brought must not matter, and when it happened does.
AT = 1_770_681_600_000
PROVENANCE = {
    "event_id": "e",
    "change_type": "UPDATED",
    "occurred_at": AT,
    "lead_version": 4,
    "origin": "crm",
}
API_NAMES = {
    "created_at": "CreatedDate",
    "status": "Status",
    "source": "LeadSource",
    "touchpoint_count": "Touches__c",
    "numbers": {"gpa": "GPA__c"},
    "categories": {"country": "Country", "consent": "Consent__c"},
}


@pytest.fixture(scope="module")
def crm(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContactsCrm]:
    with contacts_crm(postgres.url, tmp_path_factory.mktemp("roads")) as found:
        migrate(found.url, description=found.description)
        yield found


class Roads:
    """The LeadChanged of one contact by each road."""

    def __init__(self, crm: ContactsCrm, folder: Path) -> None:
        self._crm, self._folder = crm, folder
        self.lead_id = crm.add(row_version=PROVENANCE["lead_version"])
        table = crm.connection.execute(
            f"select to_jsonb(c) from {crm.contacts} c where contact_uuid = %s".encode(),
            (self.lead_id,),
        ).fetchone()
        assert table is not None
        self.row: dict[str, Any] = table[0]

    def how(self, **more: Any) -> ConversionOptions:
        description = parse_columns("", read_document(self._crm.file), str(self._crm.file))
        return ConversionOptions(description, True, Reader("LeadChanged"), None, **more)

    def outbox(self) -> dict[str, Any]:
        with closing(Outbox(self._crm.url, self._crm.description)) as outbox:
            outbox.connect()
            [row] = [row for row in outbox.rows(0, 1_000) if row.lead_id == self.lead_id]
        return lead_change_record(row, self._crm.description)

    def exported(self) -> dict[str, Any]:
        path = self._folder / "contacts.csv"
        # An export has the label of a lookup.
        row = {**self.row, "source_id": "fair"}
        columns = {field.column for field in self._crm.description.fields} - {None}
        columns |= {"contact_uuid", "row_version"}
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, sorted(map(str, columns)), extrasaction="ignore")
            writer.writeheader()
            writer.writerow({name: str(v).lower() if v is True else v for name, v in row.items()})
        [found] = read_rows(path, load_mapping(self._crm.file))
        assert isinstance(found, ImportedRow)
        return lead_change_of_row(found)

    def debezium(self) -> dict[str, Any]:
        # Times without a zone as microseconds as if in UTC, a numeric as its unscaled bytes.
        local = 1_769_860_800_500_000
        row = {**self.row, "created_on": local, "gpa": {"scale": 2, "value": "AV4="}}
        event = {"op": "c", "source": {"ts_ms": AT}, "before": None, "after": row}
        return self._converted(ForeignFormat.DEBEZIUM, event, {}, self.how())

    def cloud_event(self) -> dict[str, Any]:
        event = {"specversion": "1.0", "id": "1", "source": "/crm", "type": "lead.updated"}
        headers = {"content-type": b"application/cloudevents+json"}
        return self._converted(
            ForeignFormat.CLOUDEVENTS, event | {"data": self.row}, headers, self.how()
        )

    def salesforce(self) -> dict[str, Any]:
        fields = {
            "CreatedDate": "2026-01-31T11:00:00.500Z",
            "Status": "open",
            "LeadSource": "fair",
            "Touches__c": 3.0,
            "GPA__c": 3.5,
            "Address": {"Country": "DE"},
            "Consent__c": True,
        }
        header = {"recordIds": [self.lead_id], "changeType": "CREATE", "commitTimestamp": AT}
        how = ConversionOptions(
            parse_columns("", {"lead": {"lead_id": "Id", **API_NAMES}}),
            True,
            Reader("LeadChanged"),
            None,
        )
        event = fields | {"ChangeEventHeader": header}
        return self._converted(ForeignFormat.SALESFORCE, event, {}, how)

    def rescored(self) -> dict[str, Any]:
        return rescore_event(self.lead_id, 4, event_id="r", now=AT)

    @staticmethod
    def _converted(
        kind: ForeignFormat,
        event: Mapping[str, Any],
        headers: dict[str, bytes],
        how: ConversionOptions,
    ) -> dict[str, Any]:
        message = ForeignMessage(None, json.dumps(event).encode(), headers, AT, "t-0-1")
        [record] = CONVERTERS[kind](message, how)
        return record


def scored(line: Pipeline, lead_id: str, value: bytes, headers: Any = None) -> list[Output]:
    """What the consumer publishes for a change at one place."""
    message = FakeMessage(CHANGES, 0, 7, lead_id.encode(), value, headers, AT)
    result = line.process(batch(message))
    assert result.letters == {}
    return result.outputs


def test_one_lead_has_the_same_prediction_by_every_road(
    crm: ContactsCrm, tmp_path: Path, model_store: str
) -> None:
    roads = Roads(crm, tmp_path)
    with closing(PostgresLeads(crm.url, crm.description)) as leads:
        line = pipeline(model_store, leads)  # type: ignore[arg-type]  # as the consumer has it
        records = {
            "outbox": roads.outbox(),
            "rescore": roads.rescored(),
            "import": roads.exported(),
            "debezium": roads.debezium(),
            "cloudevents": roads.cloud_event(),
            "salesforce": roads.salesforce(),
        }
        state = records["outbox"]["lead"]
        assert state is not None
        assert (state["source"], state["created_at"]) == ("fair", 1_769_857_200_500)
        assert (state["numbers"], state["categories"]) == (
            {"gpa": 3.5},
            {"country": "DE", "consent": "true"},
        )
        # What an event does not bring, the consumer reads: the name behind the key of the source.
        for name in ("rescore", "debezium", "cloudevents"):
            assert records[name]["lead"] is None, name
        for name in ("import", "salesforce"):
            assert records[name]["lead"] == state, name
        write = Writer("LeadChanged").encode
        found = {
            name: scored(line, roads.lead_id, write({**record, **PROVENANCE}))
            for name, record in records.items()
        }
        own = {**records["outbox"], **PROVENANCE}
        in_json = json.dumps(own).encode()
        assert decode_json("LeadChanged", in_json) == own
        found["json"] = scored(
            line, roads.lead_id, in_json, [("content-type", b"application/json")]
        )
    assert {name for name, outputs in found.items() if outputs != found["outbox"]} == set()


def test_events_without_a_lookup_bring_the_whole_state_by_every_road(
    crm: ContactsCrm, tmp_path: Path
) -> None:
    roads = Roads(crm, tmp_path)
    roads.row["source_id"] = None
    expected = {**roads.outbox()["lead"], "source": None}
    assert roads.debezium()["lead"] == expected
    assert roads.cloud_event()["lead"] == expected
