"""The read-only view of a cluster: addresses, partitions, committed offsets and a few records."""

import re
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its __all__
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from leadstream.deadline import Deadline
from leadstream.errors import Transient, UserError, error_text
from leadstream.kafka.batch import Message
from leadstream.kafka.config import client_config, producer_config
from leadstream.kafka.topic_reader import TopicReader
from leadstream.kafka.transaction import retry
from leadstream.local.process import accepts_connections
from leadstream.log import client_logger
from leadstream.settings import Settings

ASK_SECONDS = 5.0
RETRY_SECONDS = 0.2
# A new cluster makes its internal topics at the first question to a group, for as long as this.
COORDINATOR_SECONDS = 30.0
_NOT_YET = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError._WAIT_COORD,
    KafkaError._TIMED_OUT,
    KafkaError.REQUEST_TIMED_OUT,
}
# The start of an error of librdkafka about a broker whose id and name are known.
_NAMED = re.compile(r"(?:\w+://)?(\S+:\d+)/\d+: ")


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition: its first offset, its end, and the committed offset of the group, or None."""

    topic: str
    partition: int
    first: int
    end: int
    committed: int | None

    @property
    def next_offset(self) -> int:
        """Return the next offset that the group reads."""
        return self.first if self.committed is None else self.committed

    def at_offset(self, offset: int) -> TopicPartition:
        """Return an offset of the partition."""
        return TopicPartition(self.topic, self.partition, offset)


@dataclass(frozen=True, slots=True)
class DoctorCluster:
    """The brokers that answer, and their topics with the number of partitions."""

    settings: Settings
    admin: AdminClient
    brokers: list[str]
    partitions: dict[str, int]

    def members(self) -> int:
        """Return the number of processes in the group."""
        group = self._ask_coordinator(
            lambda: self.admin.describe_consumer_groups(
                [self.settings.group_id], request_timeout=ASK_SECONDS
            )
        )
        return len(group.members)

    def partition_states(self, topic: str) -> list[PartitionState]:
        """Return the state of each partition of a topic."""
        group = ConsumerGroupTopicPartitions(self.settings.group_id)
        answer = self._ask_coordinator(
            lambda: self.admin.list_consumer_group_offsets([group], request_timeout=ASK_SECONDS)
        )
        committed = {
            state.partition: state.offset
            for state in answer.topic_partitions or []
            if state.topic == topic and state.offset >= 0
        }
        first = self._offsets(topic, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        end = self._offsets(topic, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return [
            PartitionState(topic, number, first[number], end[number], committed.get(number))
            for number in sorted(first)
        ]

    def _ask_coordinator(self, ask: Callable[[], dict[str, Any]]) -> Any:
        """Return the answer about one group; wait while a new cluster makes its coordinator."""
        deadline = Deadline.after(COORDINATOR_SECONDS)
        while True:
            [future] = ask().values()
            try:
                return _result_of(future)
            except Transient as failure:
                cause = failure.__cause__
                known = isinstance(cause, KafkaException) and cause.args[0].code() in _NOT_YET
                if not known or deadline.expired:
                    raise
                self.admin.poll(RETRY_SECONDS)

    def _offsets(self, topic: str, which: OffsetSpec) -> dict[int, int]:
        wanted = {TopicPartition(topic, number): which for number in range(self.partitions[topic])}
        request = self.admin.list_offsets(wanted, request_timeout=ASK_SECONDS)
        return {state.partition: _result_of(future).offset for state, future in request.items()}

    def retention_seconds(self, topic: str) -> float:
        """Return how long a topic keeps its records; infinite without a limit."""
        [future] = self.admin.describe_configs(
            [ConfigResource(ResourceType.TOPIC, topic)], request_timeout=ASK_SECONDS
        ).values()
        kept = int(_result_of(future)["retention.ms"].value)
        return kept / 1000 if kept >= 0 else float("inf")

    def read(
        self, partitions_to_read: list[TopicPartition], limit: int | None = None
    ) -> list[Message]:
        """Return the committed records of partitions from these offsets, at most `limit` of each.

        The partitions are of one topic. The read ends after ASK_SECONDS, with the records up to
        then.
        """
        found: list[Message] = []
        if not partitions_to_read:
            return found
        topic = str(partitions_to_read[0].topic)
        reader = TopicReader(self.settings, topic, quiet=ASK_SECONDS)
        deadline = Deadline.after(ASK_SECONDS)
        starts = {each.partition: each.offset for each in partitions_to_read}
        with closing(reader), suppress(Transient):
            for message in reader.read(starts, limit=limit):
                found.append(message)
                if deadline.expired:
                    break
        return found

    def transactions(self) -> str | None:
        """Return why no transaction can begin, or None."""
        config = producer_config(self.settings, transactional=True) | {"logger": client_logger()}
        # Always the same id: the brokers remember every new one for days.
        producer = Producer(config | {"transactional.id": f"{self.settings.group_id}-run-doctor"})
        try:
            retry(
                lambda: producer.init_transactions(ASK_SECONDS),
                Deadline.after(COORDINATOR_SECONDS),
            )
        except KafkaException as error:
            return error_text(error)
        return None


def open_cluster(settings: Settings) -> DoctorCluster:
    """Return the cluster at KAFKA_BOOTSTRAP_SERVERS. Raises UserError if clients cannot use it."""
    errors: list[str] = []
    client = AdminClient(
        _config(settings) | {"error_cb": lambda error: errors.append(error_text(error))}
    )
    given = (settings.kafka_bootstrap_servers or "").split(",")
    if not (listening := [address.strip() for address in given if _is_listening(address.strip())]):
        raise UserError(
            f"nothing listens at {', '.join(given)}: check host and port in "
            "KAFKA_BOOTSTRAP_SERVERS, and that Kafka is up"
        )
    try:
        metadata = client.list_topics(timeout=ASK_SECONDS)
    except KafkaException as error:
        client.poll(0.1)
        # Clients use only the advertised name once they have learned it.
        if misnamed := {
            found[1]
            for each in errors
            if (found := _NAMED.match(each)) and not _is_listening(found[1])
        }:
            raise _unreachable_error(listening, misnamed) from None
        raise UserError(
            f"something listens at {', '.join(listening)}, but does not answer as a broker "
            f"({errors[0] if errors else error_text(error)}): check that the port is for Kafka "
            "clients, LEADSTREAM_KAFKA_SECURITY_PROTOCOL and its settings (TLS, user, password)"
        ) from None
    named = sorted(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
    if unreachable := {address for address in named if not _is_listening(address)}:
        raise _unreachable_error(listening, unreachable)
    return DoctorCluster(
        settings,
        client,
        named,
        {name: len(topic.partitions) for name, topic in metadata.topics.items()},
    )


def _unreachable_error(listening: list[str], unreachable: set[str]) -> UserError:
    return UserError(
        f"{', '.join(listening)} answers, but advertises the brokers "
        f"{', '.join(sorted(unreachable))}, which this machine cannot reach. Clients connect to "
        "advertised addresses: set advertised.listeners to addresses that this machine can reach"
    )


def _is_listening(address: str) -> bool:
    """Return whether a program listens at host:port; Kafka's own port is the default."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    return (
        accepts_connections(host.strip("[]"), int(port), seconds=3)
        if port.isdigit()
        else accepts_connections(port, 9092, seconds=3)
    )


def _config(settings: Settings) -> dict[str, Any]:
    return client_config(settings) | {"logger": client_logger()}


def _result_of(future: Any) -> Any:
    """Return the result of a request. Raises Transient if it fails."""
    try:
        return future.result(2 * ASK_SECONDS)
    except KafkaException as error:
        raise Transient("brokers", error_text(error)) from error
