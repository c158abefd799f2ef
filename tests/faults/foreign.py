"""Producers that are not the CRM: transactions left open or aborted, and batches of odd kinds."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from confluent_kafka import KafkaException, Producer

from leadstream.errors import Reason
from leadstream.log import SILENT
from tests.faults.history import Headers, Intent, RecordKind
from tests.faults.schedule import PARTITIONS
from tests.faults.traffic import TRUTH
from tests.integration.running import Stage, until

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
# Larger than a change may be, and than a letter of these runs.
ZEROS = bytes(1_500_000)
CALL_SECONDS = 30


class ForeignProducer:
    """Sends changes of leads of its own to the input, each with its truth."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._topic = stage.topics.lead_changes

    @contextmanager
    def transaction(self, *, commits: bool) -> Iterator[None]:
        """Changes in a transaction that is open as long as the block, and then ends."""
        producer = self._producer("lz4", **{"transactional.id": f"foreign-{uuid.uuid4()}"})
        _often(lambda: producer.init_transactions(CALL_SECONDS))
        producer.begin_transaction()
        for _ in range(PARTITIONS):
            self._send(producer, *self._change())
        try:
            yield
        finally:
            _end(producer, commits=commits)

    def odd_batches(self) -> None:
        """Batches of every codec, large ones that fit compressed, and one without a key."""
        for codec in CODECS:
            producer = self._producer(codec, **{"linger.ms": 100})
            for _ in range(PARTITIONS):
                self._send(producer, *self._change())
            if codec != "none":
                intent = Intent(RecordKind.POISON, reason=Reason.OVERSIZED.value)
                self._send(producer, b"huge", ZEROS, intent)
            intent = Intent(RecordKind.POISON, reason=Reason.UNKNOWN_FRAMING.value)
            self._send(producer, b"junk", b"\x07" * 20_000, intent)
            self._send(producer, None, self._change()[1], _no_key())
            _flush(producer)

    def seal(self) -> None:
        """Let every partition end with a change, and not with the marker of a transaction."""
        producer = self._producer("none")
        for partition in range(PARTITIONS):
            self._send(producer, *self._change(), partition=partition)
        _flush(producer)

    def _change(self) -> tuple[bytes, bytes | None, Intent]:
        lead = f"foreign_{uuid.uuid4().hex[:12]}"
        change = self._stage.change(lead, lead_version=1)
        return lead.encode(), change.value, Intent(RecordKind.CHANGE, lead, 1)

    def _send(
        self,
        producer: Producer,
        key: bytes | None,
        value: bytes | None,
        intent: Intent,
        partition: int = -1,
    ) -> None:
        truth: Headers = ((TRUTH, json.dumps(asdict(intent)).encode()),)
        producer.produce(self._topic, value, key, partition=partition, headers=list(truth))

    def _producer(self, codec: str, **more: Any) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._stage.bootstrap,
                "enable.idempotence": True,
                "compression.type": codec,
                "message.max.bytes": 8_000_000,
                "message.timeout.ms": 60_000,
                **more,
            },
            logger=SILENT,
        )


def _no_key() -> Intent:
    return Intent(RecordKind.POISON, reason=Reason.INVALID_EVENT.value)


def _flush(producer: Producer) -> None:
    until(lambda: producer.flush(1) == 0, "a foreign producer's records are acknowledged", 120)


def _often(call: Callable[[], object]) -> None:
    """Repeat a call while the brokers are away."""

    def done() -> bool:
        try:
            call()
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            return False
        return True

    until(done, "a foreign producer is served", 120)


def _end(producer: Producer, *, commits: bool) -> None:
    """End a transaction, which the brokers may have aborted themselves meanwhile."""
    try:
        if commits:
            _often(lambda: producer.flush(CALL_SECONDS))
            _often(lambda: producer.commit_transaction(CALL_SECONDS))
            return
    except KafkaException as error:
        if error.args[0].fatal() or not error.args[0].txn_requires_abort():
            return  # its time-out aborts it
    try:
        _often(lambda: producer.abort_transaction(CALL_SECONDS))
    except KafkaException:
        return
