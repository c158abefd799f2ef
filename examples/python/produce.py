"""Sends lead changes in JSON with confluent-kafka alone: `python produce.py`.

Environment: KAFKA_BOOTSTRAP_SERVERS, TOPIC (crm.lead-changes by default). Prints one line for each
record: `lead id<tab>what was sent`.
"""

import json
import os
import uuid
from datetime import UTC, datetime

from confluent_kafka import Producer

TOPIC = os.environ.get("TOPIC", "crm.lead-changes")
HEADERS = {"content-type": "application/json"}


def change(lead_id: str, change_type: str, version: int, lead: dict | None) -> dict:
    """A change that was committed to the CRM just now."""
    return {
        # A change that is sent again after a failure keeps its id.
        "event_id": str(uuid.uuid4()),
        "lead_id": lead_id,
        "change_type": change_type,
        "occurred_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "lead_version": version,
        "lead": lead,
    }


def main() -> None:
    producer = Producer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "enable.idempotence": True,  # a retry neither repeats a record nor changes the order
            # The choice of Java, kafkajs and franz-go: programs that send changes of one lead must
            # agree on its partition.
            "partitioner": "murmur2_random",
        }
    )
    failures = []

    def send(lead_id: str, value: bytes | None, what: str) -> None:
        # The key is the lead id: all changes of a lead then keep their order.
        producer.produce(
            TOPIC,
            key=lead_id,
            value=value,
            headers=HEADERS,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
        print(lead_id, what, sep="\t")

    lead = {
        "created_at": "2026-01-30T08:15:00Z",
        "lead_score": 41.5,
        "touchpoint_count": 1,
        "status": "new",
        "numbers": {"gpa": 3.5},  # fields of this CRM's own
        "categories": {"country": "FR"},
    }
    created = change("ada", "CREATED", 1, lead)
    updated = change("ada", "UPDATED", 2, lead | {"status": "contacted", "touchpoint_count": 2})
    for each in (created, updated):
        send("ada", json.dumps(each).encode(), each["change_type"])
    send("eve", None, "erased")  # a null value erases a lead
    producer.flush()
    if failures:
        raise SystemExit(str(failures[0]))


if __name__ == "__main__":
    main()
