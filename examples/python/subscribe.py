"""Reads predictions with confluent-kafka and fastavro alone: `python subscribe.py [--once]`.

Environment: KAFKA_BOOTSTRAP_SERVERS, TOPIC, SCHEMAS (the folder schemas/ of Leadstream),
SCHEMA_REGISTRY_URL if there is one. Prints `lead id<tab>probability<tab>grade`, or `lead
id<tab>erased`.
"""

import io
import json
import os
import sys
import urllib.request
import uuid
from pathlib import Path

from confluent_kafka import Consumer, KafkaError
from fastavro import parse_schema, schemaless_reader
from fastavro.schema import fingerprint, to_parsing_canonical_form

SCHEMAS = Path(os.environ.get("SCHEMAS", Path(__file__).parents[2] / "schemas"))
REGISTRY = os.environ.get("SCHEMA_REGISTRY_URL")
TOPIC = os.environ.get("TOPIC", "crm.lead-predictions")

# What is read into: fields that a newer Leadstream adds are skipped, those that an older one lacks
# get their defaults.
reader_schema = parse_schema(json.loads((SCHEMAS / "lead_prediction.avsc").read_text()))
by_fingerprint = {}
for path in [SCHEMAS / "lead_prediction.avsc", *SCHEMAS.glob("released/*/lead_prediction.avsc")]:
    written = json.loads(path.read_text())
    mark = bytes.fromhex(fingerprint(to_parsing_canonical_form(written), "CRC-64-AVRO"))
    by_fingerprint[mark] = parse_schema(written)
by_id = {}


def decode(value: bytes) -> dict:
    """One prediction, in either framing."""
    if (
        value[:2] == b"\xc3\x01"
    ):  # Avro single object: the fingerprint of the writer's schema, 8 bytes
        writer_schema, body = by_fingerprint[value[2:10]], value[10:]
    elif value[:1] == b"\x00":  # Confluent: the id of the writer's schema in the registry, 4 bytes
        number, body = int.from_bytes(value[1:5], "big"), value[5:]
        if number not in by_id:
            with urllib.request.urlopen(f"{REGISTRY}/schemas/ids/{number}") as answer:
                by_id[number] = parse_schema(json.loads(json.load(answer)["schema"]))
        writer_schema = by_id[number]
    else:
        raise ValueError("neither of the two framings")
    return schemaless_reader(io.BytesIO(body), writer_schema, reader_schema)


def main(once: bool) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            # A table of all scores starts from the beginning each time; a service keeps its group's
            # name and commits.
            "group.id": f"example-{uuid.uuid4()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            # librdkafka's default; other clients must ask for it
            "isolation.level": "read_committed",
            "enable.partition.eof": once,
        }
    )
    unread = set(consumer.list_topics(TOPIC, timeout=30).topics[TOPIC].partitions)
    consumer.subscribe([TOPIC])
    while unread or not once:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            if message.error().code() != KafkaError._PARTITION_EOF:
                raise SystemExit(str(message.error()))
            unread.discard(message.partition())
        elif message.value() is None:
            print(message.key().decode(), "erased", sep="\t")
        else:
            prediction = decode(message.value())
            print(
                prediction["lead_id"],
                f"{prediction['probability']:.3f}",
                prediction["grade"],
                sep="\t",
                flush=True,
            )
    consumer.close()


if __name__ == "__main__":
    main("--once" in sys.argv)
