"""A cluster as the doctor looks at it: addresses, partitions, the group's place, a few records. Nothing is changed."""

import re
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import (
    Consumer,
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

from leadstream.errors import Transient, UserError
from leadstream.kafka.config import client_config, producer_config
from leadstream.local.process import answers
from leadstream.log import client_logger
from leadstream.settings import Settings

if TYPE_CHECKING:
    from leadstream.kafka.batch import Message

ASK_SECONDS = 5.0
# How librdkafka begins what it says of a broker that has told its id, and so its name.
_NAMED = re.compile(r"(?:\w+://)?(\S+:\d+)/\d+: ")


@dataclass(frozen=True, slots=True)
class Place:
    """A partition: its first offset, its end, and where the group stands in it, None where it never committed."""

    topic: str
    partition: int
    first: int
    end: int
    committed: int | None

    @property
    def stands(self) -> int:
        """The next offset that the group reads."""
        return self.first if self.committed is None else self.committed

    def at(self, offset: int) -> TopicPartition:
        """An offset of it."""
        return TopicPartition(self.topic, self.partition, offset)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Brokers that answer, and their topics with the number of partitions."""

    settings: Settings
    admin: AdminClient
    brokers: list[str]
    partitions: dict[str, int]

    def members(self) -> int:
        """How many processes are in the group."""
        [future] = self.admin.describe_consumer_groups(
            [self.settings.group_id], request_timeout=ASK_SECONDS
        ).values()
        return len(_asked(future).members)

    def places(self, topic: str) -> list[Place]:
        """Each partition of a topic, and where the group stands in it."""
        group = ConsumerGroupTopicPartitions(self.settings.group_id)
        [future] = self.admin.list_consumer_group_offsets(
            [group], request_timeout=ASK_SECONDS
        ).values()
        committed = {
            place.partition: place.offset
            for place in _asked(future).topic_partitions or []
            if place.topic == topic and place.offset >= 0
        }
        first = self._offsets(topic, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        end = self._offsets(topic, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return [
            Place(topic, number, first[number], end[number], committed.get(number))
            for number in sorted(first)
        ]

    def _offsets(self, topic: str, which: OffsetSpec) -> dict[int, int]:
        wanted = {TopicPartition(topic, number): which for number in range(self.partitions[topic])}
        asked = self.admin.list_offsets(wanted, request_timeout=ASK_SECONDS)
        return {place.partition: _asked(future).offset for place, future in asked.items()}

    def retention_seconds(self, topic: str) -> float:
        """How long a topic keeps its records; infinite where it does not limit that."""
        [future] = self.admin.describe_configs(
            [ConfigResource(ResourceType.TOPIC, topic)], request_timeout=ASK_SECONDS
        ).values()
        kept = int(_asked(future)["retention.ms"].value)
        return kept / 1000 if kept >= 0 else float("inf")

    def read(self, places: list[TopicPartition], most: int | None = None) -> "list[Message]":
        """The committed records of partitions from these offsets on, at most so many of each; what comes in time."""
        own = {
            "group.id": f"doctor-{uuid.uuid4()}",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
        consumer = Consumer(_config(self.settings) | own | {"fetch.wait.max.ms": 50})
        found: list[Any] = []
        count: Counter[int | None] = Counter()
        unread = {place.partition for place in places}
        deadline = time.monotonic() + ASK_SECONDS
        try:
            consumer.assign(places)
            while unread and time.monotonic() < deadline:
                for message in consumer.consume(500, 0.1):
                    partition, error = message.partition(), message.error()
                    if error is None and partition in unread:
                        found.append(message)
                        count[partition] += 1
                    if count[partition] == most or (
                        error is not None and error.code() == KafkaError._PARTITION_EOF
                    ):
                        unread.discard(partition)
        finally:
            consumer.close()
        return found

    def transactions(self) -> str | None:
        """Why no transaction can begin, or None."""
        config = producer_config(self.settings, transactional=True) | {"logger": client_logger()}
        # Always the same one, so that the brokers have no more to remember each time.
        producer = Producer(config | {"transactional.id": f"{self.settings.group_id}-doctor"})
        try:
            producer.init_transactions(ASK_SECONDS)
        except KafkaException as error:
            return str(error.args[0].str())
        return None


def open_cluster(settings: Settings) -> Cluster:
    """The cluster at KAFKA_BOOTSTRAP_SERVERS. Raises UserError with the reason where clients cannot work with it."""
    errors: list[str] = []
    client = AdminClient(_config(settings) | {"error_cb": lambda error: errors.append(error.str())})
    given = (settings.kafka_bootstrap_servers or "").split(",")
    if not (there := [address.strip() for address in given if _listens(address.strip())]):
        raise UserError(
            f"nothing listens at {', '.join(given)}: check host and port in KAFKA_BOOTSTRAP_SERVERS, "
            "and that Kafka is up"
        )
    try:
        metadata = client.list_topics(timeout=ASK_SECONDS)
    except KafkaException as error:
        client.poll(0.1)
        # A broker that told its name is from then on looked for under it, and under that alone.
        if misnamed := {
            found[1] for each in errors if (found := _NAMED.match(each)) and not _listens(found[1])
        }:
            raise _unreachable(there, misnamed) from None
        raise UserError(
            f"something listens at {', '.join(there)}, but does not answer as a broker "
            f"({errors[0] if errors else error.args[0].str()}): check that the port is that of Kafka's clients, and "
            "LEADSTREAM_KAFKA_SECURITY_PROTOCOL and what belongs to it (TLS, user, password)"
        ) from None
    named = sorted(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
    if lost := {address for address in named if not _listens(address)}:
        raise _unreachable(there, lost)
    return Cluster(
        settings,
        client,
        named,
        {name: len(topic.partitions) for name, topic in metadata.topics.items()},
    )


def _unreachable(there: list[str], lost: set[str]) -> UserError:
    return UserError(
        f"{', '.join(there)} answers, but names its brokers {', '.join(sorted(lost))}, out of reach from here, and "
        "clients go where the brokers say: set their advertised.listeners to addresses that this machine can reach"
    )


def _listens(address: str) -> bool:
    """Whether anything does at host:port, or at Kafka's own port where none is given."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    return (
        answers(host.strip("[]"), int(port), seconds=3)
        if port.isdigit()
        else answers(port, 9092, seconds=3)
    )


def _config(settings: Settings) -> dict[str, Any]:
    return client_config(settings) | {"logger": client_logger()}


def _asked(future: Any) -> Any:
    """The answer; raises Transient where there is none."""
    try:
        return future.result(2 * ASK_SECONDS)
    except KafkaException as error:
        raise Transient("brokers", error.args[0].str()) from error
